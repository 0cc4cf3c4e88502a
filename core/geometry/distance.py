"""Distance to a triangle mesh and the winding number around it, by libigl's trees, built once per mesh.

Only functions of libigl's core are used (MPL-2.0): ``AABB`` and ``FastWindingNumberBVH`` (Barill et al., "Fast
Winding Numbers for Soups and Clouds", 2018). No step of ours or theirs depends on how large single triangles are.
"""

import numpy as np

from core.errors import InputError
from core.geometry.mesh import Mesh

# P points, F faces, M cells, R grid side

_BATCH = 1 << 20  # points handed to libigl at once


class SurfaceDistance:
    """Queries against one mesh; degenerate triangles count as the segment or point they are.

    Raises:
        InputError: for a mesh without faces.
    """

    def __init__(self, mesh: Mesh) -> None:
        import igl

        if not mesh.num_faces:
            raise InputError("the mesh has no faces, so it has no distance.")
        self.vertices = mesh.vertices.astype(np.float64)
        self.faces = mesh.faces.astype(np.int64)
        self._tree = igl.AABB()
        self._tree.init(self.vertices, self.faces)
        self._winding = None

    def unsigned(self, points: np.ndarray) -> np.ndarray:  # [P, 3] -> [P] float64
        """Distance to the nearest triangle, in the units of the vertices."""
        squared = [
            self._tree.squared_distance(self.vertices, self.faces, np.ascontiguousarray(part, dtype=np.float64))[0]
            for part in _batches(points)
        ]
        return np.sqrt(np.concatenate([np.zeros(0), *(np.atleast_1d(part) for part in squared)]))

    def nearest(self, points: np.ndarray) -> np.ndarray:  # [P, 3] -> [P, 3] float64
        """The nearest point of the surface."""
        parts = [
            self._tree.squared_distance(self.vertices, self.faces, np.ascontiguousarray(part, dtype=np.float64))[2]
            for part in _batches(points)
        ]
        return np.concatenate([np.zeros((0, 3)), *(part.reshape(-1, 3) for part in parts)])

    def winding(self, points: np.ndarray) -> np.ndarray:  # [P, 3] -> [P] float64
        """How often the surface surrounds each point: 1 inside, 0 outside, in between near holes."""
        if self._winding is None:
            import igl

            self._winding = igl.FastWindingNumberBVH()
            self._winding.init(self.vertices, self.faces)
        parts = [
            np.atleast_1d(self._winding.winding_number(np.ascontiguousarray(part, dtype=np.float64)))
            for part in _batches(points)
        ]
        return np.concatenate([np.zeros(0), *parts])


def _batches(points: np.ndarray) -> list[np.ndarray]:
    return [points[start : start + _BATCH] for start in range(0, len(points), _BATCH)]


def cells_near(surface: SurfaceDistance, resolution: int, side: int, reach: float, origin: float, step: float):
    """Cells of ``side`` voxels a side that may hold a voxel nearer to the surface than ``reach``.

    Voxel i lies at ``origin + i * step`` along each axis. From coarse cells to fine ones, each level keeps the
    cells whose centre is nearer than reach plus their half diagonal, so the work follows the area of the surface.

    Returns:
        [M, 3] int64 cells, lexicographically ascending (a few of them hold no such voxel).
    """
    levels = side
    while levels * 4 < resolution:
        levels *= 2
    num = -(-resolution // levels)
    cells = np.stack(np.meshgrid(*[np.arange(num)] * 3, indexing="ij"), -1).reshape(-1, 3)
    while True:
        span = (levels - 1) / 2
        center = origin + (cells * levels + span) * step
        cells = cells[surface.unsigned(center) <= (reach + span * np.sqrt(3.0) * step) * (1 + 1e-9)]
        if levels == side:
            break
        levels //= 2
        cells = sub_cells(cells, 2)
        cells = cells[(cells * levels < resolution).all(1)]
    return cells[np.lexsort(cells.T[::-1])]


def sub_cells(cells: np.ndarray, parts: int) -> np.ndarray:
    """Cells [M, 3] cut into ``parts`` along each axis: [M * parts^3, 3], cell after cell."""
    inside = np.stack(np.meshgrid(*[np.arange(parts)] * 3, indexing="ij"), -1).reshape(-1, 3)
    return (cells[:, None] * parts + inside).reshape(-1, 3)


def cell_voxels(cells: np.ndarray, side: int, resolution: int) -> np.ndarray:
    """Voxels [., 3] int64 of cells [M, 3] of ``side`` voxels a side, cell after cell, those inside the grid."""
    voxels = sub_cells(cells, side)
    return voxels[(voxels < resolution).all(1)]
