"""Signed distances of simple solids on grids, for the geometry tests."""

import numpy as np

from core.geometry.grid import GridSpec

# R grid side, N voxels in the band


def grid_positions(resolution: int) -> np.ndarray:  # [R, R, R, 3] world
    axis = GridSpec(resolution).coordinates().astype(np.float64)
    return np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)


def sphere(position: np.ndarray, radius: float = 0.7, center=(0.0, 0.0, 0.0)) -> np.ndarray:  # [..., 3] -> [...]
    return np.linalg.norm(position - np.asarray(center), axis=-1) - radius


def torus(position: np.ndarray, major: float = 0.6, minor: float = 0.25) -> np.ndarray:
    """Around the z axis."""
    return np.hypot(np.hypot(position[..., 0], position[..., 1]) - major, position[..., 2]) - minor


def band(field: np.ndarray, half_width: float) -> tuple[np.ndarray, np.ndarray]:
    """Voxels of a dense field [R, R, R] with |value| < half_width: coords [N, 3] int32 and values [N] float32."""
    coords = np.argwhere(np.abs(field) < half_width)
    return coords.astype(np.int32), field[tuple(coords.T)].astype(np.float32)
