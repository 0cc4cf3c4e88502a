"""Mesh to active voxels: the hand-over from one sparse stage to the next (spec 2.7 and 6.5).

A voxel is active if it lies nearer to the surface than ``threshold / size`` in the unit cube. This works in
the voxeliser's index space (see ``grid``). Distances are exact, and neither time nor memory depends on how
large single triangles are.
"""

import numpy as np
import torch

from core.errors import InputError
from core.geometry.distance import SurfaceDistance, cell_voxels, cells_near
from core.geometry.grid import GridSpec
from core.geometry.mesh import Mesh
from core.geometry.triangles import NearCells

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


def latent_coords(
    mesh: Mesh, size: int, factor: int = 8, threshold: float = 4.0, *, device: torch.device | str = "cpu"
) -> np.ndarray:
    """Latent voxels that hold an active voxel: ``unique(active_voxels // factor)`` without listing those.

    The search runs on ``device``, in memory for the mesh and a bounded number of triangles and cells at a time.

    Returns:
        [L, 4] int32 (batch 0, x, y, z), lexicographically ascending; ``size / factor`` a side.

    Raises:
        InputError: for a mesh without faces.
    """
    if not mesh.num_faces:
        raise InputError("the mesh has no faces, so it has no distance.")
    device = "cpu" if torch.device(device).type == "mps" else device  # which has no float64
    vertices = GridSpec.world_to_cube(torch.from_numpy(mesh.vertices).to(device).double())
    faces = torch.from_numpy(mesh.faces).to(device)
    found = NearCells(vertices, faces, size, factor, threshold / size, -0.5, 1.0 / (size - 1)).find()
    return torch.nn.functional.pad(found, (1, 0)).int().cpu().numpy()


def _in_cube(mesh: Mesh) -> SurfaceDistance:
    return SurfaceDistance(Mesh(GridSpec.world_to_cube(mesh.vertices), mesh.faces))
