"""Shorthand for writing shape families: boxes, turned parts, balls, rings, with one random generator."""

import numpy as np

from core.data.parts import SUBTRACT, UNION, part

PALETTES = (
    ((0.80, 0.20, 0.18), (0.93, 0.87, 0.73), (0.20, 0.22, 0.28)),
    ((0.18, 0.42, 0.70), (0.90, 0.90, 0.92), (0.95, 0.73, 0.25)),
    ((0.45, 0.30, 0.18), (0.72, 0.53, 0.33), (0.88, 0.80, 0.65)),
    ((0.20, 0.50, 0.32), (0.60, 0.75, 0.42), (0.36, 0.25, 0.16)),
    ((0.16, 0.16, 0.18), (0.55, 0.57, 0.60), (0.85, 0.40, 0.15)),
    ((0.85, 0.55, 0.62), (0.55, 0.38, 0.62), (0.95, 0.92, 0.85)),
)


def turn(axis: str, degrees: float) -> np.ndarray:
    """Rotation whose rows are a part's axes after turning it about a world axis by ``degrees``. [3, 3]"""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    matrix = {
        "x": [[1, 0, 0], [0, c, -s], [0, s, c]],
        "y": [[c, 0, s], [0, 1, 0], [-s, 0, c]],
        "z": [[c, -s, 0], [s, c, 0], [0, 0, 1]],
    }[axis]
    return np.asarray(matrix, np.float32).T


ALONG = {"y": None, "x": turn("z", 90), "z": turn("x", 90)}


class Builder:
    """Collects the parts of one shape."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.parts: list[dict] = []
        palette = PALETTES[rng.integers(len(PALETTES))]
        wild = rng.random(3) < 0.35
        self.colors = [
            rng.random(3) if w else np.clip(np.add(c, rng.normal(0, 0.05, 3)), 0.02, 1)
            for w, c in zip(wild, palette, strict=True)
        ]
        if rng.random() < 0.35:  # many real objects have one colour
            self.colors = [self.colors[0]] * 3

    def u(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def count(self, low: int, high: int) -> int:
        """An integer from low to high, both included."""
        return int(self.rng.integers(low, high + 1))

    def add(self, center, half, *, color: int = 0, **settings) -> None:
        self.parts.append(part(center, half, color=self.colors[color], **settings))

    def box(self, center, half, *, edge: float | None = None, **settings) -> None:
        self.add(center, half, edge=self.u(0, 0.06) * min(half) if edge is None else edge, **settings)

    def rod(self, center, radius: float, half_length: float, axis: str = "y", *, edge: float = 0.0, **settings) -> None:
        """A cylinder; ``taper`` makes a cone, ``wall`` a tube, ``edge`` equal to the radius a capsule."""
        settings.setdefault("rotation", ALONG[axis])
        self.add(center, (radius, half_length, radius), round_section=True, edge=edge, **settings)

    def ball(self, center, radius: float, stretch=(1.0, 1.0, 1.0), **settings) -> None:
        self.add(center, (radius,) * 3, round_section=True, edge=radius, stretch=stretch, **settings)

    def ring(self, center, radius: float, thickness: float, axis: str = "y", **settings) -> None:
        """A torus whose outer radius is ``radius + thickness``."""
        settings.setdefault("rotation", ALONG[axis])
        half = (radius + thickness, thickness, radius + thickness)
        self.add(center, half, round_section=True, edge=thickness, wall=thickness, **settings)

    def beam(
        self, start, end, radius: float, *, square: bool = False, taper: float = 0.0, edge: float = 0.0, **settings
    ) -> None:
        """A rod from one point to another, thinner by ``taper`` at its end."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = end - start
        length = float(np.linalg.norm(axis)) + 1e-6
        y = axis / length
        helper = np.array([0.0, 0.0, 1.0]) if abs(y[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
        x = np.cross(y, helper)
        x /= np.linalg.norm(x)
        rotation = np.stack([x, y, np.cross(x, y)])
        half = (radius, length / 2, radius)
        middle = (start + end) / 2
        self.add(middle, half, round_section=not square, rotation=rotation, taper=taper, edge=edge, **settings)

    def carve(self, center, half, **settings) -> None:
        self.add(center, half, op=SUBTRACT, **settings)

    def hollow(self, center, radius: float, half_length: float, **settings) -> None:
        """Remove a round hole along y."""
        self.rod(center, radius, half_length, op=SUBTRACT, **settings)

    def lathe(
        self, radii: list[float], heights: list[float], *, blend: float = 0.02, color: int = 0, op: int = UNION
    ) -> None:
        """Stacked frusta through ``radii`` at ``heights`` (bottom to top)."""
        for low, high, r0, r1 in zip(heights[:-1], heights[1:], radii[:-1], radii[1:], strict=True):
            half = (high - low) / 2 + 0.004
            center = ((0, (low + high) / 2, 0), max(r0, 1e-3), half)
            self.rod(*center, taper=r0 - r1, blend=blend, color=color, op=op)

    def spin(self, degrees: float) -> None:
        """Turn the whole shape about the vertical."""
        matrix = turn("y", degrees).T
        for p in self.parts:
            p["center"] = (matrix @ p["center"]).astype(np.float32)
            p["rotation"] = (p["rotation"] @ matrix.T).astype(np.float32)
