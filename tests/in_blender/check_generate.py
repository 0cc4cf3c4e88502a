"""Whole generations against the real server with its tiny presets: by operator, by script, and what follows them."""

from __future__ import annotations

import time
from collections.abc import Callable

import bpy
import harness
import numpy as np
from using_the_extension import MUG, app, generate, newest, pump, refusal, until

SERVER = "tiny"
FRESH = True
LIMIT_S = 400


def test_the_operator_waits_and_the_mesh_is_the_active_object():
    assert bpy.ops.s2mesh.generate(filepath=MUG, seed=7, size=0.3, wait=True) == {"FINISHED"}
    made = bpy.context.view_layer.objects.active
    assert made.type == "MESH" and made.name == "mug" and made.select_get()
    assert [item for item in bpy.context.scene.objects if item.select_get()] == [made]
    assert_close(max(made.dimensions), 0.3)
    assert harness.module("provenance").provenance_of(made)["seed"] == 7
    assert newest().job.options["seed"] == 7 and newest().imported


def assert_close(value: float, wanted: float) -> None:
    assert abs(value - wanted) <= 1e-4 * max(abs(wanted), 1), (value, wanted)  # float32 coordinates


def box_of(made: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    points = np.array([made.matrix_world @ vertex.co for vertex in made.data.vertices])
    return points.min(axis=0), points.max(axis=0)


def test_place_size_and_origin_are_those_of_the_call():
    api = harness.module("api")
    bpy.context.scene.cursor.location = (1, 2, 3)
    base = api.generate(MUG, seed=1, size=0.5)
    low, high = box_of(base)
    assert_close((high - low).max(), 0.5)
    assert_close(low[2], 3.0)
    assert_close((low + high)[0] / 2, 1.0)
    center = api.generate(MUG, seed=1, size=2.0, origin="CENTER", location=(-4, 0, 0))
    low, high = box_of(center)
    assert_close((high - low).max(), 2.0)
    for axis, wanted in enumerate((-4, 0, 0)):
        assert_close((low + high)[axis] / 2, wanted)


def test_what_the_scene_says_holds_where_a_call_says_nothing():
    settings = bpy.context.scene.s2mesh
    settings.picture = bpy.data.images.load(MUG)
    settings.use_random_seed, settings.seed = False, 21
    settings.use_dense_steps, settings.dense_steps = True, 5
    settings.preset, settings.resolution = "tiny-two", 32
    settings.remove_floaters = False
    settings.place_at, settings.size = "WORLD", 0.7
    bpy.context.scene.cursor.location = (9, 9, 9)
    assert bpy.ops.s2mesh.generate(wait=True) == {"FINISHED"}
    options = newest().job.options
    wanted = {"seed": 21, "dense_steps": 5, "preset": "tiny-two", "resolution": 32, "remove_floaters": False}
    assert {name: options[name] for name in wanted} == wanted
    assert options["sparse_steps"] is None and options["faces"] is None
    made = bpy.context.active_object
    assert tuple(made.location) == (0, 0, 0)
    assert_close(max(made.dimensions), 0.7)


def test_several_seeds_stand_in_a_row():
    assert bpy.ops.s2mesh.generate(filepath=MUG, seed=3, count=3, size=1.0, wait=True) == {"FINISHED"}
    records = sorted(app().newest_first()[:3], key=lambda record: record.job.options["seed"])
    assert [record.job.options["seed"] for record in records] == [3, 4, 5]
    places = [bpy.data.objects[record.object_name].location.x for record in records]
    assert places[1] - places[0] >= 1.0 and places[2] - places[1] >= 1.0, places


def test_replace_selected_keeps_the_object():
    cube = bpy.data.objects["Cube"]
    bpy.context.view_layer.objects.active = cube
    cube.select_set(True)
    cube.location, cube.rotation_euler = (5, 6, 7), (0.1, 0.2, 0.3)
    cube.modifiers.new("Bevel", "BEVEL")
    material = cube.material_slots[0].material
    bpy.context.view_layer.update()
    before = cube.matrix_world.copy(), set(bpy.data.objects.keys())
    assert bpy.ops.s2mesh.generate(filepath=MUG, seed=2, replace=True, wait=True) == {"FINISHED"}
    cube = bpy.data.objects["Cube"]
    assert len(cube.data.polygons) > 6 and cube.modifiers["Bevel"] and cube.material_slots[0].material == material
    assert cube.matrix_world == before[0]
    assert set(bpy.data.objects.keys()) == before[1], bpy.data.objects.keys()


def test_replace_without_a_mesh_selected_says_what_to_do():
    for item in bpy.context.scene.objects:
        item.select_set(False)
    message = refusal(lambda: bpy.ops.s2mesh.generate(filepath=MUG, replace=True, wait=True))
    assert "Select the mesh object" in message and "Replace Selected" in message, message


def test_a_script_submits_waits_and_imports():
    api = harness.module("api")
    jobs = [api.submit(harness.PICTURES / name, seed=1, size=0.2) for name in ("mug.png", "chair.png")]
    assert all(job.state in ("sending", "queued", "running") for job in jobs)
    made = [job.wait().import_mesh() for job in jobs]
    assert [item.name for item in made] == ["mug", "chair"]
    assert jobs[0].state == "succeeded" and jobs[0].progress == 1.0 and jobs[0].seed == 1
    assert jobs[0].import_mesh() == made[0], "the same object, not a second one"


def test_a_script_gives_bytes_or_an_image():
    api = harness.module("api")
    assert api.generate((harness.PICTURES / "mug.png").read_bytes(), seed=1).type == "MESH"
    image = bpy.data.images.new("Painted", 32, 32, alpha=True)
    image.pixels[:] = np.tile([0.8, 0.3, 0.1, 1.0], 32 * 32)
    assert api.generate(image, seed=1).name.startswith("Painted")


def test_what_a_script_gets_wrong_is_said_before_anything_is_sent():
    api = harness.module("api")
    generate(seed=1)  # the server's limits are known now
    count = len(app().session)
    for options, words in (
        ({"colour": "red"}, "no option colour"),
        ({"dense_steps": 5000}, "1 to 1000"),
        ({"preset": "huge"}, "no model huge"),
        ({"resolution": 999}, "it has 32"),
        ({"background": "blue"}, "auto"),
    ):
        try:
            api.submit(MUG, **options)
        except api.S2MeshError as error:
            assert words in str(error), (options, str(error))
        else:
            raise AssertionError(f"{options} was sent")
    assert len(app().session) == count


def test_submitting_does_not_wait_and_pumping_brings_the_mesh():
    started = newest()
    assert bpy.ops.s2mesh.generate(filepath=MUG, seed=4) == {"FINISHED"}
    record = newest()
    assert record is not started and not record.imported
    assert bpy.context.view_layer.objects.active.name == "Cube", "the operator without wait leaves the selection"
    until(lambda: record.imported, "the mesh")
    assert bpy.context.view_layer.objects.active.name == "Cube"


def test_cancel_ends_it_and_leaves_nothing_in_the_scene():
    harness.server.fault("slow", "structure")
    try:
        before = set(bpy.data.objects.keys())
        bpy.ops.s2mesh.generate(filepath=MUG, seed=5, dense_steps=50)
        record = newest()
        until(lambda: record.state == "running", "its start")
        assert bpy.ops.s2mesh.cancel(job_id=record.id, wait=True) == {"FINISHED"}
        assert record.state == "cancelled" and set(bpy.data.objects.keys()) == before
    finally:
        harness.server.no_fault()
    assert "has ended already" not in refusal_or_nothing(lambda: bpy.ops.s2mesh.cancel(job_id=record.id))


def refusal_or_nothing(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return ""


def test_the_stand_in_comes_first_and_goes_when_the_mesh_is_there():
    importer = harness.module("importer")
    harness.server.fault("slow", "detail 32")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=6, sparse_steps=8)
        record = newest()
        until(lambda: record.stand_in_name, "the stand-in")
        assert record.state == "running" and record.stand_in_name in bpy.data.objects
    finally:
        harness.server.no_fault()
    until(lambda: record.imported, "the mesh")
    assert not importer.has_stand_in(record) and record.object_name in bpy.data.objects


def test_generate_again_with_the_same_and_with_another_seed():
    generate(seed=8, size=0.4)
    first = newest()
    assert bpy.ops.s2mesh.regenerate(job_id=first.id, wait=True) == {"FINISHED"}
    same = newest()
    assert same.job.options == first.job.options
    assert bpy.ops.s2mesh.regenerate(job_id=first.id, new_seed=True, wait=True) == {"FINISHED"}
    other = newest()
    assert other.job.options["seed"] != 8
    counts = {len(bpy.data.objects[record.object_name].data.vertices) for record in (first, same)}
    assert len(counts) == 1, "the same seed gives the same mesh"
    places = {tuple(record.placement.location) for record in (first, same, other)}
    assert len(places) == 3 and other.placement.size == first.placement.size


def test_import_again_goes_to_the_cursor_with_the_set_size():
    generate(seed=9, size=0.4)
    record = newest()
    bpy.context.scene.cursor.location = (0, 0, 10)
    bpy.context.scene.s2mesh.size = 3.0
    assert bpy.ops.s2mesh.import_result(job_id=record.id, wait=True) == {"FINISHED"}
    made = bpy.context.active_object
    assert made.name == "mug.001" and made.location.z == 10
    assert_close(max(made.dimensions), 3.0)


def test_copied_python_makes_the_same_again():
    generate(seed=10, size=0.6, dense_steps=4)
    record = newest()
    assert bpy.ops.s2mesh.copy_as_python(job_id=record.id) == {"FINISHED"}
    text = harness.module("as_python").script(app(), record)
    first = len(bpy.data.objects[record.object_name].data.vertices)
    before = set(bpy.data.objects.keys())
    exec(compile(text, "copied", "exec"), {"__name__": "copied"})
    (made,) = set(bpy.data.objects.keys()) - before
    assert len(bpy.data.objects[made].data.vertices) == first
    assert_close(max(bpy.data.objects[made].dimensions), 0.6)
    assert newest().job.options == record.job.options


def test_jobs_are_found_again_after_a_restart_of_the_extension():
    generate(seed=15, size=0.8)
    job_id = newest().id
    before = set(bpy.data.objects.keys())
    harness.disable()
    harness.enable()
    assert bpy.ops.s2mesh.connect(wait=True) == {"FINISHED"}
    found = app().session.find(job_id)
    assert found is not None and found.state == "succeeded" and not found.wanted
    pump(1.0)
    assert set(bpy.data.objects.keys()) == before, "shown, not imported by itself"
    assert bpy.ops.s2mesh.import_result(job_id=job_id, wait=True) == {"FINISHED"}
    assert bpy.ops.s2mesh.regenerate(job_id=job_id, wait=True) == {"FINISHED"}  # with the server's copy of the picture
    assert newest().id != job_id and newest().job.options["seed"] == 15
    text = harness.module("as_python").script(app(), found)
    compile(text, "copied", "exec")


def test_it_goes_off_while_a_job_runs_and_the_job_stays_on_the_server():
    harness.server.fault("slow", "structure")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=16, dense_steps=12)
        record = newest()
        until(lambda: record.state == "running", "its start")
        started = time.monotonic()
        harness.disable()
        assert time.monotonic() - started < 4.0  # threads have 2 s; the rest is a slow machine
    finally:
        harness.server.no_fault()
    harness.wait_for(lambda: harness.server.get(f"/v1/jobs/{record.id}")["state"] == "succeeded", "its end")
    harness.enable()


def test_delete_and_clear():
    generate(seed=17)
    record = newest()
    assert bpy.ops.s2mesh.delete_job(job_id=record.id) == {"FINISHED"}
    until(lambda: app().session.find(record.id) is None, "it to be gone")
    assert record.object_name in bpy.data.objects
    generate(seed=18)
    shown = {record.id for record in app().session}
    assert bpy.ops.s2mesh.clear_finished() == {"FINISHED"}
    until(lambda: not len(app().session), "an empty list")
    assert not shown & {job["id"] for job in harness.server.get("/v1/jobs?limit=100")["jobs"]}
    assert not bpy.ops.s2mesh.clear_finished.poll() and not bpy.ops.s2mesh.cancel.poll()
