"""Solids assembled from one parametric part, as a signed distance that is cheap to evaluate in batches.

Every part is the same solid with different numbers: a rounded rectangle in the xz plane, extended along y
with a linear taper, rounded at its rims, optionally hollow. Box, cylinder, cone, pyramid, capsule, sphere,
ring, tube and ellipsoid are all settings of it, so that a whole batch needs one formula and no branches.

Letters: B shapes, P parts of a shape (padded), M points of a shape. Lengths are in world units, [-1, 1].
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

UNION, SUBTRACT, SKIP = 0, 1, 2
_FAR = 1e3


@dataclass
class Parts:
    """Packed parts of a batch of shapes; a part with ``op == SKIP`` is padding."""

    op: Tensor  # [B, P] int64: UNION, SUBTRACT or SKIP, applied in order
    blend: Tensor  # [B, P] width of the smooth union or subtraction, 0 for sharp
    center: Tensor  # [B, P, 3]
    rotation: Tensor  # [B, P, 3, 3], rows are the part's axes in the world
    half: Tensor  # [B, P, 3] half sizes before stretching
    corner: Tensor  # [B, P] radius of the section's corners; the half width makes a circle
    taper: Tensor  # [B, P] how far the section's outline moves inwards from bottom to top
    edge: Tensor  # [B, P] rounding of the rims
    wall: Tensor  # [B, P] half thickness of a hollow part's wall, 0 for solid
    stretch: Tensor  # [B, P, 3] anisotropic scale, applied last
    color: Tensor  # [B, P, 3] in 0..1

    def __len__(self) -> int:
        return self.op.shape[0]

    def map(self, change) -> "Parts":
        """The same shapes with ``change(tensor)`` applied to every field."""
        return Parts(**{f.name: change(getattr(self, f.name)) for f in fields(self)})

    def to(self, device: torch.device | str) -> "Parts":
        return self.map(lambda x: x.to(device))

    def rows(self, start: int, stop: int) -> "Parts":
        """Shapes ``start`` to ``stop`` (exclusive)."""
        return self.map(lambda x: x[start:stop])

    def trimmed(self) -> "Parts":
        """Without the columns that are padding in every shape."""
        used = int((self.op != SKIP).any(0).sum())
        return self.map(lambda x: x[:, : max(used, 1)])


def part(
    center=(0.0, 0.0, 0.0),
    half=(0.5, 0.5, 0.5),
    *,
    round_section: bool = False,
    corner: float = 0.0,
    taper: float = 0.0,
    edge: float = 0.0,
    wall: float = 0.0,
    rotation: np.ndarray | None = None,
    stretch=(1.0, 1.0, 1.0),
    op: int = UNION,
    blend: float = 0.0,
    color=None,
) -> dict:
    """One part as a dictionary of numpy values, ready for ``pack``."""
    half = np.maximum(np.asarray(half, np.float32), 1e-3)
    corner = float(min(half[0], half[2])) if round_section else float(min(corner, half[0], half[2]))
    return {
        "op": op,
        "blend": blend,
        "center": np.asarray(center, np.float32),
        "rotation": np.eye(3, dtype=np.float32) if rotation is None else np.asarray(rotation, np.float32),
        "half": half,
        "corner": corner,
        "taper": float(taper),
        "edge": float(min(edge, half.min())),
        "wall": float(wall),
        "stretch": np.asarray(stretch, np.float32),
        "color": None if color is None else np.asarray(color, np.float32),
    }


def pack(shapes: list[list[dict]], max_parts: int | None = None) -> Parts:
    """Pad lists of parts to one batch. Parts without a colour become grey."""
    width = max_parts or max(len(s) for s in shapes)
    assert all(0 < len(s) <= width for s in shapes), f"a shape has no parts or more than {width}"
    blank = part(half=(0.01, 0.01, 0.01), op=SKIP)
    rows = [s + [blank] * (width - len(s)) for s in shapes]

    def field(name: str) -> Tensor:
        grey = np.full(3, 0.6, np.float32)
        values = [[grey if p[name] is None else p[name] for p in row] for row in rows]
        return torch.from_numpy(np.asarray(values, dtype=np.int64 if name == "op" else np.float32))

    return Parts(**{f.name: field(f.name) for f in fields(Parts)})


def join_part(
    total: Tensor,  # [B, M] distance of the parts before
    points: Tensor,  # [B, M, 3]
    op: Tensor,  # [B, 1], and so on: one column of ``Parts``
    blend: Tensor,
    center: Tensor,  # [B, 3]
    rotation: Tensor,  # [B, 3, 3]
    half: Tensor,  # [B, 3]
    corner: Tensor,
    taper: Tensor,
    edge: Tensor,
    wall: Tensor,
    stretch: Tensor,  # [B, 3]
) -> tuple[Tensor, Tensor]:
    """Join one more part: the new total [B, M] and the part's own distance, exact on its surface."""
    offset = points - center[:, None]
    x, y, z = (
        (offset[..., 0] * row[:, 0, None] + offset[..., 1] * row[:, 1, None] + offset[..., 2] * row[:, 2, None])
        / stretch[:, axis, None]
        for axis, row in enumerate(rotation.unbind(1))
    )
    half_y = half[:, 1, None]
    a, b = x.abs() - (half[:, 0, None] - corner), z.abs() - (half[:, 2, None] - corner)
    outline = _length(a.clamp_min(0), b.clamp_min(0)) + torch.maximum(a, b).clamp_max(0) - corner
    slope = taper / (2 * half_y)
    side = (outline + slope * (y + half_y)) * torch.rsqrt(1 + slope * slope)
    side = torch.where(wall > 0, (side + wall).abs() - wall, side) + edge
    cap = y.abs() - half_y + edge
    own = _length(side.clamp_min(0), cap.clamp_min(0)) + torch.maximum(side, cap).clamp_max(0) - edge
    own = own * stretch.amin(1, keepdim=True)
    signed = torch.where(op == SUBTRACT, -own, own)
    blend = blend.clamp_min(1e-6)
    overlap = (blend - (total - signed).abs()).clamp_min(0)
    bulge = overlap * overlap / (4 * blend)
    joined = torch.minimum(total, signed) - bulge
    carved = torch.maximum(total, signed) + bulge
    return torch.where(op == UNION, joined, torch.where(op == SUBTRACT, carved, total)), own


