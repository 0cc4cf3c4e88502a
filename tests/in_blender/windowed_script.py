"""An artist's session in a Blender with a window, by mouse and keys. Runs in Blender; windowed.py starts it.

    blender --enable-event-simulate --python windowed_script.py -- TASK

TASK is a JSON file: where the zip and the picture are, and folders for pictures of the screen and for what is asked of
the outside (to kill the server, to start it). What happens is told in a file, a JSON object a line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import addon_utils
import bpy
from mathutils import Vector

sys.path.insert(0, str(Path(__file__).parent))
from windowed_hand import Hand, Steps, pause, until  # noqa: E402 (beside this file)

PACKAGE = "bl_ext.user_default.s2mesh"
STAND_IN = "s2mesh_stand_in"  # property of the coarse structure's object
JOB_S = 300.0  # for a generation on a busy machine
SIZE = 2.0  # of results
TICK_S = 0.01
GENERATE, CANCEL, FILE = "bpy.ops.s2mesh.generate(", "bpy.ops.s2mesh.cancel(", "bpy.ops.s2mesh.choose_file("


class Session:
    """One artist, one Blender. Methods named `step_...` are done in their order."""

    def __init__(self, task: dict[str, str]) -> None:
        self.task = task
        self.hand = Hand(Path(task["shots"]))
        self.ticked = time.monotonic()
        self.freeze, self.freeze_at = 0.0, ""  # the longest time between two turns of Blender's loop, and what was then
        self.bar: list[float] = []  # fractions of the job since this was emptied
        self.cursor = Vector()

    # --- what the extension knows ---

    @property
    def app(self) -> Any:
        return importlib.import_module(f"{PACKAGE}.app_state").current()

    @property
    def newest(self) -> Any:
        return next(iter(self.app.newest_first()), None)

    def server_says(self) -> str:
        line = importlib.import_module(f"{PACKAGE}.view").server_line(self.app)
        return " ".join((line.text, *line.details))

    def tell(self, **facts: Any) -> None:
        with open(self.task["results"], "a", encoding="utf-8") as file:
            print(json.dumps(facts), file=file, flush=True)

    def ask(self, what: str) -> Steps:
        """Something of the outside; until it is done."""
        asked = Path(self.task["asks"], what)
        asked.touch()
        yield from until(lambda: not asked.exists(), f"the outside to {what}")

    def note_turn(self) -> None:
        """Called at every turn of Blender's loop: how long it took, and where the newest job's bar is."""
        now = time.monotonic()
        if now - self.ticked > self.freeze and not self.hand.is_shooting:  # which holds the X server, and all with it
            self.freeze, self.freeze_at = now - self.ticked, self.what_is() if now - self.ticked > 0.2 else ""
        job = self.newest.job if PACKAGE in sys.modules and self.app and self.newest else None
        if job and job.state == "running" and job.fraction and job.fraction not in self.bar:
            self.bar.append(job.fraction)
        self.ticked = now

    def what_is(self) -> str:
        """Of the newest job."""
        if PACKAGE not in sys.modules or self.app is None or self.newest is None:
            return ""
        record = self.newest
        stage = record.job.stage if record.job else ""
        return (
            f"{record.state} {stage or ''}{', stand-in shown' if stand_ins() else ''}" + record.imported * ", imported"
        )

    def freeze_words(self) -> str:
        return f"longest freeze {self.freeze:.2f} s" + (f" ({self.freeze_at})" if self.freeze_at else "")

    # --- the steps ---

    def step_install(self) -> Steps:
        yield from pause(0.5)
        done = bpy.ops.extensions.package_install_files(
            filepath=self.task["zip"], repo="user_default", enable_on_install=True
        )
        assert done == {"FINISHED"} and addon_utils.check(PACKAGE) == (True, True)

    def step_open_the_tab(self) -> Steps:
        hand = self.hand
        yield from hand.key("N")
        yield from until(lambda: hand.sidebar.width > 1, "the sidebar")
        region = hand.sidebar
        for y in range(region.y + region.height - 10, region.y, -15):
            yield from hand.click(region.x + region.width - 10, y)
            yield from pause(0.1)
            if region.active_panel_category == "S2 Mesh":
                break
        assert region.active_panel_category == "S2 Mesh", "the sidebar has no tab S2 Mesh"
        yield from until(lambda: self.server_says().startswith("Ready"), "a server that is found by itself")

    def step_choose_the_picture(self) -> Steps:
        picture = Path(self.task["picture"])
        hand, settings = self.hand, bpy.context.scene.s2mesh
        yield from hand.shot("0_empty")
        areas = lambda: self.hand.window.screen.areas  # noqa: E731 (asked again and again)
        browsers = lambda: [area for area in areas() if area.type == "FILE_BROWSER"]  # noqa: E731
        yield from hand.press(FILE, browsers, from_left=60)
        (area,) = browsers()
        params = yield from until(lambda: area.spaces.active.params, "the file browser")
        params.directory, params.filename = f"{picture.parent}/".encode(), picture.name
        yield from pause(0.5)
        yield from hand.key("RET", at=(area.x + area.width // 2, area.y + area.height // 2))
        yield from until(lambda: settings.picture, "the chosen picture")
        assert settings.picture.name == picture.name
        settings.size, settings.seed, settings.use_random_seed = SIZE, 0, False
        yield from pause(1.0)  # Blender makes the preview
        yield from hand.shot("1_ready")

    def step_set_the_cursor(self) -> Steps:
        scene = bpy.context.scene
        yield from self.hand.click(*self.hand.in_viewport(0.27, 0.33), button="RIGHTMOUSE", shift=True)
        yield from until(lambda: scene.cursor.location.length > 1, "the 3D cursor where the mouse is")
        self.cursor = scene.cursor.location.copy()

    def step_generate(self) -> Steps:
        before = objects()
        yield from self.look("2_before")
        state = artists_state()
        yield from self.generate(detail_steps=12)
        record, self.bar, self.freeze = self.newest, [], 0.0
        yield from until(lambda: self.bar or record.finished, "the job's start", JOB_S)
        yield from self.look("3_progress", fraction=self.bar[-1])
        yield from until(lambda: stand_ins() or record.finished, "the coarse stand-in", JOB_S)
        assert stand_ins(), "the job ended and no stand-in was seen"
        (stand_in,) = stand_ins()
        assert stand_in[STAND_IN] == record.id and abs(max(stand_in.dimensions) - SIZE) < 1e-3
        assert (stand_in.location - self.cursor).length < 1e-6
        yield from self.look("4_coarse", fraction=self.bar[-1])
        yield from until(lambda: self.bar[-1] > 0.6 or record.finished, "more of the job", JOB_S)
        yield from self.look("5_later", fraction=self.bar[-1])
        yield from until(lambda: record.imported or record.error, "the result", JOB_S)
        yield from pause(1.0)
        freeze = self.freeze_words()  # told only: software OpenGL compiles what it draws for the first time
        self.check_result(record, before, state)
        assert self.bar == sorted(self.bar) and len(self.bar) >= 4, f"the bar stood at {self.bar}"
        faces = len(bpy.data.objects[record.object_name].data.polygons)
        self.tell(note=f"bar: {len(self.bar)} steps; result: {faces:,} faces; {freeze}")
        yield from self.look("6_result")

    def step_undo_and_redo(self) -> Steps:
        with_result = objects()
        yield from self.hand.key("Z", ctrl=True)
        yield from until(lambda: objects() != with_result, "undo")
        assert with_result - objects() == {self.newest.object_name} and objects() < with_result
        yield from self.look("7_undone")
        yield from self.hand.key("Z", ctrl=True, shift=True)
        yield from until(lambda: objects() == with_result, "redo")
        yield from self.look("8_redone")

    def step_result_while_editing(self) -> Steps:
        """The result comes while the artist is in Edit Mode of the cube."""
        hand, before = self.hand, objects()
        yield from hand.key("TAB")
        yield from until(lambda: bpy.context.mode == "EDIT_MESH", "Edit Mode")
        state = artists_state()
        yield from self.generate()
        record = self.newest
        self.freeze = 0.0
        yield from until(lambda: record.imported or record.error, "the result", JOB_S)
        yield from pause(1.0)
        self.tell(note=f"in Edit Mode: {self.freeze_words()}")
        assert self.freeze < float(self.task["freeze_s"]), self.freeze_words()
        self.check_result(record, before, state)
        yield from self.look("9_edit_mode")
        yield from hand.key("TAB")
        yield from until(lambda: bpy.context.mode == "OBJECT", "Object Mode")

    def step_cancel(self) -> Steps:
        before = objects()
        yield from self.generate(detail_steps=30)
        record = self.newest
        yield from until(lambda: record.job and record.job.state == "running", "the job's start", JOB_S)
        yield from self.hand.press(CANCEL, lambda: record.job.cancelling or record.job.finished, from_right=74)
        yield from until(lambda: record.job.finished, "the job's end", JOB_S)
        assert record.job.state == "cancelled", record.job.state
        yield from pause(2.0)
        assert objects() == before, f"after a cancelled job there is {objects() - before}"
        yield from self.look("10_cancelled")

    def step_server_killed(self) -> Steps:
        before = objects()
        yield from self.generate(detail_steps=30)
        record = self.newest
        yield from until(lambda: record.job and (record.job.fraction or 0) > 0.1, "the middle of the job", JOB_S)
        yield from self.ask("kill")
        yield from until(lambda: self.server_says().startswith("Offline"), "a word about the server")
        yield from pause(1.0)
        yield from self.look("11_killed")
        view = importlib.import_module(f"{PACKAGE}.view")
        row = view.job_row(record, online=view.server_line(self.app).online)
        self.tell(note=f"while the server is away: {self.server_says()!r}, the job: {row.text!r}")
        assert not record.finished, "a job of a server that may come back was given up"
        yield from self.ask("start")
        yield from until(lambda: not self.server_says().startswith("Offline"), "the server again")
        yield from self.look("12_back")
        yield from until(lambda: record.imported or record.error, "the interrupted job's result", JOB_S)
        self.check_result(record, before, artists_state())
        before = objects()
        yield from self.generate()
        record = self.newest
        yield from until(lambda: record.imported or record.error, "a new job's result", JOB_S)
        self.check_result(record, before, artists_state())

    def step_look_at_it(self) -> Steps:
        """The last result alone, for the README."""
        hand, made = self.hand, bpy.data.objects[self.newest.object_name]
        for item in list(bpy.context.scene.objects):
            if item != made:
                bpy.data.objects.remove(item)
        made.location = bpy.context.scene.cursor.location = (0, 0, 0)
        made.rotation_euler.z = 0.35  # three quarters of its front
        bpy.context.view_layer.objects.active = made
        with bpy.context.temp_override(window=hand.window, area=hand.area, region=hand.region("WINDOW")):
            made.select_set(True)
            bpy.ops.view3d.view_selected()
            made.select_set(False)
        view = hand.area.spaces.active.region_3d
        yield from pause(1.0)  # the view moves there smoothly
        view.view_distance *= 1.35
        view.view_location += view.view_rotation @ Vector((0.12 * view.view_distance, 0, 0))  # beside the sidebar
        yield from until(lambda: self.server_says().startswith("Ready"), "the server's rest")
        yield from pause(1.0)
        yield from hand.shot("13_alone")

    def step_off_and_on(self) -> Steps:
        bpy.ops.preferences.addon_disable(module=PACKAGE)
        assert addon_utils.check(PACKAGE) == (False, False) and not hasattr(bpy.types.Scene, "s2mesh")
        yield from pause(1.0)
        bpy.ops.preferences.addon_enable(module=PACKAGE)
        yield from until(lambda: self.app.is_online and self.app.list_came, "the server and its jobs")
        yield from self.hand.shot("14_on_again")  # and on it is when Blender ends, as it is with an artist

    # --- parts of steps ---

    def generate(self, detail_steps: int = 0) -> Steps:
        """Click it; a job of ours more is in the list. With the model's own few steps it may be over in seconds."""
        settings = bpy.context.scene.s2mesh
        settings.use_sparse_steps, settings.sparse_steps = detail_steps > 0, max(detail_steps, 1)
        self.cursor = bpy.context.scene.cursor.location.copy()
        known = len(self.app.session)
        yield from self.hand.press(GENERATE, lambda: len(self.app.session) > known, from_left=60)
        assert len(self.app.session) == known + 1, "one click made several jobs"

    def check_result(self, record: Any, before: set[str], state: Any) -> None:
        assert record.imported, f"no result: {record.error or record.job}"
        made = bpy.data.objects[record.object_name]
        assert objects() - before == {made.name}, f"new in the scene: {objects() - before}"
        assert not stand_ins(), "the stand-in stayed"
        assert abs(max(made.dimensions) - SIZE) < 1e-3, f"it is {max(made.dimensions)} long"
        assert (made.location - self.cursor).length < 1e-6, f"it stands at {made.location}, not at {self.cursor}"
        assert artists_state() == state, f"{artists_state()}, before: {state}"

    def look(self, name: str, **facts: Any) -> Steps:
        """A picture of the screen, with where a result is in it."""
        region, space = self.hand.region("WINDOW"), self.hand.area.spaces.active
        matrix, half = space.region_3d.perspective_matrix, SIZE / 2
        corners = [self.cursor + Vector((x, y, z)) for x in (-half, half) for y in (-half, half) for z in (0, SIZE)]
        points = [(matrix @ corner.to_4d()) for corner in corners]
        across = [region.x + region.width * (0.5 + point.x / point.w / 2) for point in points]
        up = [region.y + region.height * (0.5 + point.y / point.w / 2) for point in points]
        box = (min(across), min(up), max(across) - min(across), max(up) - min(up))
        bar = bpy.context.preferences.themes[0].user_interface.wcol_progress.item
        yield from self.hand.shot(name, result=box, bar_colour=[round(255 * part) for part in bar[:3]], **facts)


