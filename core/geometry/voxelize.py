"""Mesh to active voxels: the hand-over from one sparse stage to the next (spec 2.7 and 6.5).

A voxel is active if it lies nearer to the surface than ``threshold / size`` in the unit cube. This works in
the voxeliser's index space (see ``grid``). Distances are exact, and neither time nor memory depends on how
large single triangles are.
"""

import numpy as np

from core.geometry.distance import SurfaceDistance, cell_voxels, cells_near
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

    Most latent voxels are settled by one distance, at the voxel nearest to their centre's foot on the surface;
    only the rest is looked at voxel by voxel.

    Returns:
        [L, 4] int32 (batch 0, x, y, z), lexicographically ascending; ``size / factor`` a side.

    Raises:
        InputError: for a mesh without faces.
    """
    surface, grid, reach = _in_cube(mesh), GridSpec(size), threshold / size
    cells = cells_near(surface, size, factor, reach, -0.5, 1.0 / (size - 1))
    last = np.minimum((cells + 1) * factor, size) - 1
    foot = surface.nearest(grid.voxeliser_index_to_cube((cells * factor + last) / 2))
    candidate = np.clip(np.rint(grid.cube_to_voxeliser_index(foot)), cells * factor, last)
    active = surface.unsigned(grid.voxeliser_index_to_cube(candidate)) < reach
    open_cells = np.flatnonzero(~active)
    for start in range(0, len(open_cells), _CELLS_AT_ONCE):
        rows = open_cells[start : start + _CELLS_AT_ONCE]
        voxels = cell_voxels(cells[rows], factor, size)
        near = surface.unsigned(grid.voxeliser_index_to_cube(voxels)) < reach
        hit = np.unique(voxels[near] // factor, axis=0)
        if len(hit):
            keys = _key(cells[rows], size)
            active[rows[np.isin(keys, _key(hit, size))]] = True
    found = cells[active].astype(np.int32)
    return np.concatenate([np.zeros((len(found), 1), np.int32), found], axis=1)


def _key(cells: np.ndarray, size: int) -> np.ndarray:  # [M, 3] -> [M] int64
    return (cells[:, 0] * size + cells[:, 1]) * size + cells[:, 2]


def _in_cube(mesh: Mesh) -> SurfaceDistance:
    return SurfaceDistance(Mesh(GridSpec.world_to_cube(mesh.vertices), mesh.faces))
