# SPDX-License-Identifier: GPL-3.0-or-later
"""Waiting on the main thread, for scripts: the timer's work is done here, since timers do not run without a window.

Never used by timers or panels. Blender stands still meanwhile, as the caller asked for.
"""

import time
from collections.abc import Callable, Iterable

import bpy
from bpy.types import Context, Object

from . import main_thread, server_control
from .app_state import AppState
from .client_errors import Offline, S2MeshError
from .session import JobRecord
from .translations import t
from .words import capital, state_words

_PAUSE_S = 0.02
_FIRST_ANSWER_S = 10.0


def pump(app: AppState) -> None:
    """Take in what has arrived."""
    main_thread.take_in(app, budget_s=None)
    main_thread.place_arrived(app, most=100)
    main_thread.look_at_process(app)


def wait_until(app: AppState, done: Callable[[], bool], *, timeout: float | None = None, what: str = "") -> None:
    """Pump until ``done`` says so; S2MeshError when the time is over."""
    deadline = None if timeout is None else time.monotonic() + timeout
    pump(app)
    while not done():
        if deadline is not None and time.monotonic() > deadline:
            text = t("{title} was not finished within {seconds} s").format(title=what, seconds=f"{timeout:g}")
            raise S2MeshError(text, t("It goes on at the server. Wait longer, or cancel it"))
        time.sleep(_PAUSE_S)
        pump(app)


def wait_for(app: AppState, record: JobRecord, timeout: float | None = None) -> Object:
    """The object in the scene that a job's result becomes.

    Raises:
        S2MeshError: if it fails, is cancelled, or the time is over.
    """

    def over() -> bool:
        gone, blocked = app.session.find(record.key) is None, record.key in app.arrived
        ended = record.finished and (record.state != "succeeded" or not record.wanted)
        return record.imported or record.error is not None or ended or gone or blocked

    wait_until(app, over, timeout=timeout, what=record.title)
    if not record.imported:
        raise_problem(record)
        if record.key in app.arrived:  # while we wait, nobody can leave Edit Mode
            raise S2MeshError(record.state_text, t("It comes into the scene by itself then"))
        raise S2MeshError(t("{title} was cancelled or deleted").format(title=record.title), t("Generate it again"))
    made = bpy.data.objects.get(record.object_name)
    if made is None:
        raise S2MeshError(t("The object of {title} is gone").format(title=record.title), t("Import the job again"))
    return made


def raise_problem(record: JobRecord) -> None:
    """S2MeshError where a record ended otherwise than well."""
    if record.error is not None:
        raise record.error
    job = record.job
    if job is None or job.state == "succeeded":
        return
    if job.error is not None:
        raise S2MeshError(capital(job.error.message), job.error.advice)
    raise S2MeshError(f"{record.title}: {state_words(job.state)}", t("Generate it again"))


def wait_for_server(app: AppState, *, start: bool = False, timeout: float | None = None) -> None:
    """Stay until the server answers as it should.

    Args:
        start: start this machine's server where none runs.

    Raises:
        S2MeshError: what is wrong with it.
    """
    if app.is_online:
        return
    app.look_again()
    limit = _FIRST_ANSWER_S if timeout is None else timeout
    try:
        wait_until(app, lambda: app.was_seen, timeout=limit)
        if isinstance(app.error, Offline) and start and server_control.could_start(app):
            server_control.start(app)
        if app.is_starting:
            wait_until(app, lambda: app.is_online or not app.is_starting, timeout=timeout)
    except S2MeshError as error:
        if app.error is None or app.is_starting:
            raise S2MeshError(t("The server did not answer in time"), t("Look into its log (Open Log)")) from error
    if app.process_problem is not None and not app.is_online:
        raise app.process_problem
    if app.error is not None:
        raise app.error


def select(context: Context, objects: Iterable[Object]) -> None:
    """Make the last of them active and all of them the selection, where the mode allows it."""
    layer = context.view_layer
    if layer is None or context.mode != "OBJECT":
        return
    visible = [made for made in objects if layer.objects.get(made.name) is made]
    if not visible:
        return
    for other in layer.objects:
        other.select_set(False)
    for made in visible:
        made.select_set(True)
    layer.objects.active = visible[-1]
