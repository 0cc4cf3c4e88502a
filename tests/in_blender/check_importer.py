"""A result comes while the artist is at work: in any mode, another scene, after undo, after another file was opened."""

from __future__ import annotations

import bpy
import harness
from importing import desk, enter, history, mesh_data, record, redo, start_history, undo, window

SERVER = None


def place(**changes: object) -> bpy.types.Object:
    return harness.module("importer").place_result(record(**changes), mesh_data())


def names() -> list[str]:
    return sorted(item.name for item in bpy.data.objects)


FACTORY = ["Camera", "Cube", "Light"]


def undisturbed(mode: str) -> None:
    """The artist's desk is as it was; one undo takes the result away, redo brings it back, in the same mode."""
    start_history()
    if mode != "OBJECT":
        enter(mode)
    before, steps = desk(), history()
    place()
    assert desk() == before and names() == [*FACTORY, "mug"]
    assert history() == [*steps, "S2 Mesh: mug"]
    undo()
    assert names() == FACTORY and desk() == before
    redo()
    assert names() == [*FACTORY, "mug"] and desk() == before
    assert len(bpy.data.objects["mug"].data.polygons) == 4 and bpy.data.objects["mug"]["s2mesh"]["job_id"]


def test_in_object_mode():
    undisturbed("OBJECT")


def test_in_edit_mode():
    undisturbed("EDIT")


def test_in_sculpt_mode():
    undisturbed("SCULPT")


def test_in_weight_paint():
    undisturbed("WEIGHT_PAINT")


def test_in_vertex_paint():
    undisturbed("VERTEX_PAINT")


def test_in_texture_paint():
    undisturbed("TEXTURE_PAINT")


def test_an_edit_under_way_is_not_lost():
    """What was done in Edit Mode before and after the import stays, and each step can be undone for itself."""
    start_history()
    enter("EDIT")
    with window():
        bpy.ops.mesh.select_all(action="SELECT")
        bpy.ops.mesh.subdivide()
        bpy.ops.ed.undo_push(message="Subdivide")
    place()
    with window():
        bpy.ops.mesh.subdivide()
        bpy.ops.ed.undo_push(message="Subdivide again")

    def cube() -> int:
        bpy.data.objects["Cube"].update_from_editmode()
        return len(bpy.data.objects["Cube"].data.vertices)

    assert cube() == 98 and "mug" in names()
    undo()
    assert cube() == 26 and "mug" in names()
    undo()
    assert cube() == 26 and "mug" not in names()
    undo()
    assert cube() == 8 and bpy.context.mode == "EDIT_MESH"
    redo()
    redo()
    redo()
    assert cube() == 98 and "mug" in names() and bpy.context.mode == "EDIT_MESH"


def test_nothing_selected_and_no_active_object():
    bpy.ops.object.select_all(action="DESELECT")
    bpy.context.view_layer.objects.active = None
    before = desk()
    place()
    assert desk() == before and before["active"] is None


def test_another_scene_is_shown_now():
    """It comes into the scene that it was made for; the artist stays where he is."""
    asked = record()
    other = bpy.data.scenes.new("Other")
    bpy.context.window.scene = other
    before = desk()
    made = harness.module("importer").place_result(asked, mesh_data())
    assert desk() == before and before["scene"] == "Other"
    assert made.users_scene == (bpy.data.scenes["Scene"],) and made.users_collection[0].name == "Collection"


def test_its_scene_is_gone():
    other = bpy.data.scenes.new("Short-lived")
    asked = record(scene_name=other.name)
    bpy.data.scenes.remove(other)
    made = harness.module("importer").place_result(asked, mesh_data())
    assert made.users_scene == (bpy.context.scene,)


def test_after_undo_of_what_was_done_since():
    start_history()
    asked = record()
    bpy.data.objects["Cube"].location.x = 5
    with window():
        bpy.ops.ed.undo_push(message="Move")
    undo()
    made = harness.module("importer").place_result(asked, mesh_data())
    assert bpy.data.objects["Cube"].location.x == 0 and made.name in names()
    undo()
    assert names() == FACTORY
    redo()
    assert names() == [*FACTORY, "mug"]


def test_another_file_was_opened():
    """Nothing of the old file is held; the result comes into the scene that is open, and only there."""
    asked = record(collection_name="Collection")
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    made = harness.module("importer").place_result(asked, mesh_data())
    assert names() == ["mug"] and made.users_scene == (bpy.context.scene,)


def test_into_the_collection_that_was_active():
    kitchen = bpy.data.collections.new("Kitchen")
    bpy.context.scene.collection.children.link(kitchen)
    assert place(collection_name="Kitchen").users_collection == (kitchen,)
    bpy.data.collections.remove(kitchen)
    assert place(collection_name="Kitchen").users_collection == (bpy.context.scene.collection,)


def test_not_into_a_collection_where_nobody_sees_it():
    """Hidden, excluded or hidden within another: it moves up to one that is shown, and says so."""
    top, outer, inner = bpy.context.scene.collection, *map(bpy.data.collections.new, ("Outer", "Inner"))
    top.children.link(outer)
    outer.children.link(inner)
    layer = bpy.context.view_layer.layer_collection.children["Outer"]

    def lands() -> str:
        asked = record(collection_name="Inner")
        made = harness.module("importer").place_result(asked, mesh_data())
        bpy.context.view_layer.update()
        assert made.visible_get() and ("hidden" in asked.state_text) == (made.users_collection != (inner,))
        return made.users_collection[0].name

    assert lands() == "Inner"
    layer.children["Inner"].hide_viewport = True
    assert lands() == "Outer"
    layer.children["Inner"].hide_viewport = False
    inner.hide_viewport = True
    assert lands() == "Outer"
    inner.hide_viewport = False
    layer.exclude = True
    assert lands() == top.name


def test_a_collection_of_another_scene_is_not_used():
    other = bpy.data.scenes.new("Other")
    foreign = bpy.data.collections.new("Foreign")
    other.collection.children.link(foreign)
    assert place(collection_name="Foreign").users_scene == (bpy.context.scene,)


def test_two_results_with_one_title_are_two_steps():
    start_history()
    first, second = place(), place()
    assert first != second and first.data != second.data and second.name == "mug.001"
    undo()
    assert names() == [*FACTORY, "mug"]
    undo()
    assert names() == FACTORY


def test_with_undo_switched_off_it_still_comes():
    bpy.context.preferences.edit.use_global_undo = False
    try:
        assert place().name == "mug"
    finally:
        bpy.context.preferences.edit.use_global_undo = True


def test_saved_and_opened_again_it_is_the_same():
    place()
    path = str(harness.work / "scene.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    mug = bpy.data.objects["mug"]
    assert len(mug.data.polygons) == 4 and not mug.data.validate()
    assert not [key for scene in bpy.data.scenes for key in scene.keys() if "job" in key]  # noqa: SIM118 (no dict)
