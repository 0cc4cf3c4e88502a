"""Which triangles cut a cube: asked of scikit-image, the dense reference, so that both agree cube for cube.

scikit-image has Lewiner's marching cubes ("Efficient implementation of Marching Cubes' cases with topological
guarantees", 2003), and only for dense arrays. Here many separate cubes are laid into one small array, and its answer is
read back as triangles over cube edges. For most of the 256 sign patterns the answer depends on the signs
alone: those are asked once and kept as a table. For the patterns with an ambiguous face or interior it depends
on the values, and each such cube is asked with its own. (Where a value equals the level, several answers are equally
right, and ours may be another one than the reference's; neighbouring cubes still agree.)

Corners of a cube are numbered ``4 dx + 2 dy + dz``. Edges are ``4 axis + 2 p + q`` with (p, q) the edge's
offsets along the two other axes in ascending order. Edge 12 is a vertex inside the cube, which some of the
ambiguous patterns need.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

# K cubes, T triangles

CENTER = 12
_PACK = 32  # cubes along a side of a packed array: coordinates stay below 64, where float32 resolves 4e-6
_CLAMP = 1e-4  # of the largest value: keeps every crossing far enough from a corner to tell its edge

CORNER_OFFSETS = np.array([[c >> 2 & 1, c >> 1 & 1, c & 1] for c in range(8)], dtype=np.int64)  # [8, 3]
_OTHER_AXES = ((1, 2), (0, 2), (0, 1))


def _edge_base(edge: int) -> tuple[int, int, int]:
    axis, p, q = edge >> 2, edge >> 1 & 1, edge & 1
    offset = [0, 0, 0]
    offset[_OTHER_AXES[axis][0]], offset[_OTHER_AXES[axis][1]] = p, q
    return tuple(offset)


EDGE_AXIS = np.repeat(np.arange(3), 4)  # [12]
EDGE_BASE = np.array([_edge_base(e) for e in range(12)], dtype=np.int64)  # [12, 3] corner the edge starts from


@dataclass(frozen=True)
class CubeTriangles:
    """Triangles of K cubes, cube after cube."""

    cube: np.ndarray  # [T] int64, ascending row of the cube
    edges: np.ndarray  # [T, 3] int64, edge 0..11 or CENTER, outward for values that grow outward
    has_center: np.ndarray  # [K] bool: the cube has an inner vertex


@dataclass(frozen=True)
class SignTable:
    """Triangles of the sign patterns (bit c set where corner c lies above the level)."""

    first: np.ndarray  # [256] int64 first row in `edges`
    count: np.ndarray  # [256] int64 number of rows
    edges: np.ndarray  # [T, 3] int64
    ambiguous: np.ndarray  # [256] bool: ask `triangulate` instead


def triangulate(corner_values: np.ndarray, scale: float) -> CubeTriangles:
    """Triangles of separate cubes, by their values.

    Args:
        corner_values: [K, 8] float, minus the level; each cube has values on both sides of zero (<= 0 is inside).
        scale: the largest absolute value of the whole field: the same in each call, so that neighbouring
            cubes see the same values on the face they share.
    """
    floor = np.float32(_CLAMP * scale)
    values = corner_values.astype(np.float32)
    values = np.where(values > 0, np.maximum(values, floor), np.minimum(values, -floor))
    per_pack = _PACK**3
    parts = [_triangulate_pack(values[start : start + per_pack]) for start in range(0, len(values), per_pack)]
    if not parts:
        return CubeTriangles(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros(0, bool))
    return CubeTriangles(
        np.concatenate([part.cube + i * per_pack for i, part in enumerate(parts)]),
        np.concatenate([part.edges for part in parts]),
        np.concatenate([part.has_center for part in parts]),
    )


def inner_vertices(corner_values: np.ndarray) -> np.ndarray:  # [K, 8] minus the level -> [K, 3] in the unit cube
    """Where the reference puts inner vertices: the mean of the corners, each weighted by 1 / its distance."""
    weight = 1.0 / (np.abs(corner_values) + np.spacing(1.0))
    return weight @ CORNER_OFFSETS / weight.sum(1, keepdims=True)


def _triangulate_pack(values: np.ndarray) -> CubeTriangles:  # values [K <= _PACK^3, 8]
    from skimage.measure import marching_cubes

    num = len(values)
    side = int(np.ceil(round(num ** (1 / 3), 6)))
    packed = np.ones((side, 2, side, 2, side, 2), dtype=np.float32)
    filler = np.ones((side**3, 8), dtype=np.float32)
    filler[:num] = values
    packed[:] = filler.reshape(side, side, side, 2, 2, 2).transpose(0, 3, 1, 4, 2, 5)
    ours = np.zeros(packed.shape, dtype=bool)
    ours[:, 1, :, 1, :, 1] = True  # scikit-image masks a cell by its high corner; the cells between cubes stay out
    shape = (2 * side,) * 3
    positions, faces, _, _ = marching_cubes(packed.reshape(shape), 0.0, mask=ours.reshape(shape))

    cell = (positions // 2).astype(np.int64)
    local = positions.astype(np.float64) - 2 * cell  # [V, 3] in the unit cube
    vertex_cube = (cell[:, 0] * side + cell[:, 1]) * side + cell[:, 2]
    inner = (local > 0) & (local < 1)
    axis = inner.argmax(1)
    other = np.array(_OTHER_AXES)[axis]
    corner = np.take_along_axis(local, other, 1).astype(np.int64)
    edge = np.where(inner.sum(1) == 1, 4 * axis + 2 * corner[:, 0] + corner[:, 1], CENTER)

    has_center = np.zeros(num, dtype=bool)
    has_center[vertex_cube[edge == CENTER]] = True
    cube = vertex_cube[faces[:, 0]]
    order = np.argsort(cube, kind="stable")
    return CubeTriangles(cube[order], edge[faces[order]], has_center)


@cache
def sign_table() -> SignTable:
    """The 256 patterns, asked once per process (some milliseconds)."""
    codes = np.arange(1, 255)
    above = (codes[:, None] >> np.arange(8) & 1).astype(bool)  # [254, 8]
    found = triangulate(np.where(above, 1.0, -1.0), 1.0)
    count = np.zeros(256, dtype=np.int64)
    count[1:255] = np.bincount(found.cube, minlength=254)
    return SignTable(np.cumsum(count) - count, count, found.edges, _ambiguous_patterns())


def _ambiguous_patterns() -> np.ndarray:  # [256] bool
    """Patterns with a face of alternating signs, or with one sign on two opposite corners of the cube alone."""
    above = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(bool)
    ambiguous = np.zeros(256, dtype=bool)
    for axis, (first, second) in enumerate(_OTHER_AXES):
        for side in (0, 1):
            corner = [side << (2 - axis) | p << (2 - first) | q << (2 - second) for p in (0, 1) for q in (0, 1)]
            a, b, c, d = (above[:, i] for i in corner)
            ambiguous |= (a == d) & (b == c) & (a != b)
    for low in range(4):
        pair = 1 << low | 1 << (7 - low)
        ambiguous[[pair, 255 - pair]] = True
    return ambiguous
