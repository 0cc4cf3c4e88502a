"""From the file to the mesh in Blender: axes, sizes, origins, smoothness, and meshes that Blender finds sound."""

from __future__ import annotations

import bpy
import harness
import numpy as np
from importing import FROM_BASE, SIZE, asymmetric, ball, corners_of, longest_side, mesh_data, record

SERVER = "tiny"  # its Python has the real exporter

ROUNDING = 1e-6  # of float32, relative to the size: a few units in the last place


def place(data: object, **changes: object) -> bpy.types.Object:
    return harness.module("importer").place_result(record(**changes), data)


def test_nose_to_the_front_hat_up_ear_right():
    """The nose at -Y, where Blender's front view looks from; on the ground, exactly as long as was asked for."""
    made = place(asymmetric())
    assert np.allclose(corners_of(made), list(FROM_BASE.values()), atol=ROUNDING * SIZE)
    bpy.context.view_layer.update()
    assert np.allclose(made.matrix_world, np.eye(4), atol=0)
    assert abs(max(made.dimensions) - SIZE) <= ROUNDING * SIZE and max(made.dimensions) == made.dimensions.z


def test_its_faces_look_outwards():
    made = place(asymmetric())
    middle = [sum(axis) / 6 for axis in zip(*FROM_BASE.values(), strict=True)]
    outwards = [np.dot(np.subtract(polygon.center, middle), polygon.normal) for polygon in made.data.polygons]
    assert len(outwards) == 8 and min(outwards) > 0


def test_the_origin_in_the_middle():
    made = place(asymmetric(), origin="CENTER")
    corners = corners_of(made)
    assert np.allclose(corners.max(axis=0) + corners.min(axis=0), 0, atol=ROUNDING * SIZE)
    assert abs(corners[:, 2].max() - SIZE / 2) <= ROUNDING * SIZE


def test_sizes_hold_from_tiny_to_huge_files_and_scenes():
    for scale in (1e-20, 1e-3, 1.0, 1e15):
        for size in (1e-3, 2.0, 5e4):
            data = mesh_data(np.array([(0, 0, 0), (1, 0, 0), (0, 0.5, 0), (0, 0, 0.25)]) * scale + scale)
            corners = corners_of(place(data, size=size))
            assert abs(longest_side(corners) - size) <= 4 * ROUNDING * size, (scale, size, corners)
            assert corners[:, 2].min() == 0


def test_size_is_in_blender_units_whatever_the_unit_scale_shows():
    bpy.context.scene.unit_settings.scale_length = 0.01
    made = place(asymmetric())
    bpy.context.view_layer.update()
    assert abs(max(made.dimensions) - SIZE) <= ROUNDING * SIZE


def test_it_stands_where_and_how_it_was_asked_to():
    made = place(asymmetric(), location=(1.0, -2.0, 3.5), rotation_z=np.pi / 2)
    bpy.context.view_layer.update()
    assert tuple(made.location) == (1.0, -2.0, 3.5)
    nose = made.matrix_world @ made.data.vertices[4].co
    assert np.allclose(nose, (1.1, -2 - 0.25 / 6, 3.5 + 0.5 / 6), atol=1e-6)  # turned: the nose looks along +X


def test_smooth_and_flat():
    importer = harness.module("importer")
    smooth, flat = (importer.place_result(record(), asymmetric(), smooth=value).data for value in (True, False))
    assert all(polygon.use_smooth for polygon in smooth.polygons)
    assert not any(polygon.use_smooth for polygon in flat.polygons)


def test_blender_finds_nothing_to_repair():
    build = harness.module("mesh_build").build_mesh
    for data in (asymmetric(), mesh_data(), ball(40)):
        for edges in (None, harness.module("mesh_edges").find_edges(data.triangles)):
            mesh = build("sound", data, edges=edges)
            assert not mesh.validate(verbose=True)  # True: something was repaired
            assert len(mesh.polygons) == len(data.triangles)
            assert {polygon.loop_total for polygon in mesh.polygons} == {3}


