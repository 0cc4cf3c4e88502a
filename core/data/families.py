"""Families of everyday solids in a canonical pose: Y up, front towards +Z, standing on their base.

Each family is a function of a ``Builder``: it draws its own proportions. ``TRAINED`` are used for training,
``LEFT_OUT`` never are; they measure how the model does on kinds of objects it has not seen.
"""

from collections.abc import Callable

import numpy as np

from core.data.builder import Builder
from core.data.families_compound import COMPOUND, COMPOUND_LEFT_OUT
from core.data.parts import SUBTRACT, UNION


def box(b: Builder) -> None:
    half = (b.u(0.2, 1), b.u(0.15, 1), b.u(0.2, 1))
    b.box((0, 0, 0), half, edge=b.u(0, 0.5) ** 2 * min(half), rotation=None)
    b.spin(b.u(-25, 25))


def ellipsoid(b: Builder) -> None:
    b.ball((0, 0, 0), 0.6, stretch=(b.u(0.5, 1.2), b.u(0.5, 1.2), b.u(0.5, 1.2)))
    b.spin(b.u(-30, 30))


def cylinder(b: Builder) -> None:
    r, h = b.u(0.2, 0.9), b.u(0.2, 1)
    axis = "yyxz"[b.count(0, 3)]
    b.rod((0, 0, 0), r, h, axis, edge=b.u(0, 0.5) ** 2 * min(r, h), wall=b.u(0.03, 0.12) if b.chance(0.25) else 0.0)


def cone(b: Builder) -> None:
    r = b.u(0.3, 0.8)
    b.rod((0, 0, 0), r, b.u(0.35, 1), taper=r * b.u(0.4, 1.0) * (1 if b.chance(0.8) else -0.7), edge=b.u(0, 0.03))


def capsule(b: Builder) -> None:
    r = b.u(0.15, 0.5)
    tilt = b.u(-40, 40)
    angle = np.radians(tilt)
    b.beam((-np.sin(angle), -np.cos(angle), 0), (np.sin(angle), np.cos(angle), 0), r, edge=r)


def ring(b: Builder) -> None:
    t = b.u(0.08, 0.35)
    b.ring((0, 0, 0), 0.9 - t, t, "yyzzx"[b.count(0, 4)])


def pyramid(b: Builder) -> None:
    w, d = b.u(0.35, 0.9), b.u(0.35, 0.9)
    b.box((0, 0, 0), (w, b.u(0.3, 0.9), d), taper=min(w, d) * b.u(0.5, 1.0), edge=b.u(0, 0.02))
    b.spin(b.u(-40, 40))


def vase(b: Builder) -> None:
    n = b.count(3, 5)
    heights = np.linspace(-1, 1, n + 1) + np.r_[0, b.rng.uniform(-0.1, 0.1, n - 1), 0]
    radii = b.rng.uniform(0.2, 0.65, n + 1)
    b.lathe(list(radii), list(heights), blend=b.u(0.02, 0.12))
    if b.chance(0.6):
        b.hollow((0, 1.0, 0), max(radii[-1] - 0.08, 0.06), b.u(0.1, 0.6), color=1)


def bottle(b: Builder) -> None:
    r, neck, h = b.u(0.28, 0.5), b.u(0.08, 0.18), b.u(0.35, 0.75)
    shoulder = b.u(0.1, 0.35)
    if b.chance(0.3):
        b.box((0, -1 + h, 0), (r, h, r * b.u(0.6, 1)), corner=0.1, edge=0.05)
    else:
        b.rod((0, -1 + h, 0), r, h, edge=b.u(0.02, 0.1))
    top = -1 + 2 * h
    b.rod((0, top + shoulder / 2 - 0.02, 0), r * 0.97, shoulder / 2 + 0.02, taper=r * 0.97 - neck, blend=0.06)
    b.rod((0, (top + 1) / 2, 0), neck, (1 - top) / 2, blend=0.05)
    b.rod((0, 1.0, 0), neck * b.u(1.05, 1.5), b.u(0.04, 0.12), color=1, edge=0.01)


def bowl(b: Builder) -> None:
    r, h, wall = b.u(0.6, 1), b.u(0.22, 0.5), b.u(0.04, 0.1)
    if b.chance(0.5):
        taper = -b.u(0.2, 0.5) * r
        base = r + taper
        b.rod((0, 0, 0), base, h, taper=taper, edge=0.01)
        b.rod((0, wall * 1.6, 0), base - wall, h, taper=taper, op=SUBTRACT, color=1)
    else:
        b.ball((0, h, 0), r, stretch=(1, 2 * h / r, 1))
        b.ball((0, h, 0), r - wall, stretch=(1, 2 * h / r, 1), op=SUBTRACT, color=1)
        b.carve((0, h + 1.0, 0), (2, 1.0, 2))
    if b.chance(0.5):
        b.rod((0, -h - 0.03, 0), r * b.u(0.3, 0.5), 0.07)


