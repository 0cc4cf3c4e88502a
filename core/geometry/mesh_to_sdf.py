"""Mesh to a narrow band of signed distances: what the sparse shape encoder reads.

Values are distances in truncation bands, positive outside, clipped to [-1, 1] (spec 2.8), at voxels in mesh index
space. The sign is the winding number's, so a mesh with small holes or crossing parts still has an inside.
"""

import numpy as np

from core.errors import InputError
from core.geometry.distance import SurfaceDistance, cell_voxels, cells_near
from core.geometry.grid import GridSpec
from core.geometry.mesh import Mesh

# N voxels of the band, R grid side

_CELL = 8
_CELLS_AT_ONCE = 4096  # 2 million voxels


def mesh_to_sdf(mesh: Mesh, resolution: int, band_voxels: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance at the voxels that lie nearer to the surface than ``band_voxels`` steps of the grid.

    Args:
        mesh: in world units; outward faces. Parts outside the grid are left out.

    Returns:
        coords [N, 3] int32, lexicographically ascending, and values [N] float32: distance / band, in [-1, 1].

    Raises:
        InputError: for a mesh without faces, or one with no part inside the grid.
    """
    grid, surface = GridSpec(resolution), SurfaceDistance(mesh)
    band = band_voxels * grid.voxel_size
    side = min(_CELL, resolution)
    cells = cells_near(surface, resolution, side, band, -1.0, grid.voxel_size)
    coords, values = [], []
    for start in range(0, len(cells), _CELLS_AT_ONCE):
        voxels = cell_voxels(cells[start : start + _CELLS_AT_ONCE], side, resolution)
        position = grid.index_to_world(voxels.astype(np.float64))
        distance = surface.unsigned(position)
        near = distance < band
        sign = np.where(surface.winding(position[near]) > 0.5, -1.0, 1.0)
        coords.append(voxels[near].astype(np.int32))
        values.append(np.clip(sign * distance[near] / band, -1.0, 1.0).astype(np.float32))
    if not sum(map(len, coords)):
        raise InputError("no part of the mesh lies inside the grid; centre it and scale its longest side to 2 or less.")
    joined = np.concatenate(coords)
    order = np.lexsort(joined.T[::-1])
    return joined[order], np.concatenate(values)[order]
