"""Scores of a preset on generated shapes that it was not trained on.

Shapes come from a seed that training never uses; pictures are rendered at a user's size, saved as PNG and go the
whole way of ``generate``. Meshes are compared after centring and scaling to a longest side of 2.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import trimesh
from PIL import Image

from core.config.generation import GenerationOptions
from core.data.band import band_values, surface_cells
from core.data.families import LEFT_OUT, TRAINED
from core.data.parts import Parts
from core.data.pool import coarse_field, draw_shapes, stored_field
from core.data.render import random_views, render
from core.errors import NoSurfaceError
from core.geometry.coarse_field import cell_voxels
from core.geometry.isosurface import extract_surface
from core.geometry.mesh import Mesh
from core.geometry.metrics import chamfer_and_fscore
from core.pipeline.image_to_shape import Networks, generate

SEED = 987_654_321  # training seeds are 1_000_003 * run + shard, far below
THRESHOLDS = (0.05, 0.1)


@dataclass(frozen=True, kw_only=True)
class ShapeScore:
    """One shape: how the mesh scored, and how a sphere would have."""

    family: str
    left_out: bool
    f_05: float
    f_10: float
    chamfer: float
    sphere_f_05: float
    sphere_f_10: float
    sphere_chamfer: float


@dataclass(frozen=True, eq=False)
class TestObject:
    """A shape, its picture as a PNG file's bytes, and its true mesh."""

    family: str
    left_out: bool
    picture: bytes
    mesh: Mesh


def test_objects(count: int, *, left_out: bool, picture_size: int = 384) -> list[TestObject]:
    """``count`` objects of the trained families, or of those left out; always the same ones."""
    names = list(LEFT_OUT if left_out else TRAINED)
    whole = -(-count // len(names)) * len(names)  # every family equally often, in random order, then cut
    shapes, family = draw_shapes(whole, SEED + left_out, left_out=left_out)
    views = random_views(count, torch.Generator().manual_seed(SEED), jitter=0.0)
    objects = []
    for row in range(count):
        shape = shapes.rows(row, row + 1)
        view = type(views)(**{k: v[row : row + 1] for k, v in vars(views).items()})
        rgba = (render(shape, view, picture_size)[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(rgba), "RGBA").save(file, "PNG")
        objects.append(TestObject(names[family[row]], left_out, file.getvalue(), true_mesh(shape)))
    return objects


def true_mesh(shape: Parts, resolution: int = 128) -> Mesh:
    """The surface of one shape, from its exact distance on the voxels near it."""
    cells = surface_cells(stored_field(coarse_field(shape, resolution // 4)[0]), 1.6)
    voxels = cell_voxels(cells, 4)
    return extract_surface(voxels, band_values(shape, voxels, resolution, 4.0), resolution, 0.0)


def evaluate(
    networks: Networks,
    options: GenerationOptions,
    objects: list[TestObject],
    *,
    on_score: Callable[[ShapeScore, Mesh | None], None] = lambda score, mesh: None,
) -> list[ShapeScore]:
    """Generate a mesh for every object and score it. A picture that gives no surface scores zero (Chamfer 1)."""
    ball = trimesh.creation.icosphere(subdivisions=4)
    sphere = Mesh(np.asarray(ball.vertices, np.float32), np.asarray(ball.faces, np.int32))
    scores = []
    for item in objects:
        try:
            mesh = generate(item.picture, networks, options).mesh
            chamfer, (f_05, f_10) = _compare(mesh, item.mesh)
        except NoSurfaceError:
            mesh, chamfer, f_05, f_10 = None, 1.0, 0.0, 0.0
        sphere_chamfer, (sphere_05, sphere_10) = _compare(sphere, item.mesh)
        score = ShapeScore(
            family=item.family, left_out=item.left_out, f_05=f_05, f_10=f_10, chamfer=chamfer,
            sphere_f_05=sphere_05, sphere_f_10=sphere_10, sphere_chamfer=sphere_chamfer,
        )  # fmt: skip
        scores.append(score)
        on_score(score, mesh)
    return scores


def _compare(mesh: Mesh, truth: Mesh) -> tuple[float, tuple[float, ...]]:
    scores = chamfer_and_fscore(mesh, truth, THRESHOLDS)
    return scores.chamfer, tuple(scores.fscore[t] for t in THRESHOLDS)


def summary(scores: list[ShapeScore]) -> dict[str, float]:
    """Means over shapes, rounded."""
    keys = ("f_05", "f_10", "chamfer", "sphere_f_05", "sphere_f_10", "sphere_chamfer")
    return {"shapes": len(scores)} | {k: round(float(np.mean([getattr(s, k) for s in scores])), 4) for k in keys}
