"""Floaters, enclosed parts, orientation, decimation, and the scores that compare meshes."""

import numpy as np
import pytest

from core.errors import ConfigError, InputError
from core.geometry.components import face_components, orient_outward, remove_enclosed, remove_floaters
from core.geometry.isosurface import extract_surface
from core.geometry.mesh import Mesh
from core.geometry.metrics import chamfer_and_fscore, sample_surface
from core.geometry.simplify import simplify
from tests.support.solids import band, grid_positions, sphere, torus


def ball(radius: float, center=(0.0, 0.0, 0.0), resolution: int = 48) -> Mesh:
    field = sphere(grid_positions(resolution), radius, center)
    return extract_surface(*band(field, 0.15), resolution)


def together(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(mesh.num_vertices for mesh in meshes)])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


def test_floaters_go_and_parts_stay():
    main, part, speck = ball(0.5, (-0.3, 0, 0)), ball(0.2, (0.6, 0, 0)), ball(0.06, (0.6, 0.6, 0))
    cleaned = remove_floaters(together(speck, main, part))
    assert cleaned.num_faces == main.num_faces + part.num_faces
    assert cleaned.is_watertight()
    assert remove_floaters(main) is main


def test_enclosed_parts_go_whatever_their_orientation():
    shell, cavity, stone = ball(0.7), ball(0.5).flipped(), ball(0.2, (0.1, 0, 0))
    beside = ball(0.15, (0.8, 0.8, 0.8))
    cleaned = remove_enclosed(together(cavity, stone, shell, beside))
    assert face_components(cleaned)[0] == 2
    assert cleaned.num_faces == shell.num_faces + beside.num_faces
    assert cleaned.volume == pytest.approx(shell.volume + beside.volume, rel=1e-5)


def test_part_in_the_hole_of_a_torus_is_not_enclosed():
    ring = extract_surface(*band(torus(grid_positions(48), 0.7, 0.15), 0.1), 48)
    both = together(ring, ball(0.3))
    assert remove_enclosed(both).num_faces == both.num_faces


def test_orientation_becomes_outward():
    mixed = together(ball(0.4, (-0.5, 0, 0)).flipped(), ball(0.4, (0.5, 0, 0)))
    outward = orient_outward(mixed)
    assert outward.is_watertight()
    assert outward.volume == pytest.approx(2 * ball(0.4, (0.5, 0, 0)).volume, rel=0.01)
    assert orient_outward(outward) is outward


def test_empty_mesh_passes_through():
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3)))
    for clean in (remove_floaters, remove_enclosed, orient_outward):
        assert clean(empty).num_faces == 0


def test_decimation_keeps_the_budget_and_the_shape():
    mesh, messages = ball(0.7), []
    small = simplify(mesh, 500, messages.append)
    assert 400 < small.num_faces <= 500
    assert small.is_watertight() and small.euler_number() == 2
    assert small.volume == pytest.approx(mesh.volume, rel=0.02)
    assert messages == [f"simplifying {mesh.num_faces} faces to 500"]
    assert simplify(mesh, mesh.num_faces) is mesh


def test_decimation_tells_when_it_cannot(monkeypatch):
    mesh, messages = ball(0.3), []
    monkeypatch.setattr("fast_simplification.simplify", lambda vertices, faces, **_: (vertices, faces))
    assert simplify(mesh, 10, messages.append).num_faces == mesh.num_faces
    assert messages[-1] == f"{mesh.num_faces} faces is as far as the mesh can be simplified"
    with pytest.raises(ConfigError):
        simplify(mesh, 3)


def test_scores():
    mesh = ball(0.6)
    same = chamfer_and_fscore(mesh, Mesh(mesh.vertices * 3 + 5, mesh.faces), points=5000)
    assert same.chamfer < 0.03 and same.fscore[0.1] == 1.0  # only the sampling differs: position and scale do not count
    flat = Mesh(np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]]), np.array([[0, 1, 2], [0, 2, 3]]))
    shifted = Mesh(flat.vertices + np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 0, 1]]), flat.faces)
    worse = chamfer_and_fscore(flat, shifted, points=5000)
    assert worse.chamfer > 0.1 and worse.fscore[0.05] < worse.fscore[0.1] < 1.0


def test_decimation_reports_its_rounds_and_may_be_stopped():
    mesh, steps = ball(0.6), []
    small = simplify(mesh, mesh.num_faces // 10, on_faces=lambda done, total: steps.append((done, total)))
    assert len(steps) == 4 and steps == sorted(steps)  # halves: 2, 4, 8, 10 times fewer
    assert steps[-1] == (mesh.num_faces - mesh.num_faces // 10,) * 2 and small.num_faces <= mesh.num_faces // 10
    assert small.is_watertight()

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simplify(mesh, 100, on_faces=stop)


def test_sampling_follows_the_area_and_the_seed():
    mesh = Mesh(
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]]), np.array([[0, 1, 2], [3, 4, 5]])
    )
    points = sample_surface(mesh, 8000, seed=4)
    assert (points[:, 0] > 4).mean() == pytest.approx(0.75, abs=0.03)
    assert points[points[:, 0] < 4].mean(0) == pytest.approx([1 / 3, 1 / 3, 0], abs=0.03)
    np.testing.assert_array_equal(points, sample_surface(mesh, 8000, seed=4))
    with pytest.raises(InputError):
        sample_surface(Mesh(np.zeros((3, 3)), np.array([[0, 1, 2]])), 10)