def mug(b: Builder) -> None:
    r, h, wall = b.u(0.35, 0.6), b.u(0.4, 0.8), b.u(0.04, 0.09)
    taper = b.u(-0.12, 0.1) if b.chance(0.5) else 0.0
    side = 1 if b.chance(0.8) else -1
    thick = b.u(0.05, 0.1)
    if b.chance(0.9):
        R = h * b.u(0.4, 0.62)
        center = (side * (r - taper / 2 + b.u(-0.02, 0.1)), b.u(-0.08, 0.08), 0)
        b.ring(center, R, thick, "z", stretch=(b.u(0.7, 1.0), 1, 1), color=0 if b.chance(0.7) else 1)
    b.rod((0, 0, 0), r, h, taper=taper, edge=b.u(0, 0.05), blend=b.u(0, 0.04))
    b.rod((0, wall * 2, 0), r - wall, h, taper=taper, op=SUBTRACT, color=1)


def goblet(b: Builder) -> None:
    r, stem = b.u(0.3, 0.55), b.u(0.04, 0.1)
    b.rod((0, -0.95, 0), b.u(0.3, 0.5), 0.06, taper=b.u(0, 0.1))
    b.rod((0, -0.5, 0), stem, 0.5, blend=0.06)
    b.rod((0, 0.45, 0), r * b.u(0.5, 1.0), 0.5, taper=-r * b.u(0.0, 0.5), blend=0.05, color=1, edge=0.03)
    b.hollow((0, 0.75, 0), r * 0.55, 0.5, taper=-r * 0.2)


def mushroom(b: Builder) -> None:
    r, h = b.u(0.5, 0.95), b.u(0.25, 0.5)
    b.rod((0, -0.45, 0), b.u(0.14, 0.32), 0.6, taper=b.u(-0.05, 0.08), color=1)
    b.ball((0, 0.1, 0), r, stretch=(1, 2 * h / r * 0.6, 1))
    b.carve((0, 0.1 - 0.5 - b.u(0.0, 0.1), 0), (2, 0.5, 2), color=1)
    b.rod((0, -0.35, 0), b.u(0.14, 0.3), 0.55, color=1, blend=0.05)


def snowman(b: Builder) -> None:
    y, r = -1.0, b.u(0.42, 0.6)
    for _ in range(b.count(2, 3)):
        b.ball((0, y + r, 0), r, color=0, blend=b.u(0, 0.05))
        y, r = y + 1.75 * r, r * b.u(0.65, 0.82)
    if b.chance(0.5):
        b.beam((0, y - 0.15, r), (0, y - 0.18, r + 0.35), 0.07, taper=0.06, color=2)
    if b.chance(0.5):
        b.rod((0, y + 0.1, 0), r * 0.9, 0.03, color=1)
        b.rod((0, y + 0.25, 0), r * 0.6, 0.17, color=1)


def dumbbell(b: Builder) -> None:
    r, w, bar = b.u(0.25, 0.5), b.u(0.1, 0.3), b.u(0.06, 0.16)
    for side in (-1, 1):
        if b.chance(0.5) if side == -1 else len(b.parts) == 1 and b.parts[0]["edge"] > r * 0.9:
            b.ball((side * (1 - w), 0, 0), r)
        else:
            b.rod((side * (1 - w), 0, 0), r, w, "x", edge=b.u(0, 0.08))
    b.rod((0, 0, 0), bar, 0.95, "x", color=1)
    b.spin(b.u(-30, 30))


def rocket(b: Builder) -> None:
    r, h, nose = b.u(0.18, 0.34), b.u(0.45, 0.65), b.u(0.3, 0.6)
    b.rod((0, 0, 0), r, h, edge=0.02)
    b.rod((0, h + nose / 2 - 0.02, 0), r, nose / 2, taper=r * b.u(0.8, 1), color=1)
    fins, size = b.count(3, 4), b.u(0.18, 0.35)
    for k in range(fins):
        angle = 2 * np.pi * k / fins + np.pi / 2
        out = np.array([np.cos(angle), 0, np.sin(angle)])
        b.beam(out * r * 0.6 + [0, -h + 0.25, 0], out * (r + size) + [0, -h - 0.15, 0], 0.06, square=True, color=2)
    if b.chance(0.6):
        b.rod((0, -h - 0.08, 0), r * 0.7, 0.12, taper=r * 0.15, color=2)


