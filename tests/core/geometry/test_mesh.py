"""The mesh class and the grid's two index spaces."""

import numpy as np
import pytest

from core.errors import ConfigError, InputError
from core.geometry.grid import GridSpec
from core.geometry.mesh import Mesh

TETRAHEDRON = Mesh(
    np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]]), np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
)


def test_tetrahedron():
    assert TETRAHEDRON.vertices.dtype == np.float32 and TETRAHEDRON.faces.dtype == np.int32
    assert TETRAHEDRON.is_watertight()
    assert TETRAHEDRON.euler_number() == 2
    assert TETRAHEDRON.volume == pytest.approx(1.0)
    assert TETRAHEDRON.area == pytest.approx(1 + 1.5 + 3 + 3.5)
    assert TETRAHEDRON.flipped().volume == pytest.approx(-1.0)
    assert not TETRAHEDRON.with_faces(TETRAHEDRON.faces[:3]).is_watertight()


def test_a_face_turned_over_is_not_watertight():
    faces = TETRAHEDRON.faces.copy()
    faces[0] = faces[0, ::-1]
    assert not Mesh(TETRAHEDRON.vertices, faces).is_watertight()


def test_normalised():
    mesh = TETRAHEDRON.normalised(1.9)
    np.testing.assert_allclose(mesh.bounds.mean(0), 0, atol=1e-6)
    assert (mesh.bounds[1] - mesh.bounds[0]).max() == pytest.approx(1.9)


def test_bounds_leave_out_unused_vertices():
    mesh = Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [9, 9, 9]] * 3), np.array([[0, 1, 2]]))
    np.testing.assert_array_equal(mesh.bounds, [[0, 0, 0], [1, 1, 0]])
    assert mesh.with_faces(mesh.faces).num_vertices == 3


def test_round_trip_through_trimesh_keeps_order():
    again = Mesh.from_trimesh(TETRAHEDRON.to_trimesh())
    np.testing.assert_array_equal(again.vertices, TETRAHEDRON.vertices)
    np.testing.assert_array_equal(again.faces, TETRAHEDRON.faces)


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [([[0, 0]], [[0, 0, 0]]), ([[0, 0, np.nan]], [[0, 0, 0]]), ([[0, 0, 0]], [[0, 0, 1]]), ([[0, 0, 0]], [[0, 0, -1]])],
)
def test_refuses_broken_arrays(vertices, faces):
    with pytest.raises(InputError):
        Mesh(np.array(vertices), np.array(faces))


def test_empty_and_point_meshes():
    empty = Mesh(np.zeros((0, 3)), np.zeros((0, 3)))
    assert not empty.is_watertight() and empty.area == 0
    with pytest.raises(InputError, match="no faces"):
        empty.normalised()
    with pytest.raises(InputError, match="single point"):
        Mesh(np.ones((3, 3)), np.array([[0, 1, 2]])).normalised()


def test_two_index_spaces():
    grid = GridSpec(8)
    index = np.arange(8)
    np.testing.assert_allclose(grid.index_to_world(index), index / 8 * 2 - 1)
    np.testing.assert_allclose(grid.voxeliser_index_to_cube(index), index / 7 - 0.5)
    np.testing.assert_allclose(grid.world_to_index(grid.index_to_world(index)), index)
    np.testing.assert_allclose(grid.cube_to_voxeliser_index(grid.voxeliser_index_to_cube(index)), index, atol=1e-12)
    with pytest.raises(ConfigError):
        GridSpec(1)