def objects() -> set[str]:
    return {item.name for item in bpy.context.scene.objects if STAND_IN not in item}


def stand_ins() -> list[bpy.types.Object]:
    return [item for item in bpy.context.scene.objects if STAND_IN in item]


def artists_state() -> tuple[Any, ...]:
    """What a result must not change: mode, active object, what is selected, what of the mesh that is edited."""
    layer = bpy.context.view_layer
    selected = sorted(item.name for item in layer.objects if item.select_get())
    parts: Any = None
    if bpy.context.mode == "EDIT_MESH":
        import bmesh

        parts = [vertex.select for vertex in bmesh.from_edit_mesh(layer.objects.active.data).verts]
    return bpy.context.mode, layer.objects.active.name, selected, parts


def main(session: Session) -> None:
    """Turns the steps from a timer of Blender's, so that all else goes on."""

    def steps() -> Iterator[None]:
        for name in [name for name in vars(Session) if name.startswith("step_")]:
            started = time.monotonic()
            yield from getattr(session, name)()
            session.tell(step=name.removeprefix("step_"), s=round(time.monotonic() - started, 1))
        session.tell(done=True)
        window = bpy.context.window_manager.windows[0]
        with bpy.context.temp_override(window=window):
            bpy.ops.wm.quit_blender()
        yield

    def tick() -> float | None:
        try:
            session.note_turn()
            next(turned)
        except StopIteration:
            return None
        except BaseException:
            problem = traceback.format_exc()
            with contextlib.suppress(OSError):
                subprocess.run(["import", "-window", "root", f"{session.task['shots']}/failure.png"])
            session.tell(problem=problem)
            os._exit(1)
        return TICK_S

    turned = steps()
    view = bpy.context.preferences.view
    view.show_splash = view.show_tooltips = False  # the splash comes at the first turn
    view.filebrowser_display_type = "SCREEN"  # in the same window, where the simulated hand can reach

    bpy.app.timers.register(tick, first_interval=0.5, persistent=True)


if __name__ == "__main__":
    main(Session(json.loads(Path(sys.argv[sys.argv.index("--") + 1]).read_text(encoding="utf-8"))))
