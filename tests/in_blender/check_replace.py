"""*Replace Selected*: the new shape on the artist's object, with everything that can stay; or why not."""

from __future__ import annotations

import bpy
import harness
import numpy as np
from importing import (
    desk,
    enter,
    history,
    longest_side,
    mesh_data,
    redo,
    replacing,
    start_history,
    undo,
    window,
    world_corners_of,
)

SERVER = None


def cube() -> bpy.types.Object:
    return bpy.data.objects["Cube"]


def replace(target: bpy.types.Object | None = None, data: object = None, **changes: object) -> bpy.types.Object:
    asked = replacing(target or cube(), **changes)
    return harness.module("importer").place_result(asked, data or mesh_data())


def test_the_object_stays_the_same_object():
    target = cube()
    target.location, target.rotation_euler = (1, 2, 3), (0.1, 0.2, 0.3)
    target.modifiers.new("Bevel", "BEVEL")
    child = bpy.data.objects["Light"]
    child.parent = target
    before = desk()
    made = replace()
    assert made == target and desk() == before
    assert len(target.data.polygons) == 4 and [item.name for item in target.modifiers] == ["Bevel"]
    assert tuple(target.location) == (1, 2, 3) and child.parent == target
    assert [material.name for material in target.data.materials] == ["Material"]  # no clay over the artist's own


def test_one_undo_step_and_redo():
    start_history()
    before, steps = desk(), history()
    replace()
    assert history() == [*steps, "S2 Mesh: mug"]
    undo()
    assert len(cube().data.polygons) == 6 and "s2mesh" not in cube() and desk() == before
    redo()
    assert len(cube().data.polygons) == 4 and cube()["s2mesh"]["job_id"] and desk() == before


def test_as_large_and_where_the_old_one_was():
    """Whatever the scales of the object and its parents: the same longest side, on the same ground."""
    parent = bpy.data.objects.new("Parent", None)
    bpy.context.scene.collection.objects.link(parent)
    parent.scale = (2, 2, 2)
    target = cube()
    target.parent, target.scale, target.location = parent, (1.5, 1.5, 1.5), (0, 0, 4)
    before = world_corners_of(target)
    assert abs(longest_side(before) - 6) < 1e-6
    after = world_corners_of(replace())
    assert abs(longest_side(after) - 6) < 1e-5
    assert abs(after[:, 2].min() - before[:, 2].min()) < 1e-5
    middle = [(corners.max(axis=0) + corners.min(axis=0))[:2] / 2 for corners in (before, after)]
    assert np.allclose(*middle, atol=1e-5)


def test_an_empty_mesh_takes_the_size_that_was_set():
    empty = bpy.data.objects.new("Empty", bpy.data.meshes.new("Empty"))
    bpy.context.scene.collection.objects.link(empty)
    empty.scale = (4, 4, 4)
    bpy.context.view_layer.update()
    assert abs(longest_side(world_corners_of(replace(empty, size=2.0))) - 2) < 1e-6


def test_while_it_is_edited_the_edit_is_safe():
    """The result waits, says so, changes nothing, and comes when the artist leaves the mode."""
    importer = harness.module("importer")
    for mode, words in (
        ("EDIT", "Edit Mode"),
        ("SCULPT", "Sculpt Mode"),
        ("WEIGHT_PAINT", "Weight Paint"),
        ("VERTEX_PAINT", "Vertex Paint"),
    ):
        harness.reset()
        start_history()
        asked = replacing(cube())
        enter(mode)
        if mode == "EDIT":
            with window():
                bpy.ops.mesh.select_all(action="SELECT")
                bpy.ops.mesh.subdivide()
        before, steps = desk(), history()
        for _ in range(2):
            try:
                importer.place_result(asked, mesh_data())
            except importer.MustWait as wait:
                assert words in wait.reason and "Cube" in wait.reason and asked.state_text == wait.reason
            else:
                raise AssertionError(f"it came in {mode}")
        assert desk() == before and history() == steps and not asked.object_name
        with window():
            bpy.ops.object.mode_set(mode="OBJECT")
        assert len(cube().data.vertices) == (26 if mode == "EDIT" else 8)
        assert not importer.reason_to_wait(asked)
        assert importer.place_result(asked, mesh_data()) == cube() and len(cube().data.polygons) == 4


def test_while_another_object_is_edited_it_comes():
    other = bpy.data.objects.new("Other", bpy.data.meshes["Cube"].copy())
    bpy.context.scene.collection.objects.link(other)
    enter("EDIT")
    before = desk()
    assert len(replace(other).data.polygons) == 4 and desk() == before and bpy.context.mode == "EDIT_MESH"


def test_a_mesh_that_others_use_stays_theirs():
    twin = bpy.data.objects.new("Twin", cube().data)
    bpy.context.scene.collection.objects.link(twin)
    replace()
    assert len(cube().data.polygons) == 4 and len(twin.data.polygons) == 6


def test_a_twin_of_an_edited_mesh_can_be_replaced():
    twin = bpy.data.objects.new("Twin", cube().data)
    bpy.context.scene.collection.objects.link(twin)
    enter("EDIT")
    assert len(replace(twin).data.polygons) == 4 and bpy.context.mode == "EDIT_MESH"
    with window():
        bpy.ops.object.mode_set(mode="OBJECT")
    assert len(cube().data.polygons) == 6


