"""The reader of GLB files: right ones are read exactly."""

import struct

import numpy as np
import pytest
import trimesh

from blender_addon.glb import read_glb
from core.geometry.export import mesh_bytes
from core.geometry.mesh import Mesh
from tests.support.glb_files import POSITIONS, TRIANGLES, binary, check, document, glb


def turned(positions):
    """To Blender's axes, by the words of the glTF manual: Y up becomes Z up."""
    return np.stack([positions[:, 0], -positions[:, 2], positions[:, 1]], axis=1)


def test_a_file_made_by_hand():
    data = read_glb(glb(document(normals=True)))
    check(data)
    np.testing.assert_array_equal(data.positions, turned(POSITIONS))
    np.testing.assert_array_equal(data.triangles, TRIANGLES)
    np.testing.assert_array_equal(data.normals, turned(POSITIONS))
    assert data.extras == {"seed": 7}


def test_the_front_is_at_minus_y_and_up_is_z():
    nose, hat, ear = read_glb(
        glb(document(), np.float32([[0, 0, 5], [0, 7, 0], [9, 0, 0], [0, 0, 0]]).tobytes() + binary()[48:])
    ).positions[:3]
    assert nose.tolist() == [0, -5, 0] and hat.tolist() == [0, 0, 7] and ear.tolist() == [9, 0, 0]


def test_our_own_files_are_read_exactly():
    shape = trimesh.creation.icosphere(4)
    mesh = Mesh(np.asarray(shape.vertices, np.float32) * [0.3, 0.7, 0.5], np.asarray(shape.faces))
    data = read_glb(mesh_bytes(mesh, "glb", extras={"seed": 3, "options": {"preset": "starter"}}))
    check(data)
    np.testing.assert_array_equal(data.positions, turned(np.asarray(mesh.vertices, np.float32)))
    np.testing.assert_array_equal(data.triangles, mesh.faces)
    assert data.extras == {"seed": 3, "options": {"preset": "starter"}}
    outwards = (data.normals * data.positions).sum(axis=1)
    assert (outwards > 0).all()


def test_a_file_on_disk(tmp_path):
    path = tmp_path / "a.glb"
    path.write_bytes(glb(document()))
    assert len(read_glb(path).triangles) == 4
    assert len(read_glb(str(path)).triangles) == 4


def test_trimesh_scenes_with_several_meshes_and_transforms():
    box, ball = trimesh.creation.box((1, 2, 3)), trimesh.creation.icosphere(2)
    scene = trimesh.Scene()
    turn = trimesh.transformations.rotation_matrix(0.7, (1, 2, 3))
    place = trimesh.transformations.translation_matrix((4, 5, 6)) @ turn
    scene.add_geometry(box, transform=place)
    scene.add_geometry(ball, transform=np.diag([2.0, 1.0, -1.0, 1.0]))  # a mirror
    content = scene.export(file_type="glb")
    data, known = read_glb(content), trimesh.load(trimesh.util.wrap_as_stream(content), file_type="glb").to_mesh()
    check(data)
    read = trimesh.Trimesh(data.positions, data.triangles, process=False)
    np.testing.assert_allclose(read.bounds, trimesh.Trimesh(turned(known.vertices), known.faces).bounds, atol=1e-5)
    assert read.volume == pytest.approx(box.volume + 2 * ball.volume, rel=1e-4)  # positive: no inside out
    assert len(read.faces) == len(box.faces) + len(ball.faces)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_each_kind_of_index(kind):
    numbers = TRIANGLES.astype(kind)
    described = document()
    described["accessors"][1]["componentType"] = {1: 5121, 2: 5123, 4: 5125}[numbers.itemsize]
    described["bufferViews"][1]["byteLength"] = numbers.nbytes
    np.testing.assert_array_equal(
        read_glb(glb(described, POSITIONS.tobytes() + numbers.tobytes())).triangles, TRIANGLES
    )


def test_without_indices_each_three_vertices_are_a_triangle():
    described = document()
    del described["meshes"][0]["primitives"][0]["indices"]
    described["accessors"][0]["count"] = 3
    assert read_glb(glb(described)).triangles.tolist() == [[0, 1, 2]]


def test_interleaved_vertices():
    described = document(normals=True)
    described["bufferViews"][0] = {"buffer": 0, "byteLength": 96, "byteStride": 24}
    described["bufferViews"][1]["byteOffset"] = 96
    described["accessors"].append(
        {"bufferView": 0, "byteOffset": 12, "componentType": 5126, "type": "VEC3", "count": 4}
    )
    described["meshes"][0]["primitives"][0]["attributes"]["NORMAL"] = 2
    normals = np.flip(POSITIONS, axis=0)
    data = read_glb(glb(described, np.hstack([POSITIONS, normals]).tobytes() + TRIANGLES.tobytes()))
    np.testing.assert_array_equal(data.positions, turned(POSITIONS))
    np.testing.assert_array_equal(data.normals, turned(normals))


def test_nodes_below_nodes_are_placed_by_all_above():
    described = document()
    described["nodes"] = [
        {"children": [1], "translation": [1, 0, 0]},
        {"children": [2], "scale": [2, 2, 2]},
        {"mesh": 0, "rotation": [0, 0, 0.70710678, 0.70710678]},  # 90 degrees about Z
    ]
    data = read_glb(glb(described))
    x, y, z = POSITIONS.T
    expected = np.stack([1 - 2 * y, 2 * x, 2 * z], axis=1)
    np.testing.assert_allclose(data.positions, turned(expected), atol=1e-5)


def test_a_triangle_that_has_a_vertex_twice_is_left_out():
    broken = TRIANGLES.copy()
    broken[1] = 2, 2, 3
    data = read_glb(glb(document(), POSITIONS.tobytes() + broken.tobytes()))
    np.testing.assert_array_equal(data.triangles, np.delete(broken, 1, axis=0))


def test_normals_that_are_none_are_left_out():
    content = np.float32([[np.nan, 0, 0]] * 4).tobytes()
    described = document(normals=True)
    described["accessors"].append({"bufferView": 2, "componentType": 5126, "type": "VEC3", "count": 4})
    described["bufferViews"].append({"buffer": 0, "byteOffset": 96, "byteLength": 48})
    described["meshes"][0]["primitives"][0]["attributes"]["NORMAL"] = 2
    assert read_glb(glb(described, binary() + content)).normals is None


def test_chunks_of_other_kinds_are_passed_over():
    content = glb(document())
    cut = content.index(b"BIN\0") - 4
    odd = struct.pack("<2I", 4, 0x12345678) + b"abcd"
    longer = content[:8] + struct.pack("<I", len(content) + len(odd)) + content[12:cut] + odd + content[cut:]
    assert len(read_glb(longer).triangles) == 4
