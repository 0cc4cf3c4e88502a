"""Mesh to active voxels: the hand-over from one sparse stage to the next (spec 2.7 and 6.5).

A voxel is active if it lies nearer to the surface than ``threshold / size`` in the unit cube. This works in
the voxeliser's index space (see ``grid``). Distances are exact, and neither time nor memory depends on how
large single triangles are.
"""

import numpy as np

from core.geometry.distance import SurfaceDistance, cell_voxels, cells_near, sub_cells
from core.geometry.grid import GridSpec
from core.geometry.mesh import Mesh

# N active voxels, L latent voxels, M cells, S grid side

NORMALIZE_SIDE = 1.9  # longest side of the mesh in the world: 0.95 of the cube on each side
_CELL = 8  # voxels a side of the cells that the search ends with
_CELLS_AT_ONCE = 4096  # 2 million voxels


def active_voxels(mesh: Mesh, size: int, threshold: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a ``size`` grid whose distance to the surface is below ``threshold / size``.

    Args:
        mesh: in world units, normalised by the caller (``mesh.normalised(NORMALIZE_SIDE)``).

    Returns:
        coords [N, 3] int32, lexicographically ascending, and distances [N] float32 in the unit cube.

    Raises:
        InputError: for a mesh without faces.
    """
    surface, grid, reach = _in_cube(mesh), GridSpec(size), threshold / size
    side = min(_CELL, size)
    cells = cells_near(surface, size, side, reach, -0.5, 1.0 / (size - 1))
    coords, distances = [np.zeros((0, 3), np.int32)], [np.zeros(0, np.float32)]
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        voxels = cell_voxels(cells[start : start + _CELLS_AT_ONCE], side, size)
        distance = surface.unsigned(grid.voxeliser_index_to_cube(voxels))
        near = distance < reach
        coords.append(voxels[near].astype(np.int32))
        distances.append(distance[near].astype(np.float32))
    joined = np.concatenate(coords)
    order = np.lexsort(joined.T[::-1])
    return joined[order], np.concatenate(distances)[order]


def latent_coords(mesh: Mesh, size: int, factor: int = 8, threshold: float = 4.0) -> np.ndarray:
    """Latent voxels that hold an active voxel: ``unique(active_voxels // factor)`` without listing those.

    Most latent voxels are settled by one voxel, the nearest to where their centre's foot on the surface is; only the
    rest is halved and asked again.

    Returns:
        [L, 4] int32 (batch 0, x, y, z), lexicographically ascending; ``size / factor`` a side.

    Raises:
        InputError: for a mesh without faces.
    """
    surface, grid, reach = _in_cube(mesh), GridSpec(size), threshold / size
    cells = cells_near(surface, size, factor, reach, -0.5, 1.0 / (size - 1))
    active = np.zeros(len(cells), dtype=bool)
    part, owner, side = cells, np.arange(len(cells)), factor  # parts of `side` voxels of the cells still open
    while len(part):
        low, last = part * side, np.minimum((part + 1) * side, size) - 1
        center = grid.voxeliser_index_to_cube((low + last) / 2)
        foot = surface.nearest(center)
        candidate = np.clip(np.rint(grid.cube_to_voxeliser_index(foot)), low, last)
        near = surface.unsigned(grid.voxeliser_index_to_cube(candidate)) < reach
        active[owner[near]] = True
        if side == 1:
            break
        half_diagonal = np.linalg.norm(last - low, axis=1) / 2 / (size - 1)
        is_open = ~active[owner] & (np.linalg.norm(foot - center, axis=1) <= (reach + half_diagonal) * (1 + 1e-9))
        step = 2 if side % 2 == 0 else side
        side //= step
        part, owner = sub_cells(part[is_open], step), owner[is_open].repeat(step**3)
        inside = (part * side < size).all(1)
        part, owner = part[inside], owner[inside]
    found = cells[active].astype(np.int32)
    return np.concatenate([np.zeros((len(found), 1), np.int32), found], axis=1)


def _in_cube(mesh: Mesh) -> SurfaceDistance:
    return SurfaceDistance(Mesh(GridSpec.world_to_cube(mesh.vertices), mesh.faces))
