"""Mesh to voxels and to signed distances: the release's definition, analytic solids, awkward triangles."""

import lzma
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load

from core.errors import InputError
from core.geometry.isosurface import extract_surface
from core.geometry.mesh import Mesh
from core.geometry.mesh_to_sdf import mesh_to_sdf
from core.geometry.voxelize import NORMALIZE_SIDE, active_voxels, latent_coords
from tests.support.solids import band, grid_positions, sphere, torus

GOLDEN = Path(__file__).parents[2] / "golden" / "mesh_to_active_voxels.safetensors.xz"
QUAD = np.array([[-0.9, -0.9, 0.1], [0.9, -0.9, 0.1], [0.9, 0.9, 0.1], [-0.9, 0.9, 0.1]])


def test_golden():
    golden = load(lzma.decompress(GOLDEN.read_bytes()))
    mesh = Mesh(golden["in.vertices"], golden["in.faces"])
    coords, distance = active_voxels(mesh, 96)
    np.testing.assert_array_equal(coords, golden["out.udf_voxels"])
    np.testing.assert_allclose(distance, golden["out.udf"], atol=1e-6)
    np.testing.assert_array_equal(latent_coords(mesh, 96), golden["out.latent_coords"])


@pytest.mark.parametrize("size", [32, 45])  # 45: the last latent voxel is cut off by the grid
def test_two_large_triangles(size):
    mesh = Mesh(QUAD, np.array([[0, 1, 2], [0, 2, 3]]))
    coords, distance = active_voxels(mesh, size, threshold=3.0)
    position = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1) / (size - 1) - 0.5
    beyond = np.maximum(np.abs(position[..., :2]) - 0.45, 0)
    expected = np.sqrt((beyond**2).sum(-1) + (position[..., 2] - 0.05) ** 2)
    np.testing.assert_array_equal(coords, np.argwhere(expected < 3.0 / size))
    np.testing.assert_allclose(distance, expected[tuple(coords.T)], atol=1e-6)
    np.testing.assert_array_equal(latent_coords(mesh, size, threshold=3.0)[:, 1:], np.unique(coords // 8, axis=0))


def test_degenerate_triangles_are_segments_and_points():
    vertices = np.array([[-0.5, 0, 0], [0, 0, 0], [0.5, 0, 0], [0.8, 0.8, 0.8]])
    mesh = Mesh(vertices, np.array([[0, 1, 2], [3, 3, 3]]))  # a line and a point
    coords, distance = active_voxels(mesh, 40)
    position = coords / 39 - 0.5
    to_line = np.linalg.norm(
        position - np.stack([position[:, 0].clip(-0.25, 0.25), *[0 * position[:, 0]] * 2], 1), axis=1
    )
    to_point = np.linalg.norm(position - 0.4, axis=1)
    np.testing.assert_allclose(distance, np.minimum(to_line, to_point), atol=1e-6)
    assert (to_point < 0.05).any() and (to_line < 0.05).any()


def test_normalised_mesh_stays_inside():
    mesh = Mesh(QUAD * 7 + 3, np.array([[0, 1, 2], [0, 2, 3]])).normalised(NORMALIZE_SIDE)
    coords, _ = active_voxels(mesh, 64)
    assert coords.min() >= 0 and coords.max() < 64


def fine_mesh(solid, resolution: int = 96) -> Mesh:
    return extract_surface(*band(solid(grid_positions(resolution)), 0.1), resolution)


@pytest.mark.parametrize("solid", [sphere, torus])
def test_sdf_of_smooth_solids(solid):
    coords, values = mesh_to_sdf(fine_mesh(solid), 48)
    expected = solid(coords / 48 * 2 - 1) / (4 * 2 / 48)
    np.testing.assert_allclose(values, expected, atol=0.01)  # a hundredth of the band: the mesh's own flatness
    assert (np.diff(coords[:, 0]) >= 0).all()
    num = (np.abs(solid(grid_positions(48))) < 4 * 2 / 48).sum()
    assert len(coords) == pytest.approx(num, rel=0.01)


def box() -> Mesh:
    corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.4, 0.4) for z in (-0.3, 0.3)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    return Mesh(corners, np.array([f for a, b, c, d in quads for f in ((a, b, c), (a, c, d))]))


def box_distance(position: np.ndarray) -> np.ndarray:
    q = np.abs(position) - (0.5, 0.4, 0.3)
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def test_sdf_of_a_box_is_exact():
    coords, values = mesh_to_sdf(box(), 40, band_voxels=3.0)
    distance = box_distance(coords / 40 * 2 - 1) / (3 * 2 / 40)
    np.testing.assert_allclose(np.abs(values), np.abs(distance), atol=1e-5)
    clear = np.abs(distance) > 0.01
    np.testing.assert_array_equal(np.sign(values)[clear], np.sign(distance)[clear])
    again = extract_surface(coords, values, 40)
    assert again.is_watertight()
    assert again.volume == pytest.approx(1.0 * 0.8 * 0.6, rel=0.02)


def test_sdf_has_an_inside_despite_a_hole():
    mesh = fine_mesh(sphere, 48)
    pierced = mesh.with_faces(mesh.faces[(mesh.vertices[mesh.faces][:, :, 2] < 0.65).any(1)])
    assert not pierced.is_watertight()
    coords, values = mesh_to_sdf(pierced, 48)
    position = coords / 48 * 2 - 1
    away = position[:, 2] < 0.5
    np.testing.assert_allclose(values[away], (sphere(position) / (4 * 2 / 48))[away], atol=0.03)


def test_refuses_nothing_to_measure():
    with pytest.raises(InputError, match="no faces"):
        mesh_to_sdf(Mesh(np.zeros((0, 3)), np.zeros((0, 3))), 16)
    with pytest.raises(InputError, match="inside the grid"):
        mesh_to_sdf(Mesh(QUAD + 9, np.array([[0, 1, 2]])), 16)