def _length(a: Tensor, b: Tensor) -> Tensor:
    return (a * a + b * b).sqrt()


@functools.cache
def compiled_join() -> Callable:
    """``join_part`` fused to one loop by ``torch.compile``: four times faster on a CPU; needs a C++ compiler there."""
    return torch.compile(join_part, dynamic=True)


def distance(
    points: Tensor, parts: Parts, *, with_part: bool = False, join: Callable = join_part
) -> Tensor | tuple[Tensor, Tensor]:
    """Signed distance (negative inside) of each shape at its points.

    Args:
        points: [B, M, 3] world coordinates.
        parts: B packed shapes.
        with_part: also return which part is nearest, for its colour.
        join: ``join_part``, or ``compiled_join()``.

    Returns:
        distance [B, M] and, if asked for, the part's index [B, M] int64.
    """
    points = points.contiguous()
    total = points.new_full(points.shape[:2], _FAR)
    closest = total
    nearest = torch.zeros_like(total, dtype=torch.long) if with_part else None
    for index in range(parts.op.shape[1]):
        columns = [getattr(parts, f.name)[:, index] for f in fields(Parts) if f.name != "color"]
        columns = [c[:, None].contiguous() if c.dim() == 1 else c.contiguous() for c in columns]
        total, own = join(total, points, *columns)
        if nearest is not None:
            closer = (parts.op[:, index, None] == UNION) & (own < closest)
            nearest, closest = torch.where(closer, index, nearest), torch.where(closer, own, closest)
    return total if nearest is None else (total, nearest)


def _support(parts: Parts, direction: Tensor) -> Tensor:
    """Extent of every part from its centre along ``direction [3]``: [B, P]."""
    local = torch.einsum("bpij,j->bpi", parts.rotation, direction) * parts.stretch
    dx, dy, dz = local.abs().unbind(-1)
    signed_y = local[..., 1]
    half_x, half_y, half_z = parts.half.unbind(-1)
    corner, edge = parts.corner, parts.edge
    ends = []
    for inset, end in ((torch.zeros_like(parts.taper), -1.0), (parts.taper, 1.0)):
        cx, cz = half_x - corner, half_z - corner
        r = corner - edge - inset  # negative once the outline has shrunk past its corners
        section = dx * (cx + r.clamp_max(0)).clamp_min(0) + dz * (cz + r.clamp_max(0)).clamp_min(0)
        section = section + r.clamp_min(0) * torch.hypot(dx, dz)
        ends.append(section + end * signed_y * (half_y - edge))
    rounding = edge * (dx * dx + dy * dy + dz * dz).sqrt()
    return torch.maximum(*ends) + rounding


def bounds(parts: Parts) -> tuple[Tensor, Tensor]:
    """Lower and upper corners [B, 3] of the boxes around the unions of each shape (subtractions ignored)."""
    counted = parts.op == UNION
    low, high = [], []
    for axis in range(3):
        direction = torch.zeros(3)
        direction[axis] = 1.0
        up = parts.center[..., axis] + _support(parts, direction)
        down = parts.center[..., axis] - _support(parts, -direction)
        high.append(up.masked_fill(~counted, -_FAR).amax(1))
        low.append(down.masked_fill(~counted, _FAR).amin(1))
    return torch.stack(low, 1), torch.stack(high, 1)


def normalized(parts: Parts, longest_side: float = 1.9) -> Parts:
    """The shapes moved and scaled so that each bounding box is centred and its longest side is as given."""
    low, high = bounds(parts)
    scale = longest_side / (high - low).amax(1)  # [B]
    s1, s2 = scale[:, None], scale[:, None, None]
    middle = ((low + high) / 2)[:, None]
    return Parts(
        op=parts.op,
        blend=parts.blend * s1,
        center=(parts.center - middle) * s2,
        rotation=parts.rotation,
        half=parts.half * s2,
        corner=parts.corner * s1,
        taper=parts.taper * s1,
        edge=parts.edge * s1,
        wall=parts.wall * s1,
        stretch=parts.stretch,
        color=parts.color,
    )
