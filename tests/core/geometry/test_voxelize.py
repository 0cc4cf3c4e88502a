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
from tests.support.live_bytes import LiveBytes
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


def by_definition(mesh: Mesh, size: int, threshold: float = 4.0) -> np.ndarray:
    """Active voxels [N, 3] of the release's voxeliser (spec 6.5): every voxel against every triangle."""
    point = np.stack(np.meshgrid(*[np.arange(size)] * 3, indexing="ij"), -1).reshape(-1, 3) / (size - 1) - 0.5
    least = np.full(len(point), np.inf)
    for corners in mesh.triangles.astype(np.float64) / 2:
        inside, normal = np.ones(len(point), bool), np.cross(corners[1] - corners[0], corners[2] - corners[0])
        for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
            side = end - start
            t = np.clip((point - start) @ side / max(side @ side, 1e-300), 0, 1)
            least = np.minimum(least, np.linalg.norm(point - start - t[:, None] * side, axis=1))
            inside &= np.cross(side, point - start) @ normal > 0
        height = np.abs((point - corners[0]) @ normal) / max(np.linalg.norm(normal), 1e-300)
        least[inside] = np.minimum(least, height)[inside]
    return np.argwhere((least < threshold / size).reshape((size,) * 3))


def awkward_mesh(rng: np.random.Generator) -> Mesh:
    """Two large triangles, many tiny ones, slivers, segments, points, and some outside of the grid."""
    large = rng.uniform(-1, 1, (2, 3, 3))
    tiny = rng.uniform(-0.9, 0.9, (60, 1, 3)) * (1, 1, 0.1) + rng.normal(0, 0.01, (60, 3, 3))
    segments = rng.uniform(-0.9, 0.9, (4, 2, 3))[:, [0, 1, 1]]
    along = rng.uniform(-0.9, 0.9, (2, 2, 3)) @ np.ones((3, 3)) / 3  # three corners on one line
    slivers = np.concatenate([along, along.mean(1, keepdims=True) + 1e-9], 1)
    points = rng.uniform(-0.9, 0.9, (3, 1, 3)).repeat(3, 1)
    outside = rng.uniform(1.1, 1.4, (3, 3, 3))
    corners = np.concatenate([large, tiny, segments, slivers, points, outside])
    return Mesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3))


@pytest.mark.parametrize("size, factor, threshold", [(48, 8, 4.0), (45, 6, 3.0), (40, 4, 1.5), (33, 8, 0.3)])
def test_latents_of_awkward_triangles_by_the_definition(size, factor, threshold):
    mesh = awkward_mesh(np.random.default_rng(size))
    voxels = by_definition(mesh, size, threshold)
    found = latent_coords(mesh, size, factor, threshold)
    assert found.dtype == np.int32 and not found[:, 0].any()
    np.testing.assert_array_equal(found[:, 1:], np.unique(voxels // factor, axis=0))


def test_the_surface_moves_by_up_to_half_a_voxel_on_its_way_to_the_voxeliser():
    """A wall at index 52.3 of the surface's grid of 64 is at 51.48 of the voxeliser's: voxels 48 to 55, not 56."""
    x = 52.3 / 64 * 2 - 1
    wall = Mesh(np.array([[x, -9, -9], [x, 9, -9], [x, 0, 9]]), np.array([[0, 1, 2]]))
    assert set(latent_coords(wall, 64)[:, 1]) == {6}
    assert set(np.unique(by_definition(wall, 64)[:, 0])) == set(range(48, 56))


@pytest.mark.parametrize("triangles", [1, 40_000])
def test_memory_does_not_depend_on_the_size_of_triangles(triangles):
    sides = int(np.ceil(np.sqrt(triangles / 2)))
    axis = np.linspace(-0.9, 0.9, sides + 1)
    vertices = np.stack([*np.meshgrid(axis, axis, indexing="ij"), np.zeros((sides + 1,) * 2)], -1).reshape(-1, 3)
    corner = (np.arange(sides)[:, None] * (sides + 1) + np.arange(sides)).reshape(-1, 1)
    faces = np.concatenate([corner + (0, sides + 1, sides + 2), corner + (0, sides + 2, 1)])
    mesh = Mesh(vertices, faces)
    with LiveBytes() as meter:
        found = latent_coords(mesh, 512)
    assert len(found) == 2 * 60**2  # voxels 22 to 489 along the plane, 252 to 259 across it
    assert meter.peak < 48e6  # 512^3 booleans would be 134e6


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
    with pytest.raises(InputError, match="no faces"):
        latent_coords(Mesh(np.zeros((0, 3)), np.zeros((0, 3))), 16)
    with pytest.raises(InputError, match="inside the grid"):
        mesh_to_sdf(Mesh(QUAD + 9, np.array([[0, 1, 2]])), 16)
