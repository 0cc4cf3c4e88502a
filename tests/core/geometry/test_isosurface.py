"""Sparse marching cubes against scikit-image on the same data, and against analytic solids."""

import numpy as np
import pytest
import torch
from skimage.measure import marching_cubes

from core.errors import InputError, NoSurfaceError
from core.geometry.isosurface import extract_surface
from tests.support.same_surface import assert_same_surface
from tests.support.solids import band, grid_positions, sphere, torus


def all_voxels(volume: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.argwhere(np.ones(volume.shape, bool)), volume.reshape(-1)


@pytest.mark.parametrize("resolution", [31, 48])  # not a multiple of the block, and one
@pytest.mark.parametrize("level", [0.0, 0.047])
@pytest.mark.parametrize("solid", [sphere, torus])
def test_band_gives_the_dense_surface(solid, level, resolution):
    volume = solid(grid_positions(resolution)).astype(np.float32)
    coords, values = band(volume, 8 / resolution)
    mesh = extract_surface(coords, values, resolution, level)
    assert_same_surface(mesh, volume, level)
    assert mesh.is_watertight()


def test_values_at_the_level():
    # 0.05 lies between two float32, and this sphere passes through grid points: which side they are on must agree.
    volume = sphere(grid_positions(48)).astype(np.float32)
    assert (volume == np.float32(0.05)).any()
    mesh = extract_surface(*band(volume, 0.2), 48, 0.05)
    vertices, faces, _, _ = marching_cubes(volume, 0.05)
    assert (mesh.num_vertices, mesh.num_faces) == (len(vertices), len(faces))
    assert mesh.is_watertight()
    whole = np.random.default_rng(0).integers(-2, 3, size=(34, 34, 34)).astype(np.float16)
    whole[[0, -1]] = whole[:, [0, -1]] = whole[:, :, [0, -1]] = 1
    assert extract_surface(*all_voxels(whole), 34).is_watertight()


def test_noise_gives_the_dense_surface():
    # Every ambiguous case of Lewiner's occurs here, on block borders too.
    volume = np.random.default_rng(1).normal(size=(35, 35, 35)).astype(np.float32)
    coords, values = all_voxels(volume)
    assert_same_surface(extract_surface(coords, values, 35, 0.1), volume, 0.1)


def test_order_of_voxels_does_not_matter():
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(20, 20, 20)).astype(np.float32)
    coords, values = all_voxels(volume)
    shuffled = rng.permutation(len(coords))
    assert_same_surface(extract_surface(coords[shuffled], values[shuffled], 20), volume, 0.0)


def test_outside_counts_missing_corners():
    rng = np.random.default_rng(3)
    active = rng.random((40, 40, 40)) < 0.05
    active[16, 16, 16] = active[15, 31, 16] = active[0, 0, 0] = active[39, 39, 39] = (
        True  # corners of blocks, of the grid
    )
    volume = np.where(active, rng.normal(size=active.shape), 1.0).astype(np.float32)
    volume[16, 16, 16] = volume[15, 31, 16] = -1.0
    mesh = extract_surface(np.argwhere(active), volume[active], 40, 0.2, outside=1.0)
    assert_same_surface(mesh, volume, 0.2)


def test_torus_numbers():
    volume = torus(grid_positions(64))
    mesh = extract_surface(*band(volume, 0.1), 64)
    assert mesh.is_watertight()
    assert mesh.euler_number() == 0
    assert mesh.volume == pytest.approx(2 * np.pi**2 * 0.6 * 0.25**2, rel=0.01)  # positive: outward
    assert np.abs(torus(mesh.vertices)).max() < 0.1 * 2 / 64  # a tenth of a voxel: no half-voxel shift


def test_hole_in_the_band_is_an_open_boundary():
    volume = sphere(grid_positions(48)).astype(np.float32)
    coords, values = band(volume, 0.2)
    kept = ~((coords[:, 0] > 30) & (coords[:, 1] > 30))
    coords, values = coords[kept], values[kept]
    mesh = extract_surface(coords, values, 48)
    assert not mesh.is_watertight()
    assert np.abs(sphere(mesh.vertices)).max() < 0.01  # only the true surface, none along the rim of the band
    assert len(np.unique(mesh.faces)) == mesh.num_vertices
    closed = extract_surface(coords, values, 48, outside=1.0)
    assert closed.is_watertight()


def test_values_that_are_not_finite_are_inactive():
    volume = sphere(grid_positions(32)).astype(np.float32)
    coords, values = band(volume, 0.25)
    values[coords[:, 2] > 20] = np.nan
    kept = np.isfinite(values)
    ours, expected = extract_surface(coords, values, 32), extract_surface(coords[kept], values[kept], 32)
    np.testing.assert_array_equal(ours.vertices, expected.vertices)
    np.testing.assert_array_equal(ours.faces, expected.faces)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensors_of_any_float(dtype):
    coords, values = band(sphere(grid_positions(32)), 0.25)
    values = torch.from_numpy(values).to(dtype)
    mesh = extract_surface(torch.from_numpy(coords), values[:, None], 32)
    expected = extract_surface(coords.astype(np.int16), values.float().numpy(), 32)
    np.testing.assert_array_equal(mesh.vertices, expected.vertices)


def test_one_voxel():
    coords = np.array([[5, 6, 7]])
    with pytest.raises(NoSurfaceError):
        extract_surface(coords, np.array([-1.0]), 16)
    mesh = extract_surface(coords, np.array([-1.0]), 16, outside=1.0)
    assert mesh.num_faces == 8
    assert mesh.is_watertight()
    np.testing.assert_allclose(mesh.bounds.mean(0), np.array([5, 6, 7]) / 16 * 2 - 1, atol=1e-6)


def test_no_surface_tells_the_range():
    with pytest.raises(NoSurfaceError, match=r"0\.25\.\.0\.75.*seed or iso level"):
        extract_surface(np.array([[0, 0, 0], [1, 1, 1]]), np.array([0.25, 0.75]), 8)
    with pytest.raises(NoSurfaceError, match="no active voxels"):
        extract_surface(np.zeros((0, 3), int), np.zeros(0), 8)


@pytest.mark.parametrize(
    ("coords", "values"), [([[0, 0, 8]], [0.0]), ([[0, 0, -1]], [0.0]), ([[0, 0, 0]], [0.0, 1.0]), ([[0, 0]], [0.0])]
)
def test_refuses_what_does_not_fit(coords, values):
    with pytest.raises(InputError):
        extract_surface(np.array(coords), np.array(values), 8)
