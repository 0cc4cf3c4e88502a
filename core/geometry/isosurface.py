"""The surface of a sparse signed distance field: marching cubes over the active voxels, never a dense grid.

Same surface as ``skimage.measure.marching_cubes(method="lewiner")`` of the dense grid (spec 2.8), cube by cube.
Voxels are walked in layers of blocks of 16 along x; two layers are in memory at a time, and only the blocks
of a layer that hold voxels. Vertices belong to grid edges, so what two cubes share is one vertex, and the mesh
is closed wherever the band of active voxels is.
"""

import numpy as np

from core.errors import InputError, NoSurfaceError
from core.geometry.blocks import HALO, ROWS, SIDE, block_layers
from core.geometry.grid import GridSpec
from core.geometry.marching_cubes_table import (
    CENTER,
    CORNER_OFFSETS,
    EDGE_AXIS,
    EDGE_BASE,
    inner_vertices,
    sign_table,
    triangulate,
)
from core.geometry.mesh import Mesh

# N active voxels, R grid side, S blocks in a layer or batch, V vertices, F faces

_CELLS = HALO**3
_STRIDE = (HALO**2, HALO, 1)  # flat steps along x, y, z in a block with its halo
_EDGE_SHIFT = EDGE_BASE @ np.array(_STRIDE)  # [12]
_CORNER_SHIFT = CORNER_OFFSETS @ np.array(_STRIDE)  # [8]


def extract_surface(
    coords,  # [N, 3] any integer type, array or tensor: x, y, z in 0..R-1
    values,  # [N] (or [N, 1]) floating: signed distance, positive outside
    resolution: int,
    level: float = 0.0,
    *,
    outside: float | None = None,
) -> Mesh:
    """Marching cubes over active voxels. Memory: input and output, and a few blocks.

    A cube is meshed if its eight corners are active, so the surface ends openly where the band does. With
    ``outside`` (the release: 1.0) the missing corners of cubes that touch an active voxel count as that value,
    which closes such holes. Values that are not finite count as inactive. The order of the input does not
    matter (ascending x is fastest); of a voxel given twice, one value counts.

    Returns:
        A mesh in world units, faces outward, without unused vertices.

    Raises:
        NoSurfaceError: when no cube crosses the level; the message has the range of the values.
        InputError: for arrays that do not fit each other or coordinates outside the grid.
    """
    grid = GridSpec(resolution)
    coords, values = _as_numpy(coords), _as_numpy(values)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if coords.ndim != 2 or coords.shape[1] != 3 or values.shape != coords.shape[:1]:
        raise InputError(f"coords {list(coords.shape)} and values {list(values.shape)} must be [N, 3] and [N].")
    if len(coords) and not (coords.min() >= 0 and coords.max() < resolution):
        raise InputError(f"voxel coordinates must lie in 0..{resolution - 1}.")
    surface = _Surface(grid)
    level, scale = float(level), _largest(values, level)
    threshold = _float32_below(level)
    for start, batches in block_layers(coords, values, resolution, threshold, outside):
        for field, origin in batches:
            surface.add(field, origin, level=level, threshold=threshold, scale=scale)
        surface.finish_layer(start + SIDE)
    if not surface.faces.length:
        raise NoSurfaceError(_no_surface_message(values, level))
    return Mesh(surface.vertices.array, surface.faces.array)


def _as_numpy(array) -> np.ndarray:
    if hasattr(array, "detach"):  # a torch tensor, on any device
        array = array.detach().cpu()
        array = array.float() if str(array.dtype) == "torch.bfloat16" else array
        array = array.numpy()
    return np.asarray(array)


def _largest(values: np.ndarray, level: float) -> float:
    """The largest finite distance of a value from the level."""
    largest = 0.0
    for start in range(0, len(values), ROWS):
        part = np.abs(values[start : start + ROWS].astype(np.float32) - np.float32(level))
        largest = max(largest, float(part[np.isfinite(part)].max(initial=0.0)))
    return largest


def _float32_below(level: float) -> np.float32:
    """The float32 that splits float32 values as ``level`` does: above it if and only if above ``level``."""
    nearest = np.float32(level)
    return nearest if float(nearest) <= level else np.nextafter(nearest, np.float32(-np.inf))


def _no_surface_message(values: np.ndarray, level: float) -> str:
    finite = values[np.isfinite(values)]
    found = f"values lie in {finite.min():.4g}..{finite.max():.4g}" if len(finite) else "there are no active voxels"
    return f"no surface: the field never crosses {level:g} ({found}). Try another seed or iso level."


