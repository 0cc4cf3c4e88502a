"""Panels, operators and settings as they stand: what is drawn, what is grey and why. Drawn into a layout that records.

The real drawing is looked at in a Blender with a window; here every line of it runs, with and without a server.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import bpy
import harness
from using_the_extension import MUG, app, generate, newest, pump, refusal, until

SERVER = "tiny"
FRESH = True

PANELS = ("Main", "Jobs", "Settings", "Quality", "Placement", "Server")
LAYOUT = bpy.types.UILayout.bl_rna


class Layout:
    """Takes what a UILayout takes, refuses what it does not, and remembers it."""

    def __init__(self, told: list[tuple[str, tuple, dict]]) -> None:
        object.__setattr__(self, "told", told)

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in LAYOUT.properties or name == "operator_context", f"UILayout has no property {name}"
        self.told.append((name, (value,), {}))

    def __getattr__(self, name: str) -> Any:
        function = LAYOUT.functions[name]  # KeyError: there is no such function

        def call(*args: Any, **keywords: Any) -> Any:
            known = {parameter.identifier for parameter in function.parameters}
            assert set(keywords) <= known, f"{name} knows no {set(keywords) - known}"
            if "icon" in keywords:
                icons = function.parameters["icon"].enum_items.keys()
                assert keywords["icon"] in icons, f"Blender has no icon {keywords['icon']}"
            if name == "prop":
                assert args[1] in args[0].bl_rna.properties, args[1]
            if name in ("operator", "menu"):
                check_target(name, args[0])
            self.told.append((name, args, keywords))
            return SimpleNamespace() if name == "operator" else Layout(self.told)

        return call


def check_target(kind: str, target: str) -> None:
    if kind == "menu":
        assert hasattr(bpy.types, target), target
    else:
        group, _, name = target.partition(".")
        assert name in dir(getattr(bpy.ops, group)), f"there is no operator {target}"


def drawn(*names: str) -> list[tuple[str, tuple, dict]]:
    """What the panels, or those of these names, draw."""
    told: list[tuple[str, tuple, dict]] = []
    for name in names or PANELS:
        kind = getattr(bpy.types, f"S2MESH_PT_{name}")
        for method in ("draw_header_preset", "draw"):
            if hasattr(kind, method):
                getattr(kind, method)(SimpleNamespace(layout=Layout(told)), bpy.context)
    for name in ("Models", "Resolutions"):
        getattr(bpy.types, f"S2MESH_MT_{name}").draw(SimpleNamespace(layout=Layout(told)), bpy.context)
    return told


def words(told: list[tuple[str, tuple, dict]]) -> str:
    return "\n".join(str(keywords["text"]) for _, _, keywords in told if keywords.get("text"))


def buttons(told: list[tuple[str, tuple, dict]]) -> set[str]:
    return {args[0] for name, args, _ in told if name == "operator"}


def ours() -> Iterator[str]:
    yield from (f"s2mesh.{name}" for name in dir(bpy.ops.s2mesh))


def test_every_operator_has_its_place():
    """Each is drawn somewhere, or is what a drop or a preset menu calls, or stands there during an installation."""
    until(lambda: app().is_online, "the server")
    generate(seed=1)
    bpy.context.window_manager.s2mesh.open_job = newest().key
    shown = buttons(drawn())
    bpy.ops.s2mesh.generate(filepath=MUG, seed=2)
    shown |= buttons(drawn())  # with a job that can be cancelled
    until(lambda: newest().imported, "the mesh")
    elsewhere = {"s2mesh.generate_dropped", "s2mesh.add_preset", "s2mesh.stop_installation"}
    assert set(ours()) - elsewhere <= shown, set(ours()) - elsewhere - shown


def test_a_job_tells_where_it_stands():
    until(lambda: app().is_online, "the server")
    harness.server.fault("slow", "structure")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=3, dense_steps=40)
        bpy.ops.s2mesh.generate(filepath=MUG, seed=4)
        until(lambda: app().newest_first()[1].job and app().newest_first()[1].job.stage == "structure", "its stage")
        until(lambda: newest().job and newest().job.queue_position == 1, "its place in the queue")
        told = drawn("Jobs")
        bars = [keywords for name, _, keywords in told if name == "progress"]
        assert bars and 0 <= bars[0]["factor"] <= 1 and "of 41" in bars[0]["text"], bars
        assert "Finding the rough shape" in words(told)
        assert "Waiting: next in line" in words(told)
        assert "s2mesh.cancel" in buttons(told)
        for record in app().newest_first()[:2]:
            bpy.ops.s2mesh.cancel(job_id=record.id, wait=True)
    finally:
        harness.server.no_fault()
    assert "Cancelled" in words(drawn("Jobs"))


def test_a_failed_job_says_why_and_what_to_do():
    harness.server.fault("memory", "structure")
    try:
        bpy.ops.s2mesh.generate(filepath=MUG, seed=5)
        record = newest()
        until(lambda: record.state == "failed", "its end")
    finally:
        harness.server.no_fault()
    text = words(drawn("Jobs")).replace("\n", " ")
    assert "memory" in text and record.job.error.advice.split()[0] in text, text


def test_the_server_line_says_what_is_there():
    until(lambda: app().is_online, "the server")
    generate(seed=6)
    until(lambda: "Ready" in words(drawn("Main")), "the line, which is kept fresh while it is drawn")
    text = words(drawn("Main", "Server"))
    assert harness.server.url in text and app().ready.device is not None
    assert app().capabilities.preset("tiny").title in words(drawn())


def test_what_the_server_does_not_take_is_said_before_it_is_sent():
    until(lambda: app().capabilities, "the server's limits")
    settings = bpy.context.scene.s2mesh
    settings.preset, settings.resolution = "tiny", 512
    text = words(drawn("Main")).replace("\n", " ")
    assert "no resolution 512" in text and "it has 32" in text, text
    settings.preset, settings.resolution = "gone", 0
    assert "no model gone" in words(drawn("Main")).replace("\n", " ")
    settings.preset = ""
    assert "no model" not in words(drawn("Main"))


def test_limits_are_the_server_s():
    until(lambda: app().capabilities, "the server's limits")
    settings = bpy.context.scene.s2mesh
    settings.use_dense_steps = True
    assert "1 to 1000 on this server" in words(drawn("Quality"))


def test_replace_selected_names_its_target_or_says_what_is_missing():
    settings = bpy.context.scene.s2mesh
    settings.replace = True
    assert "Cube" in words(drawn("Placement"))
    bpy.context.view_layer.objects.active = bpy.data.objects["Light"]
    bpy.data.objects["Light"].select_set(True)
    assert "Light is not a mesh" in words(drawn("Placement"))


def test_long_texts_are_broken_into_lines():
    wrapped = harness.module("words").wrapped
    text = "The server ended with status 2: " + "/a/very/long/path" * 10 + " and more words than fit"
    lines = wrapped(text, 30)
    assert all(len(line) <= 30 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_grey_buttons_say_why():
    ops = bpy.ops.s2mesh
    until(lambda: app().is_online, "the server")
    assert not ops.start_server.poll() and not ops.stop_server.poll() and ops.unload.poll() in (True, False)
    assert not ops.use_viewport.poll()
    bpy.context.scene.camera = None
    assert not ops.use_render.poll()
    for call, reason in ((ops.start_server, "It runs already"), (ops.stop_server, "Another program started it")):
        try:
            call()
        except RuntimeError as error:
            assert reason in str(error), str(error)
        else:
            raise AssertionError(f"{call} was not refused")


def test_the_settings_survive_a_preset_and_back():
    settings = bpy.context.scene.s2mesh
    folders = bpy.utils.preset_paths("s2mesh")
    assert folders, "Blender does not find our presets"
    names = {path.stem for folder in folders for path in harness.Path(folder).glob("*.py")}
    assert names >= {"draft", "standard", "high"}, names
    for folder in folders:
        for path in harness.Path(folder).glob("draft.py"):
            bpy.ops.script.execute_preset(filepath=str(path), menu_idname="S2MESH_MT_Presets")
    assert settings.use_dense_steps and settings.dense_steps == 8 and settings.use_faces
    settings.dense_guidance, settings.use_dense_guidance = 3.25, True
    assert bpy.ops.s2mesh.add_preset(name="My Own") == {"FINISHED"}
    settings.dense_guidance = 1.0
    own = harness.Path(bpy.utils.user_resource("SCRIPTS", path="presets/s2mesh"), "My_Own.py")
    bpy.ops.script.execute_preset(filepath=str(own), menu_idname="S2MESH_MT_Presets")
    assert settings.dense_guidance == 3.25
    assert bpy.ops.s2mesh.add_preset(name="My_Own", remove_name=True) == {"FINISHED"}
    assert not own.exists()


def test_a_preference_is_the_size_of_scenes_without_their_own():
    harness.preferences().size = 0.25
    made = generate(seed=7)
    assert abs(max(made.dimensions) - 0.25) < 1e-4
    bpy.context.scene.s2mesh.size = 2.0
    assert abs(max(generate(seed=7).dimensions) - 2.0) < 1e-3


def test_a_dropped_file_stands_where_it_was_dropped():
    assert bpy.types.S2MESH_FH_picture.bl_import_operator == "s2mesh.generate_dropped"
    result = bpy.ops.s2mesh.generate_dropped(
        directory=str(harness.PICTURES), files=[{"name": "mug.png"}, {"name": "chair.png"}], location=(1, 2, 3)
    )
    assert result == {"FINISHED"}
    chair, mug = app().newest_first()[:2]
    until(lambda: mug.imported and chair.imported, "the meshes")
    assert tuple(bpy.data.objects[mug.object_name].location) == (1, 2, 3)
    assert bpy.data.objects[chair.object_name].location.x > 1


def test_the_drop_point_is_on_the_floor():
    from mathutils import Vector

    on_floor = harness.module("drop").on_floor
    assert on_floor(Vector((0, 0, 10)), Vector((1, 0, -1))) == Vector((10, 0, 0))
    assert on_floor(Vector((0, 0, 10)), Vector((1, 0, 0))) is None, "along the floor"
    assert on_floor(Vector((0, 0, 10)), Vector((0, 0, 1))) is None, "away from it"


def test_the_doctor_s_report_has_all_and_no_secret():
    until(lambda: app().is_online, "the server")
    assert bpy.ops.s2mesh.doctor() == {"FINISHED"}
    report = bpy.data.texts["S2 Mesh Report"].as_string()
    for part in (bpy.app.version_string, harness.server.url, "Online Access", "tiny"):
        assert part in report, report
    assert harness.server.token not in report


def test_the_timer_is_there_once_and_in_every_file():
    main_thread = harness.module("main_thread")
    assert bpy.app.timers.is_registered(main_thread.tick)
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    assert bpy.app.timers.is_registered(main_thread.tick)
    assert 0.05 <= main_thread.tick() <= 2.0


def test_the_first_answer_needs_no_button():
    harness.disable()
    harness.enable()
    pump(0.1)
    until(lambda: app().is_online and app().list_came, "the server, by itself")


def test_a_chosen_file_and_a_render_become_the_picture():
    scene = bpy.context.scene
    assert bpy.ops.s2mesh.choose_file(filepath=MUG) == {"FINISHED"}
    assert scene.s2mesh.picture.name == "mug.png"
    message = refusal(lambda: bpy.ops.s2mesh.choose_file(filepath=__file__))
    assert "cannot be opened as a picture" in message and scene.s2mesh.picture.name == "mug.png", message
    scene.render.engine, scene.cycles.samples = "CYCLES", 1
    scene.render.resolution_x = scene.render.resolution_y = 32
    scene.render.film_transparent = True
    assert bpy.ops.s2mesh.use_render() == {"FINISHED"}
    image = scene.s2mesh.picture
    assert image.name == "Render" and tuple(image.size) == (32, 32) and image.packed_file, "kept in the .blend"


def test_the_seed_that_is_drawn_is_kept():
    settings = bpy.context.scene.s2mesh
    drawn_seeds = set()
    for _ in range(5):
        assert bpy.ops.s2mesh.roll_seed() == {"FINISHED"}
        drawn_seeds.add(settings.seed)
    assert len(drawn_seeds) == 5 and not settings.use_random_seed
