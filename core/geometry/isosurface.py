"""The surface of a sparse signed distance field: marching cubes over the active voxels, never a dense grid.

Same surface as ``skimage.measure.marching_cubes(method="lewiner")`` of the dense grid (spec 2.8), cube by cube: the
same vertices up to rounding and the same triangles. Two things may differ: where a value equals the level, several
answers are right; and what are several vertices at one place in the reference is one here.
Voxels are walked in layers of blocks of 16 along x, on the device they are on; two layers are in memory at a time, and
of a layer only blocks that hold voxels. Vertices belong to grid edges, so what two cubes share is one vertex, and the
mesh is closed wherever the band of active voxels is. Faces look towards larger values everywhere: outward.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError, NoSurfaceError
from core.geometry.blocks import HALO, ROWS, SIDE, Outside, block_layers
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
from core.sparse.refined_field import FarField, RefinedField

# N active voxels, R grid side, S blocks in a layer or batch, K cubes, E edges, V vertices, F faces

_CELLS = HALO**3
_STRIDE = (HALO**2, HALO, 1)  # flat steps along x, y, z in a block with its halo
_EDGE_SHIFT = EDGE_BASE @ np.array(_STRIDE)  # [12]
_CORNER_SHIFT = CORNER_OFFSETS @ np.array(_STRIDE)  # [8]


def extract_field(field: RefinedField, level: float = 0.0) -> Mesh:
    """The surface of a refined field; see :func:`extract_surface`."""
    return extract_surface(field.coords, field.values, field.resolution, level, outside=field.far)


def extract_surface(
    coords: Any,  # [N, 3] any integer type, array or tensor: x, y, z in 0..R-1
    values: Any,  # [N] (or [N, 1]) floating: signed distance, positive outside
    resolution: int,
    level: float = 0.0,
    *,
    outside: Outside = None,
) -> Mesh:
    """Marching cubes over active voxels, on the device of ``values``. Memory: input and output, and a few blocks.

    A cube is meshed if its eight corners are active, so the surface ends openly where the band does. With
    ``outside`` (the release: 1.0) missing corners count as that value, which closes such holes; with a far field they
    count as what it says, so that the surface also runs between its cells. Values that are not finite count as
    inactive. The order of the input does not matter (ascending x is fastest); of a voxel given twice, one value counts.

    Returns:
        A mesh in world units, faces outward, without unused vertices.

    Raises:
        NoSurfaceError: when no cube crosses the level; the message has the range of the values.
        InputError: for arrays that do not fit each other or coordinates outside the grid.
    """
    grid = GridSpec(resolution)
    coords, values = _as_tensor(coords), _as_tensor(values)
    if values.device.type == "mps":  # it has no float64
        coords, values = coords.cpu(), values.cpu()
        outside = outside.to("cpu") if isinstance(outside, FarField) else outside
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if coords.ndim != 2 or coords.shape[1] != 3 or values.shape != coords.shape[:1]:
        raise InputError(f"coords {list(coords.shape)} and values {list(values.shape)} must be [N, 3] and [N].")
    if len(coords) and not (int(coords.min()) >= 0 and int(coords.max()) < resolution):
        raise InputError(f"voxel coordinates must lie in 0..{resolution - 1}.")
    level = float(level)
    scale = max(_largest(values, level), 0.0 if outside is None else 1.0 + abs(level))
    surface = _Surface(grid, level, scale, values.device)
    for start, batches in block_layers(coords, values, resolution, surface.threshold, outside):
        for field, origin in batches:
            surface.add(field, origin)
        surface.finish_layer(start + SIDE)
    if not surface.faces.length:
        raise NoSurfaceError(_no_surface_message(values, level))
    return Mesh(surface.vertices.array, surface.faces.array)


def _as_tensor(array: Any) -> Tensor:
    if isinstance(array, Tensor):
        return array.detach()
    array = np.asarray(array)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch counts with signed ones
        array = array.astype(np.int64)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _largest(values: Tensor, level: float) -> float:
    """The largest finite distance of a value from the level."""
    largest = 0.0
    for part in values.split(ROWS):
        part = (part.float() - level).abs()
        part = part[torch.isfinite(part)]
        largest = max(largest, float(part.max()) if len(part) else 0.0)
    return largest


def _float32_below(level: float) -> float:
    """The float32 that splits float32 values as ``level`` does: above it if and only if above ``level``."""
    nearest = np.float32(level)
    return float(nearest if float(nearest) <= level else np.nextafter(nearest, np.float32(-np.inf)))


def _no_surface_message(values: Tensor, level: float) -> str:
    finite = values[torch.isfinite(values)]
    found = f"values lie in {finite.min():.4g}..{finite.max():.4g}" if len(finite) else "there are no active voxels"
    return f"no surface: the field never crosses {level:g} ({found}). Try another seed or iso level."


class _Surface:
    """Collects vertices and faces, a layer of blocks at a time.

    Blocks name vertices on their borders by grid edge; when a layer is complete, those that name one edge become
    one vertex, also with those of the layer before on the plane between the two. What is complete leaves the device.
    """

    def __init__(self, grid: GridSpec, level: float, scale: float, device: torch.device) -> None:
        self.grid, self.level, self.threshold, self.scale = grid, level, _float32_below(level), scale
        self.device = device
        self.vertices = _Rows(np.float32)  # world
        self.faces = _Rows(np.int32)
        self.plane_keys = torch.zeros(0, dtype=torch.int64, device=device)  # grid edges on the last plane of layers
        self.plane_rows = torch.zeros(0, dtype=torch.int64, device=device)  # and their vertices
        table = sign_table()
        names = ("first", "count", "edges", "ambiguous")
        self.table = {name: torch.from_numpy(getattr(table, name)).to(device) for name in names}
        self.corner_shift = torch.from_numpy(_CORNER_SHIFT).to(device)
        self.edge_base = torch.from_numpy(np.append(_EDGE_SHIFT, 0)).to(device)  # an inner vertex has no edge
        self.edge_axis = torch.from_numpy(np.append(EDGE_AXIS, 0)).to(device)
        self.stride = torch.tensor(_STRIDE, device=device)
        self._start_layer()

    def _start_layer(self) -> None:
        self.layer_vertices: list[Tensor] = []  # [., 3] float32
        self.layer_faces: list[Tensor] = []  # [., 3] int64, rows within the layer
        self.border_rows: list[Tensor] = []  # rows within the layer, on borders of blocks
        self.border_keys: list[Tensor] = []  # [.] int64, their grid edges
        self.num_layer_vertices = 0

    def add(self, field: Tensor, origin: Tensor) -> None:
        """field [S, 17, 17, 17] (NaN: inactive), origin [S, 3]."""
        flat = field.view(-1)
        above = flat > self.threshold
        cubes, codes = _crossing_cubes(flat, above)
        if not len(cubes):
            return
        edge_rows, edges, edge_axis = _crossing_edges(flat, above)  # rows [3, cells]: edge to its position in `edges`
        cubes_of_faces, face_edges, center_cubes, center_local = self._triangles(flat, cubes, codes)
        inner = face_edges == CENTER
        start = cubes_of_faces[:, None] + self.edge_base[face_edges] + self.edge_axis[face_edges] * len(flat)
        faces = edge_rows.view(-1)[start.masked_fill_(inner, 0)].long()

        base, position = self._positions(flat, edges, edge_axis, origin)
        if len(center_cubes):
            row = torch.searchsorted(center_cubes, cubes_of_faces[:, None].expand_as(inner)[inner])
            faces[inner] = len(edges) + row
            position = torch.cat([position, _global_coords(center_cubes, origin) + center_local])

        used = torch.zeros(len(position), dtype=torch.bool, device=self.device)
        used[faces.view(-1)] = True  # edges between cubes that the band leaves out are not
        renumber = used.cumsum(0) - 1
        kept = used.nonzero()[:, 0]
        self._note_borders(base, edge_axis, kept[: int(used[: len(edges)].sum())])
        self.layer_faces.append(renumber[faces] + self.num_layer_vertices)
        self.layer_vertices.append(self.grid.index_to_world(position[kept]).float())
        self.num_layer_vertices += len(kept)

    def _triangles(self, flat: Tensor, cubes: Tensor, codes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Triangles of the crossing cubes: the flat position of the cube of each face [F], its edges [F, 3], the cubes
        with an inner vertex (ascending) and where it lies in them [., 3]. Ambiguous cubes are few and go to the host.
        """
        table = self.table
        unclear = table["ambiguous"][codes]
        clear_cubes, clear_codes = cubes[~unclear], codes[~unclear]
        count = table["count"][clear_codes]
        cube_of = clear_cubes.repeat_interleave(count)
        first = (table["first"][clear_codes] - count.cumsum(0) + count).repeat_interleave(count)
        edges = table["edges"][first + torch.arange(len(cube_of), device=self.device)]
        cubes = cubes[unclear]
        if not len(cubes):
            return cube_of, edges, cubes, torch.zeros(0, 3, dtype=torch.float64, device=self.device)
        corner_values = (flat[cubes[:, None] + self.corner_shift].double() - self.level).cpu().numpy()
        found = triangulate(corner_values, self.scale)
        of_cube, own_edges, has_center, inner = (
            torch.from_numpy(array).to(self.device)
            for array in (found.cube, found.edges, found.has_center, inner_vertices(corner_values[found.has_center]))
        )
        return torch.cat([cube_of, cubes[of_cube]]), torch.cat([edges, own_edges]), cubes[has_center], inner

    def _positions(self, flat: Tensor, edges: Tensor, axis: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
        """Grid point each edge starts from [E, 3] int64, and the crossing on it [E, 3] float64, in index units."""
        start, end = flat[edges].double(), flat[edges + self.stride[axis]].double()
        base = _global_coords(edges, origin)
        position = base.double()
        position[torch.arange(len(edges), device=self.device), axis] += (self.level - start) / (end - start)
        return base, position

    def _note_borders(self, base: Tensor, axis: Tensor, kept: Tensor) -> None:
        """base [E, 3] grid point that each edge starts from, axis [E], kept [K] ascending: the edges in use."""
        base, axis = base[kept], axis[kept]
        on_border = base % SIDE == 0
        on_border[torch.arange(len(kept), device=self.device), axis] = False
        rows = on_border.any(1).nonzero()[:, 0]
        side = self.grid.resolution
        x, y, z = base[rows].unbind(1)
        self.border_rows.append(rows + self.num_layer_vertices)
        self.border_keys.append(((x * side + y) * side + z) * 3 + axis[rows])

    def finish_layer(self, next_x: int) -> None:
        """Merges and keeps what was added since the last call; the next layer starts at voxel ``next_x``."""
        if not self.layer_faces:
            self.plane_keys, self.plane_rows = self.plane_keys[:0], self.plane_rows[:0]
            return
        rows, keys = torch.cat(self.border_rows), torch.cat(self.border_keys)
        before = len(self.plane_keys)
        owner = _first_of_each(torch.cat([self.plane_keys, keys]))[before:]  # where the edge of each is first named
        own = torch.ones(self.num_layer_vertices, dtype=torch.bool, device=self.device)
        own[rows[owner != before + torch.arange(len(rows), device=self.device)]] = False
        number = own.cumsum(0) + (self.vertices.length - 1)
        number[rows] = torch.cat([self.plane_rows, number[rows]])[owner]
        self.vertices.append(torch.cat(self.layer_vertices)[own])
        self.faces.append(number[torch.cat(self.layer_faces)])
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

    def append(self, rows: Tensor) -> None:  # [., 3]
        start = len(self.array)
        self.array.resize((start + len(rows), 3), refcheck=False)  # no view of it outlives a call
        self.array[start:] = rows.cpu().numpy()


def _first_of_each(keys: Tensor) -> Tensor:
    """Where each key [K] int64 first occurs [K]."""
    order = torch.argsort(keys, stable=True)
    ordered = keys[order]
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    first = torch.empty_like(order)
    first[order] = order[is_first][is_first.cumsum(0) - 1]
    return first


def _crossing_cubes(flat: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
    """Flat position [K] of the low corner of each cube that crosses the level, and its sign pattern [K] int64."""
    code = above.view(torch.uint8)
    for stride, shift in ((1, 1), (HALO, 2), (HALO**2, 4)):
        code = code[:-stride] | code[stride:] << shift
    crossing = (code != 0) & (code != 255)
    missing = torch.isnan(flat)
    if bool(missing.any()):
        for stride in _STRIDE[::-1]:
            missing = missing[:-stride] | missing[stride:]
        crossing &= ~missing
    own = torch.zeros(HALO, HALO, HALO, dtype=torch.bool, device=flat.device)
    own[:SIDE, :SIDE, :SIDE] = True
    crossing &= own.view(-1).repeat(len(flat) // _CELLS)[: len(crossing)]
    cubes = crossing.nonzero()[:, 0]
    return cubes, code[cubes].long()


def _crossing_edges(flat: Tensor, above: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Edges whose ends lie on both sides of the level.

    Returns:
        rows [3, cells] int32, valid only at crossing edges; edges [E] flat start of each; axis [E].
    """
    rows = torch.empty(3, len(flat), dtype=torch.int32, device=flat.device)
    edges, axes, total = [], [], 0
    for axis, stride in enumerate(_STRIDE):
        found = (above[:-stride] != above[stride:]).nonzero()[:, 0]
        found = found[~torch.isnan(flat[found] + flat[found + stride])]
        rows[axis, found] = torch.arange(total, total + len(found), dtype=torch.int32, device=flat.device)
        total += len(found)
        edges.append(found)
        axes.append(torch.full_like(found, axis))
    return rows, torch.cat(edges), torch.cat(axes)


def _global_coords(flat_index: Tensor, origin: Tensor) -> Tensor:  # [E] -> [E, 3] int64
    block = flat_index // _CELLS
    local = flat_index - block * _CELLS
    x = local // HALO**2
    rest = local - x * HALO**2
    return origin[block] + torch.stack([x, rest // HALO, rest % HALO], 1)