def test_given_edges_are_those_that_blender_finds():
    build, find = harness.module("mesh_build").build_mesh, harness.module("mesh_edges").find_edges
    for data in (mesh_data(), ball(30)):
        own, given = build("own", data), build("given", data, edges=find(data.triangles))
        assert {edge.key for edge in own.edges} == {edge.key for edge in given.edges}
        assert len(own.edges) == len(given.edges)
        for polygon in given.polygons:
            for loop in polygon.loop_indices:
                following = polygon.loop_start + (loop - polygon.loop_start + 1) % 3
                corners = {given.loops[loop].vertex_index, given.loops[following].vertex_index}
                assert set(given.edges[given.loops[loop].edge_index].vertices) == corners


def test_a_mesh_without_extent_is_refused_and_leaves_nothing():
    damaged = harness.module("client_errors").Damaged
    before = (len(bpy.data.objects), len(bpy.data.meshes))
    for corners in ([(1, 2, 3)] * 4, [(0, 0, 0)] * 4):
        try:
            place(mesh_data(corners))
        except damaged as error:
            assert "no size" in str(error)
        else:
            raise AssertionError("it was placed")
    assert (len(bpy.data.objects), len(bpy.data.meshes)) == before


def test_doubled_and_crossing_triangles_do_no_harm():
    """Closed or not, twice or not: the reader passes them, so Blender must take them, also into Edit Mode."""
    made = place(mesh_data(triangles=[(0, 1, 2), (0, 1, 2), (2, 1, 0), (0, 1, 3)]))
    bpy.context.view_layer.objects.active = made
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.object.mode_set(mode="OBJECT")
    bpy.context.view_layer.update()


def test_vertices_without_triangles_do_no_harm():
    made = place(mesh_data([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 2)], [(0, 1, 2)]))
    assert len(made.data.vertices) == 5 and not made.data.validate()


def test_what_it_was_made_from_stands_on_the_object():
    """A seed of 63 bits and options with nothing set come back as they were, also from a saved file."""
    wire, importer = harness.module("wire"), harness.module("importer")
    options = {"preset": "tiny", "seed": 2**62 + 1, "resolution": None, "formats": ["glb"]}
    job = wire.Job(id="ab" * 16, title="mug", state="succeeded", options=options)
    made = importer.place_result(record(job=job), asymmetric())
    name, path = made.name, str(harness.work / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    told = harness.module("provenance").provenance_of(bpy.data.objects[name])
    assert told["seed"] == 2**62 + 1 and told["options"] == options and told["job_id"] == "ab" * 16
    assert '"torch"' not in told["settings"] and "0.1.0" in told["version"] and told["image_sha256"] == "cd" * 32
    assert harness.module("provenance").provenance_of(bpy.data.objects["Cube"]) is None


def test_clay_is_shared_and_kept_as_the_artist_changed_it():
    first, second = place(asymmetric()), place(asymmetric())
    clay = first.data.materials[0]
    assert clay.name == "S2 Mesh Clay" and second.data.materials[0] == clay
    shader = next(node for node in clay.node_tree.nodes if node.type == "BSDF_PRINCIPLED")
    shader.inputs["Roughness"].default_value = 0.1
    third = place(asymmetric())
    assert third.data.materials[0] == clay and abs(shader.inputs["Roughness"].default_value - 0.1) < 1e-6
    bare = harness.module("importer").place_result(record(), asymmetric(), clay=False)
    assert len(bare.data.materials) == 0


def test_marked_as_an_asset_if_asked():
    importer = harness.module("importer")
    plain = importer.place_result(record(), asymmetric())
    asset = importer.place_result(record(), asymmetric(), mark_as_asset=True)
    assert plain.asset_data is None and [tag.name for tag in asset.asset_data.tags] == ["S2 Mesh"]


def test_long_and_strange_titles():
    for title in ("x" * 300, "mug: ä 壺 \u202e", "", "a/b\\c"):
        made = place(mesh_data(), title=title)
        assert bpy.data.objects[made.name] == made and made.name
