"""How close two meshes are: Chamfer distance and F-score of points on their surfaces."""

from dataclasses import dataclass

import numpy as np

from core.errors import InputError
from core.geometry.mesh import Mesh

# P sampled points


@dataclass(frozen=True)
class SurfaceScores:
    """``chamfer``: mean of the two mean nearest distances. ``fscore[t]``: harmonic mean of the shares within t."""

    chamfer: float
    fscore: dict[float, float]


def sample_surface(mesh: Mesh, points: int, seed: int = 0) -> np.ndarray:  # [P, 3] float32
    """Points spread evenly over the area, the same for the same seed.

    Raises:
        InputError: for a mesh without area.
    """
    area = mesh.face_areas()
    total = area.sum()
    if not total > 0:
        raise InputError("the mesh has no area to sample.")
    rng = np.random.default_rng(seed)
    face = np.searchsorted(np.cumsum(area), rng.random(points) * total, side="right").clip(max=len(area) - 1)
    root, along = np.sqrt(rng.random((points, 1))), rng.random((points, 1))
    a, b, c = mesh.triangles[face].transpose(1, 0, 2)
    return ((1 - root) * a + root * (1 - along) * b + root * along * c).astype(np.float32)


def chamfer_and_fscore(
    mesh_a: Mesh,
    mesh_b: Mesh,
    thresholds: tuple[float, ...] = (0.05, 0.1),
    points: int = 20_000,
    seed: int = 0,
) -> SurfaceScores:
    """Scores of two meshes, each centred by its box and scaled to a largest side of 2. Symmetric up to sampling.

    Raises:
        InputError: for a mesh without faces or area.
    """
    from scipy.spatial import cKDTree

    a = sample_surface(mesh_a.normalised(2.0), points, seed)
    b = sample_surface(mesh_b.normalised(2.0), points, seed + 1)
    a_to_b, b_to_a = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    fscore = {}
    for threshold in thresholds:
        precision, recall = float((a_to_b < threshold).mean()), float((b_to_a < threshold).mean())
        fscore[threshold] = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return SurfaceScores(chamfer=float(a_to_b.mean() + b_to_a.mean()) / 2, fscore=fscore)