class _Surface:
    """Collects vertices and faces, a layer of blocks at a time.

    Blocks name vertices on their borders by grid edge; when a layer is complete, those that name one edge become
    one vertex, also with those of the layer before on the plane between the two.
    """

    def __init__(self, grid: GridSpec) -> None:
        self.grid = grid
        self.vertices = _Rows(np.float32)  # world
        self.faces = _Rows(np.int32)
        self.plane_keys = np.zeros(0, dtype=np.int64)  # grid edges on the last plane between layers
        self.plane_rows = np.zeros(0, dtype=np.int32)  # and their vertices
        self._start_layer()

    def _start_layer(self) -> None:
        self.layer_vertices: list[np.ndarray] = []  # [., 3] float32
        self.layer_faces: list[np.ndarray] = []  # [., 3] int32, rows within the layer
        self.border_rows: list[np.ndarray] = []  # rows within the layer, on borders of blocks
        self.border_keys: list[np.ndarray] = []  # [.] int64, their grid edges
        self.num_layer_vertices = 0

    def add(self, field: np.ndarray, origin: np.ndarray, *, level: float, threshold: np.float32, scale: float) -> None:
        """field [S, 17, 17, 17] (NaN: inactive), origin [S, 3]."""
        flat = field.reshape(-1)
        cubes, codes = _crossing_cubes(flat, threshold)
        if not len(cubes):
            return
        edge_rows, edges, edge_axis = _crossing_edges(
            flat, threshold
        )  # rows [3, cells]: edge to its position in `edges`
        cubes_of_faces, face_edges, centers = _triangles(flat, cubes, codes, level, scale)
        inner = face_edges == CENTER
        shift = np.append(_EDGE_SHIFT + EDGE_AXIS * len(flat), 0)
        faces = edge_rows.reshape(-1)[np.where(inner, 0, cubes_of_faces[:, None] + shift[face_edges])]

        base, position = _positions(flat, edges, edge_axis, origin, level)
        center_cubes, center_local = centers
        if len(center_cubes):
            row = np.searchsorted(center_cubes, np.broadcast_to(cubes_of_faces[:, None], inner.shape)[inner])
            faces[inner] = len(edges) + row
            center_base = _global_coords(center_cubes, origin)
            position = np.concatenate([position, center_base + center_local])

        used = np.zeros(len(position), dtype=bool)  # edges between cubes that the band leaves out are not
        used[faces.reshape(-1)] = True
        renumber = np.cumsum(used, dtype=np.int32) - 1
        kept = np.flatnonzero(used)
        self._note_borders(base, edge_axis, kept[kept < len(edges)])
        self.layer_faces.append(renumber[faces] + np.int32(self.num_layer_vertices))
        self.layer_vertices.append(self.grid.index_to_world(position[kept]).astype(np.float32))
        self.num_layer_vertices += len(kept)

    def _note_borders(self, base: np.ndarray, axis: np.ndarray, kept: np.ndarray) -> None:
        """base [E, 3] grid point that each edge starts from, axis [E], kept [K] ascending: the edges in use."""
        base, axis = base[kept], axis[kept]
        on_border = base % SIDE == 0
        on_border[np.arange(len(kept)), axis] = False
        rows = np.flatnonzero(on_border.any(1))
        side = self.grid.resolution
        key = ((base[rows, 0] * side + base[rows, 1]) * side + base[rows, 2]) * 3 + axis[rows]
        self.border_rows.append((rows + self.num_layer_vertices).astype(np.int32))
        self.border_keys.append(key)

    def finish_layer(self, next_x: int) -> None:
        """Merges and keeps what was added since the last call; the next layer starts at voxel ``next_x``."""
        if not self.layer_faces:
            self.plane_keys, self.plane_rows = self.plane_keys[:0], self.plane_rows[:0]
            return
        rows, keys = np.concatenate(self.border_rows), np.concatenate(self.border_keys)
        before = len(self.plane_keys)
        _, first, inverse = np.unique(np.append(self.plane_keys, keys), return_index=True, return_inverse=True)
        owner = first[inverse[before:]]  # where the edge of each border row is first named, the plane before included
        own = np.ones(self.num_layer_vertices, dtype=bool)
        own[rows[owner != before + np.arange(len(rows))]] = False
        number = np.cumsum(own, dtype=np.int32) + np.int32(self.vertices.length - 1)
        number[rows] = np.append(self.plane_rows, number[rows])[owner]
        self.vertices.append(np.concatenate(self.layer_vertices)[own])
        self.faces.append(number[np.concatenate(self.layer_faces)])
        on_plane = keys // (3 * self.grid.resolution**2) == next_x
        self.plane_keys, self.plane_rows = keys[on_plane], number[rows[on_plane]]
        self._start_layer()


