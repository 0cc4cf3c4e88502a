"""The coarse structure in the scene: translucent, out of the way, and gone when it should be."""

from __future__ import annotations

import bpy
import harness
from importing import (
    JOB,
    desk,
    enter,
    history,
    longest_side,
    mesh_data,
    record,
    redo,
    replacing,
    start_history,
    undo,
    window,
    without_handlers,
)
from importing import world_corners_of as corners

SERVER = None


def coarse() -> list[str]:
    return sorted(item.name for item in bpy.data.objects if "s2mesh_stand_in" in item)


def test_it_is_translucent_out_of_the_way_and_in_no_render():
    importer, asked, before = harness.module("importer"), record(location=(1, 2, 3)), desk()
    made = importer.show_stand_in(asked, mesh_data())
    assert made.name == "mug (coarse)" == asked.stand_in_name and desk() == before
    assert made.hide_render and made.hide_select and made.show_transparent
    assert made.color[3] < 1 and made.data.materials[0].diffuse_color[3] < 1  # either kind of colour in Solid mode
    assert abs(longest_side(corners(made)) - 0.3) < 1e-6 and tuple(made.location) == (1, 2, 3)
    assert importer.has_stand_in(asked)


def test_it_makes_no_undo_step_in_any_mode():
    for mode in ("OBJECT", "EDIT", "SCULPT"):
        harness.reset()
        start_history()
        if mode != "OBJECT":
            enter(mode)
        before, steps = desk(), history()
        harness.module("importer").show_stand_in(record(), mesh_data())
        harness.module("importer").remove_stand_in(record())
        assert desk() == before and history() == steps and not coarse()


def test_a_newer_one_takes_its_place():
    importer, asked = harness.module("importer"), record()
    importer.show_stand_in(asked, mesh_data())
    importer.show_stand_in(asked, mesh_data())
    assert coarse() == ["mug (coarse)"] == [asked.stand_in_name]


def test_the_result_removes_it_and_all_that_it_brought():
    importer, asked, other = harness.module("importer"), record(), record(id="cd" * 16)
    importer.show_stand_in(asked, mesh_data())
    importer.show_stand_in(other, mesh_data())
    importer.place_result(asked, mesh_data())
    assert len(coarse()) == 1 and "mug" in bpy.data.objects and asked.stand_in_name == ""
    importer.remove_stand_in(other)
    assert not coarse() and "S2 Mesh Coarse" not in bpy.data.materials
    assert not [mesh.name for mesh in bpy.data.meshes if "coarse" in mesh.name]


def test_it_was_deleted_or_its_collection_was():
    importer, asked = harness.module("importer"), record()
    bpy.data.objects.remove(importer.show_stand_in(asked, mesh_data()))
    importer.remove_stand_in(asked)
    importer.show_stand_in(asked, mesh_data())
    bpy.data.collections.remove(bpy.data.collections["Collection"])
    importer.remove_stand_in(asked)
    assert not coarse() and importer.place_result(asked, mesh_data()).users_scene


def test_renamed_and_copied_ones_are_found():
    importer, asked = harness.module("importer"), record()
    made = importer.show_stand_in(asked, mesh_data())
    made.name = "Mine"
    copy = made.copy()
    bpy.context.scene.collection.objects.link(copy)
    importer.remove_stand_in(asked)
    assert not coarse() and "Mine" not in bpy.data.objects


def test_undo_takes_it_away_and_redo_brings_it_back():
    importer, asked = harness.module("importer"), record()
    start_history()
    importer.show_stand_in(asked, mesh_data())
    with window():
        bpy.ops.ed.undo_push(message="The artist's own step")
    with without_handlers():
        undo()
        assert not coarse() and not importer.has_stand_in(asked)
        redo()
    assert coarse() and importer.has_stand_in(asked)
    importer.remove_stand_in(asked)
    assert not coarse()


def test_one_that_undo_brings_back_is_stale():
    """The result replaced it; undo goes back to a step in which it stood there."""
    importer, asked = harness.module("importer"), record()
    start_history()
    importer.show_stand_in(asked, mesh_data())
    with window():
        bpy.ops.ed.undo_push(message="The artist's own step")
    importer.place_result(asked, mesh_data())
    with without_handlers():
        undo()
    assert coarse() == ["mug (coarse)"]
    assert importer.remove_stale_stand_ins([]) == 1 and not coarse()
    redo()
    assert "mug" in bpy.data.objects and not coarse()


def test_a_file_saved_with_one_is_cleaned_when_it_is_opened():
    importer = harness.module("importer")
    importer.show_stand_in(record(), mesh_data())
    importer.show_stand_in(record(id="cd" * 16), mesh_data())
    path = str(harness.work / "with_stand_in.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    harness.reset()
    with without_handlers():
        bpy.ops.wm.open_mainfile(filepath=path)
    importer.remove_stale_stand_ins([JOB])
    assert len(coarse()) == 1 and importer.has_stand_in(record())
    importer.remove_stand_in(record())
    assert not coarse()


def test_the_extension_removes_stale_ones_by_itself():
    """Of jobs that it does not know as running: after undo, redo, and opening a file."""
    start_history()
    harness.module("importer").show_stand_in(record(), mesh_data())
    for message in ("The artist's own step", "Another"):
        with window():
            bpy.ops.ed.undo_push(message=message)
    assert coarse()
    undo()
    assert not coarse()
    redo()
    assert not coarse()
    harness.module("importer").show_stand_in(record(), mesh_data())
    path = str(harness.work / "with_stand_in.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert not coarse()


def test_one_that_is_edited_becomes_the_artist_s():
    importer, asked = harness.module("importer"), record()
    made = importer.show_stand_in(asked, mesh_data())
    name = made.name
    enter("EDIT", name)
    importer.place_result(asked, mesh_data())
    kept = bpy.data.objects[name]
    assert kept.mode == "EDIT" and not coarse() and not kept.hide_render and "mug" in bpy.data.objects


def test_over_the_object_that_is_to_be_replaced():
    cube = bpy.data.objects["Cube"]
    cube.scale, cube.location = (3, 3, 3), (5, 0, 0)
    bpy.context.view_layer.update()
    made = harness.module("importer").show_stand_in(replacing(cube), mesh_data())
    assert abs(longest_side(corners(made)) - 6) < 1e-5 and len(cube.data.polygons) == 6
    assert abs(corners(made)[:, 0].mean() - 5) < 3


def test_over_an_object_in_edit_mode():
    enter("EDIT")
    asked = replacing(bpy.data.objects["Cube"])
    before = desk()
    made = harness.module("importer").show_stand_in(asked, mesh_data())
    assert desk() == before and abs(longest_side(corners(made)) - 2) < 1e-5
