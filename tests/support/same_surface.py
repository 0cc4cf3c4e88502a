"""Sparse surfaces against scikit-image's of the dense grid."""

import numpy as np
from scipy.spatial import cKDTree
from skimage.measure import marching_cubes

from core.geometry.mesh import Mesh


def assert_same_surface(mesh: Mesh, volume: np.ndarray, level: float) -> None:
    """Same vertices to float tolerance, and the same triangles over them, as the dense reference."""
    vertices, faces, _, _ = marching_cubes(volume, level, method="lewiner")
    reference = vertices / len(volume) * 2 - 1
    distance, match = cKDTree(reference).query(mesh.vertices)
    assert distance.max() < 1e-6
    assert len(mesh.vertices) == len(reference) == len(np.unique(match))
    assert triangles(match[mesh.faces]) == triangles(faces)


def triangles(faces: np.ndarray) -> list:
    """Faces [F, 3] as a sorted list, each starting from its lowest vertex: keeps the orientation."""
    first = faces.argmin(1)[:, None]
    return sorted(map(tuple, np.take_along_axis(faces, (first + np.arange(3)) % 3, 1).tolist()))
