# SPDX-License-Identifier: GPL-3.0-or-later
"""Doctor: one report of everything that matters, to read and to send on."""

import contextlib
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

import bpy
from bpy.props import BoolProperty
from bpy.types import Context, Operator

from .. import headless, server_control
from ..app_state import AppState
from ..client_errors import S2MeshError
from ..server_process import clean_environment, detached
from ..translations import t
from ..view import server_line
from .server import ServerOperator, show_text

NAME = "S2 Mesh Report"
_LOOK_S = 0.2
_DOCTOR_S = 120.0  # the server's own examination; it loads torch


def report(app: AppState, doctor: str = "") -> str:
    """The report as text; no token is in it."""
    line, connection = server_line(app), app.connection
    rows = [
        ("Extension", f"{__package__.rpartition('.')[0]} {_version()}"),
        ("Blender", f"{bpy.app.version_string} ({platform.platform()})"),
        ("Python", sys.version.split()[0]),
        ("requests", "there" if find_spec("requests") else "missing"),
        ("Online Access", "on" if bpy.app.online_access else "off (a server on this machine works without)"),
        ("Address", connection.url or "found by itself"),
        ("Server", " ".join(filter(None, (line.text, *line.details)))),
        ("Answers at", app.url or "-"),
        ("Server version", app.seen.version if app.seen and app.seen.version else "-"),
        ("Started here", "yes" if app.owns_server else "no"),
        ("Server folder", str(server_control.installation().folder)),
        ("Cache folder", str(connection.cache_dir)),
        ("Log", str(server_control.log_path())),
    ]
    ready = app.ready
    if ready is not None:
        rows += [
            ("Worker", f"{ready.worker_state}, {ready.restarts} restarts"),
            ("Device", f"{ready.device} {ready.device_title or ''} {ready.dtype or ''}".strip()),
            ("Queue", f"{ready.running} running, {ready.queued} waiting"),
        ]
    if app.capabilities is not None:
        models = (f"{p.name}{'' if p.installed else ' (not installed)'}" for p in app.capabilities.presets)
        rows.append(("Models", ", ".join(models)))
    text = "\n".join(f"{name + ':':16}{value}" for name, value in rows)
    problems = [f"{record.title}: {record.error}" for record in app.session if record.error is not None]
    problems += [
        f"{record.title}: {record.job.error.code}: {record.job.error.message}"
        for record in app.session
        if record.job is not None and record.job.error is not None
    ]
    if problems:
        text += "\n\nJobs that failed:\n" + "\n".join(f"  {problem}" for problem in problems[:20])
    if doctor:
        text += f"\n\ns2mesh doctor:\n{doctor.rstrip()}"
    return text + "\n"


def doctor_command() -> list[str]:
    """Empty where no server is installed here."""
    try:
        return [*server_control.program(), "doctor"]
    except S2MeshError:
        return []


def server_doctor(command: list[str], should_stop: Callable[[], bool]) -> str:
    """What the server's own `s2mesh doctor` says. For any thread; waits."""
    if not command:
        return ""
    try:
        process = subprocess.Popen(
            command,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            **detached(),
        )
    except (OSError, ValueError) as error:
        return f"{command[0]}: {error}"
    for _ in range(int(_DOCTOR_S / _LOOK_S)):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=_LOOK_S)[0]
        if should_stop():
            break
    process.kill()
    return f"{process.communicate()[0]}\n(ended after {_DOCTOR_S:.0f} s)"


def _version() -> str:
    from pathlib import Path

    import tomllib

    try:
        with (Path(__file__).parents[1] / "blender_manifest.toml").open("rb") as file:
            return str(tomllib.load(file).get("version", ""))
    except (OSError, ValueError):
        return ""


class S2MESH_OT_Doctor(ServerOperator, Operator):
    """Examine extension, server and device, and put one report into a text and the clipboard"""

    bl_idname = "s2mesh.doctor"
    bl_label = "Doctor"

    wait: BoolProperty(
        name="Wait",
        description="Stay until the server's own examination is done. For scripts",
        options={"SKIP_SAVE"},
    )

    def act(self, context: Context, app: AppState) -> str:
        command = doctor_command()

        def examine() -> str:
            return server_doctor(command, app.closing.is_set)

        def arrived(found: str) -> None:
            deliver(bpy.context, report(app, found))

        deliver(context, report(app))
        if command:
            app.run_aside(examine, arrived)
            if self.wait:
                headless.wait_until(app, lambda: not app.asides[-1].is_alive(), what="Doctor")
                headless.pump(app)
        return t("The report is in the text {name} and in the clipboard").format(name=NAME)


def deliver(context: Context, text: str) -> None:
    """Into the text block and the clipboard."""
    show_text(context, NAME, text)
    context.window_manager.clipboard = text


CLASSES = (S2MESH_OT_Doctor,)