class _Rows:
    """An array [length, 3] that grows in place: the allocator moves its pages, so there are never two copies."""

    def __init__(self, dtype: type) -> None:
        self.array = np.zeros((0, 3), dtype=dtype)

    @property
    def length(self) -> int:
        return len(self.array)

    def append(self, rows: np.ndarray) -> None:  # [., 3]
        start = len(self.array)
        self.array.resize((start + len(rows), 3), refcheck=False)  # no view of it outlives a call
        self.array[start:] = rows


def _crossing_cubes(flat: np.ndarray, threshold: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Flat position of the low corner of each cube that crosses the level, and its sign pattern [.] uint8."""

    def over_corners(bits: np.ndarray, doubled: bool) -> np.ndarray:
        for stride, shift in ((1, 1), (HALO, 2), (HALO**2, 4)):
            low, high = bits[:-stride], bits[stride:]
            bits = low | high << shift if doubled else low & high
        return bits

    code = over_corners((flat > threshold).view(np.uint8), True)
    crossing = (code != 0) & (code != 255)
    missing = np.isnan(flat)
    if missing.any():
        crossing &= over_corners(~missing, False)
    own = np.zeros((HALO, HALO, HALO), dtype=bool)
    own[:SIDE, :SIDE, :SIDE] = True
    crossing &= np.tile(own.reshape(-1), len(flat) // _CELLS)[: len(crossing)]
    cubes = np.flatnonzero(crossing)
    return cubes, code[cubes]


def _crossing_edges(flat: np.ndarray, threshold: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges whose ends lie on both sides of the level.

    Returns:
        rows [3, cells] int32, valid only at crossing edges; edges [E] flat start of each; axis [E].
    """
    above = flat > threshold
    rows = np.empty((3, len(flat)), dtype=np.int32)
    edges, axes, total = [], [], 0
    for axis, stride in enumerate(_STRIDE):
        found = np.flatnonzero(above[:-stride] != above[stride:])
        found = found[~np.isnan(flat[found] + flat[found + stride])]
        rows[axis, found] = np.arange(total, total + len(found), dtype=np.int32)
        total += len(found)
        edges.append(found)
        axes.append(np.full(len(found), axis, dtype=np.int8))
    return rows, np.concatenate(edges), np.concatenate(axes)


def _triangles(
    flat: np.ndarray, cubes: np.ndarray, codes: np.ndarray, level: float, scale: float
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Triangles of the crossing cubes.

    Returns:
        flat position of the cube of each face [F]; its edges [F, 3]; the cubes with an inner vertex (ascending) and
        where it lies in them [., 3].
    """
    table = sign_table()
    unclear = table.ambiguous[codes]
    clear_cubes, clear_codes = cubes[~unclear], codes[~unclear]
    count = table.count[clear_codes]
    total = int(count.sum())
    cube_of = np.repeat(clear_cubes, count)
    step = np.arange(total) - np.repeat(np.cumsum(count) - count, count)
    edges = table.edges[np.repeat(table.first[clear_codes], count) + step]
    if not unclear.any():
        return cube_of, edges, (cubes[:0], np.zeros((0, 3)))
    cubes = cubes[unclear]
    corner_values = flat[cubes[:, None] + _CORNER_SHIFT].astype(np.float64) - level
    found = triangulate(corner_values, scale)
    return (
        np.concatenate([cube_of, cubes[found.cube]]),
        np.concatenate([edges, found.edges]),
        (cubes[found.has_center], inner_vertices(corner_values[found.has_center])),
    )


def _global_coords(flat_index: np.ndarray, origin: np.ndarray) -> np.ndarray:  # [E] -> [E, 3] int64
    block, local = np.divmod(flat_index, _CELLS)
    x, rest = np.divmod(local, HALO**2)
    return origin[block] + np.stack([x, rest // HALO, rest % HALO], 1)


def _positions(
    flat: np.ndarray, edges: np.ndarray, axis: np.ndarray, origin: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Grid point each edge starts from [E, 3] int64, and the crossing on it [E, 3] float64, in index units."""
    start = flat[edges].astype(np.float64)
    end = flat[edges + np.array(_STRIDE)[axis]].astype(np.float64)
    base = _global_coords(edges, origin)
    position = base.astype(np.float64)
    position[np.arange(len(edges)), axis] += (level - start) / (end - start)
    return base, position
