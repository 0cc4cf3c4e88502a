"""Gaps in a narrow band: small ones close on the true surface, ends of the shape stay."""

import numpy as np
import pytest

from core.geometry.band import close_gaps
from core.geometry.isosurface import extract_surface

R, CELL = 64, 4
CELLS = R // CELL


def distance(position: np.ndarray) -> np.ndarray:
    """A box with sharp edges, off the middle, in world units."""
    q = np.abs(position - (0.05, -0.1, 0.02)) - (0.5, 0.35, 0.6)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def surface_cells() -> np.ndarray:
    cells = np.argwhere(np.ones((CELLS,) * 3))
    return cells[np.abs(distance((cells + 0.5) / CELLS * 2 - 1)) * CELLS / 2 < 1.0]


def band_of(cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    voxels = (cells[:, None] * CELL + np.argwhere(np.ones((CELL,) * 3))).reshape(-1, 3)
    return voxels, np.clip(distance(voxels / R * 2 - 1) * R / 2 / 4, -1, 1).astype(np.float32)


def test_a_closed_band_is_left_alone():
    voxels, values = band_of(surface_cells())
    closed_voxels, closed_values = close_gaps(voxels, values, R, CELL)
    np.testing.assert_array_equal(closed_voxels, voxels)
    np.testing.assert_array_equal(closed_values, values)


@pytest.mark.parametrize("missing", [0.03, 0.1])
def test_missing_cells_close_near_the_true_surface(missing):
    cells = surface_cells()
    voxels, values = band_of(cells[np.random.default_rng(0).random(len(cells)) >= missing])
    assert not extract_surface(voxels, values, R).is_watertight()
    closed_voxels, closed_values = close_gaps(voxels, values, R, CELL)
    np.testing.assert_array_equal(closed_voxels[: len(voxels)], voxels)
    assert len(np.unique(closed_voxels, axis=0)) == len(closed_voxels)
    mesh = extract_surface(closed_voxels, closed_values, R)
    assert mesh.is_watertight()
    whole = extract_surface(*band_of(cells), R)
    assert mesh.area == pytest.approx(whole.area, rel=0.02)
    assert mesh.volume == pytest.approx(whole.volume, rel=0.02)
    error = np.abs(distance(mesh.vertices)) * R / 2  # voxels
    assert error.max() < CELL and np.mean(error > 0.5) < 0.02


def test_an_end_of_the_shape_stays_an_end():
    cells = surface_cells()
    voxels, values = band_of(cells[cells[:, 0] < 9])  # one third is missing
    closed_voxels, closed_values = close_gaps(voxels, values, R, CELL)
    assert len(closed_voxels) == len(voxels)
    assert not extract_surface(closed_voxels, closed_values, R).is_watertight()


def test_the_order_of_voxels_and_another_level():
    cells = surface_cells()
    voxels, values = band_of(np.delete(cells, [40, 200, 333], axis=0))
    shuffled = np.random.default_rng(1).permutation(len(voxels))
    for level in (0.0, 0.25, -0.25):
        meshes = [
            extract_surface(*close_gaps(voxels[order], values[order], R, CELL, level), R, level)
            for order in (np.arange(len(voxels)), shuffled)
        ]
        assert meshes[0].is_watertight() and meshes[1].is_watertight()
        assert meshes[0].num_faces == meshes[1].num_faces


def test_a_surface_that_leaves_the_grid_is_no_gap():
    cells = np.argwhere(np.ones((CELLS, CELLS, 2)))  # a slab from border to border
    voxels = (cells[:, None] * CELL + np.argwhere(np.ones((CELL,) * 3))).reshape(-1, 3)
    values = ((voxels[:, 2] - 3.5) / 4).astype(np.float32)
    assert len(close_gaps(voxels, values, R, CELL)[0]) == len(voxels)