def letter(b: Builder) -> None:
    kind, t, d = "HTLEFIXUP+"[b.count(0, 9)], b.u(0.14, 0.28), b.u(0.12, 0.35)
    w = b.u(0.5, 0.8)
    bars = {
        "H": ((-w, 0, t, 1), (w, 0, t, 1), (0, 0, w, t)),
        "T": ((0, 0, t, 1), (0, 1 - t, w + t, t)),
        "L": ((-w, 0, t, 1), (0, -1 + t, w + t, t)),
        "E": ((-w, 0, t, 1), (0, -1 + t, w, t), (0, 0, w * 0.9, t), (0, 1 - t, w, t)),
        "F": ((-w, 0, t, 1), (-0.1, 0.05, w * 0.8, t), (0, 1 - t, w, t)),
        "I": ((0, 0, t, 1), (0, 1 - t, w * 0.7, t), (0, -1 + t, w * 0.7, t)),
        "X": ((0, 0, t, 1), (0, 0, 1, t)),
        "U": ((-w, 0, t, 1), (w, 0, t, 1), (0, -1 + t, w, t)),
        "P": ((-w, 0, t, 1), (0, 1 - t, w, t), (0, 0.0, w, t), (w, 0.5, t, 0.5)),
        "+": ((0, 0, t, 1), (0, 0, w + t, t)),
    }[kind]
    edge = b.u(0, 0.05)
    for x, y, hx, hy in bars:
        b.box((x, y, 0), (hx, hy, d), edge=edge)
    b.spin(b.u(-20, 20))


def arch(b: Builder) -> None:
    w, h, d, t = b.u(0.6, 0.95), b.u(0.6, 0.95), b.u(0.2, 0.45), b.u(0.15, 0.3)
    b.box((0, 0, 0), (w, h, d))
    inner = w - t
    if b.chance(0.6):
        top = h - t - inner
        b.carve((0, (top - h) / 2 - 0.1, 0), (inner, max((top + h) / 2 + 0.1, 0.05), d * 1.2))
        b.rod((0, top, 0), inner, d * 1.2, "z", op=SUBTRACT)
    else:
        b.carve((0, -t - 0.05, 0), (inner, h, d * 1.2))
    if b.chance(0.4):
        b.box((0, h + 0.06, 0), (w * 1.1, 0.08, d * 1.1), color=1)


def stacked(b: Builder) -> None:
    """Boxes and cylinders piled on each other."""
    y = -1.0
    for k in range(b.count(2, 4)):
        h, r = b.u(0.12, 0.4), b.u(0.25, 0.8)
        if b.chance(0.5):
            b.box((b.u(-0.1, 0.1), y + h, 0), (r, h, b.u(0.25, 0.8)), color=k % 3)
        else:
            b.rod((b.u(-0.1, 0.1), y + h, 0), r, h, color=k % 3, taper=b.u(-0.05, 0.4) * r)
        y += 2 * h - 0.01


def csg(b: Builder) -> None:
    """A few random solids joined or cut, sharply or smoothly."""
    blend = b.u(0.05, 0.25) if b.chance(0.5) else 0.0
    for k in range(b.count(2, 4)):
        op = SUBTRACT if k and b.chance(0.35) else UNION
        center = b.rng.uniform(-0.45, 0.45, 3)
        size = b.rng.uniform(0.25, 0.6, 3)
        settings = {"op": op, "blend": blend, "color": k % 3}
        kind = b.count(0, 3)
        if kind == 0:
            b.box(center, size, **settings)
        elif kind == 1:
            b.ball(center, float(size[0]), **settings)
        elif kind == 2:
            b.rod(center, float(size[0]) * 0.8, float(size[1]), "xyz"[b.count(0, 2)], **settings)
        else:
            b.rod(center, float(size[0]), float(size[1]), taper=float(size[0]) * 0.8, **settings)


SIMPLE: tuple[Callable[[Builder], None], ...] = (
    box, ellipsoid, cylinder, cone, capsule, ring, pyramid, vase, bottle, bowl, mug, goblet, mushroom,
    snowman, dumbbell, rocket, letter, arch, stacked, csg,
)  # fmt: skip

TRAINED = {family.__name__: family for family in (*SIMPLE, *COMPOUND)}
LEFT_OUT = {family.__name__: family for family in COMPOUND_LEFT_OUT}


def make_shape(family: str, rng: np.random.Generator) -> list[dict]:
    """Parts of one random member of a family, trained or left out."""
    builder = Builder(rng)
    (TRAINED.get(family) or LEFT_OUT[family])(builder)
    return builder.parts
