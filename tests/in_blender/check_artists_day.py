"""The artist goes on working while a job runs: undo, another file, another scene, Edit Mode. Nothing is lost."""

from __future__ import annotations

import bpy
import harness
from importing import redo, start_history, undo
from using_the_extension import MUG, app, generate, newest, pump, refusal, until

SERVER = "tiny"
FRESH = True


def test_undo_takes_the_mesh_and_redo_brings_it_but_the_list_stays():
    start_history()
    generate(seed=11)
    record = newest()
    jobs = len(app().session)
    name = record.object_name
    undo()
    assert name not in bpy.data.objects
    assert len(app().session) == jobs and newest() is record and record.state == "succeeded"
    redo()
    assert name in bpy.data.objects and len(app().session) == jobs


def test_a_job_goes_on_through_save_and_reload():
    path = str(harness.work / "in_the_middle.blend")
    harness.server.fault("slow", "structure")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=12, dense_steps=10)
        record = newest()
        until(lambda: record.state == "running", "its start")
        bpy.ops.wm.save_as_mainfile(filepath=path)
        bpy.ops.wm.open_mainfile(filepath=path)
    finally:
        harness.server.no_fault()
    until(lambda: record.imported, "the mesh")
    assert record.object_name in bpy.context.scene.objects
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    assert record.object_name in bpy.context.scene.objects and newest() is record


def test_a_result_goes_to_the_scene_it_was_asked_from():
    first = bpy.context.scene
    bpy.ops.s2mesh.generate(filepath=MUG, seed=13)
    record = newest()
    other = bpy.data.scenes.new("Other")
    bpy.context.window.scene = other
    until(lambda: record.imported, "the mesh")
    assert record.object_name in first.objects and record.object_name not in other.objects
    assert bpy.context.window.scene == other


def test_a_result_that_arrives_in_edit_mode_leaves_the_mode():
    bpy.ops.object.mode_set(mode="EDIT")
    bpy.ops.s2mesh.generate(filepath=MUG, seed=14, wait=True)
    assert bpy.context.mode == "EDIT_MESH" and bpy.context.active_object.name == "Cube"
    assert newest().object_name in bpy.context.scene.objects
    bpy.ops.object.mode_set(mode="OBJECT")


def test_replacing_what_is_edited_waits_until_the_mode_is_left():
    bpy.context.view_layer.objects.active = bpy.data.objects["Cube"]
    bpy.data.objects["Cube"].select_set(True)
    bpy.ops.s2mesh.generate(filepath=MUG, seed=14, replace=True)
    record = newest()
    bpy.ops.object.mode_set(mode="EDIT")
    until(lambda: app().arrived, "the result")
    pump()
    assert not record.imported and "Edit Mode" in record.state_text, record.state_text
    assert len(bpy.data.objects["Cube"].data.polygons) == 6
    bpy.ops.object.mode_set(mode="OBJECT")
    until(lambda: record.imported, "the mesh")
    assert len(bpy.data.objects["Cube"].data.polygons) > 6


def test_a_script_that_would_wait_for_ever_is_told_why():
    cube = bpy.data.objects["Cube"]
    bpy.context.view_layer.objects.active = cube
    cube.select_set(True)
    bpy.ops.object.mode_set(mode="EDIT")
    message = refusal(lambda: bpy.ops.s2mesh.generate(filepath=MUG, seed=14, replace=True, wait=True))
    assert "Edit Mode" in message, message
    bpy.ops.object.mode_set(mode="OBJECT")
    until(lambda: newest().imported, "the mesh, once the mode is left")