def test_what_cannot_be_kept_is_told():
    target = cube()
    target.shape_key_add(name="Basis")
    target.shape_key_add(name="Smile")
    target.vertex_groups.new(name="Arm").add([0, 1], 1.0, "REPLACE")
    target.vertex_groups.new(name="Leg")
    asked = replacing(target)
    harness.module("importer").place_result(asked, mesh_data())
    for words in ("shape keys", "weights", "UV maps"):
        assert words in asked.state_text, asked.state_text
    assert [group.name for group in target.vertex_groups] == ["Arm", "Leg"]  # modifiers name them
    assert target.data.shape_keys is None and bpy.data.meshes["Cube"].shape_keys is not None


def test_what_is_all_kept_tells_nothing():
    bare = bpy.data.objects.new("Bare", mesh_of_triangles())
    bpy.context.scene.collection.objects.link(bare)
    asked = replacing(bare)
    harness.module("importer").place_result(asked, mesh_data())
    assert asked.state_text == ""


def mesh_of_triangles() -> bpy.types.Mesh:
    return harness.module("mesh_build").build_mesh("Bare", mesh_data())


def test_materials_of_the_object_and_of_the_mesh_stay():
    target = cube()
    own, shared = bpy.data.materials.new("Own"), bpy.data.materials.new("Shared")
    target.data.materials.append(shared)
    target.material_slots[0].link = "OBJECT"
    target.material_slots[0].material = own
    target.active_material_index = 1
    replace()
    slots = [(slot.link, slot.material.name) for slot in target.material_slots]
    assert slots == [("OBJECT", "Own"), ("DATA", "Shared")] and target.active_material_index == 1
    assert {polygon.material_index for polygon in target.data.polygons} == {0}


def test_an_object_without_material_gets_clay():
    cube().data.materials.clear()
    replace()
    assert [material.name for material in cube().data.materials] == ["S2 Mesh Clay"]


def test_modifiers_that_need_the_old_vertices_do_no_harm():
    target = cube()
    multires = target.modifiers.new("Multires", "MULTIRES")
    with window(), bpy.context.temp_override(object=target, active_object=target):
        bpy.ops.object.multires_subdivide(modifier=multires.name)
    target.modifiers.new("Armature", "ARMATURE").vertex_group = "Gone"
    asked = replacing(target)
    made = harness.module("importer").place_result(asked, mesh_data())
    bpy.context.view_layer.update()
    made.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    assert "Multires" in asked.state_text and len(made.modifiers) == 2


def becomes_a_new_object(asked: object, words: str) -> None:
    made = harness.module("importer").place_result(asked, mesh_data())
    assert made.name.startswith("mug") and len(made.data.polygons) == 4
    assert words in asked.state_text and "new object" in asked.state_text, asked.state_text


def test_the_object_was_deleted():
    asked = replacing(cube())
    bpy.data.objects.remove(cube())
    becomes_a_new_object(asked, "no longer there")


def test_a_cube_of_another_file_is_another_cube():
    asked = replacing(cube())
    harness.reset()
    becomes_a_new_object(asked, "no longer there")
    assert len(cube().data.polygons) == 6


def test_undo_redo_and_renaming_keep_it_the_same_object():
    start_history()
    asked = replacing(cube())
    cube().name = "Teapot"
    with window():
        bpy.ops.ed.undo_push(message="Rename")
    undo()
    redo()
    assert harness.module("importer").place_result(asked, mesh_data()).name == "Teapot"


def test_it_is_no_mesh_any_more():
    wire = bpy.data.meshes.new("Wire")
    wire.from_pydata([(0, 0, 0), (1, 0, 0)], [(0, 1)], [])
    target = bpy.data.objects.new("Wire", wire)
    bpy.context.scene.collection.objects.link(target)
    asked = replacing(target)
    bpy.ops.object.select_all(action="DESELECT")
    target.select_set(True)
    bpy.context.view_layer.objects.active = target
    with window():
        bpy.ops.object.convert(target="CURVE")
    assert bpy.data.objects["Wire"].type == "CURVE"
    becomes_a_new_object(asked, "no mesh")


def test_a_linked_object_is_not_touched():
    path = str(harness.work / "library.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with bpy.data.libraries.load(path, link=True) as (_, into):
        into.objects = ["Cube"]
    bpy.context.scene.collection.objects.link(into.objects[0])
    becomes_a_new_object(replacing(into.objects[0]), "linked")
    assert len(bpy.data.objects["Cube"].data.polygons) == 6


def test_a_linked_mesh_on_an_own_object_becomes_its_own():
    path = str(harness.work / "meshes.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    with bpy.data.libraries.load(path, link=True) as (_, into):
        into.meshes = ["Cube"]
    own = bpy.data.objects.new("Own", into.meshes[0])
    bpy.context.scene.collection.objects.link(own)
    replace(own)
    assert own.data.library is None and len(own.data.polygons) == 4
    assert len(into.meshes[0].polygons) == 6


def test_hidden_objects_are_replaced_too():
    cube().hide_set(True)
    assert len(replace().data.polygons) == 4 and cube().hide_get()


def test_our_own_old_meshes_do_not_pile_up():
    replace()
    count = len(bpy.data.meshes)
    for _ in range(3):
        replace()
    assert len(bpy.data.meshes) == count
    assert "Cube" in bpy.data.meshes  # the artist's own mesh stays in the file until it is closed
