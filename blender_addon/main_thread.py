# SPDX-License-Identifier: GPL-3.0-or-later
"""The one timer, and the one place where what the worker brings meets Blender's data.

A tick never sleeps, never opens a socket, and takes about 50 ms at most, unless it builds a mesh, of which there is
one a tick. Without a window timers do not run: `headless` does the same work while it waits.
"""

import contextlib
import queue
import time
import traceback
from collections.abc import Iterator

import bpy
from bpy.app.handlers import persistent

from . import app_state, importer, job_actions, thumbnails
from .app_state import AppState
from .client_errors import S2MeshError
from .placing import give_defaults
from .poller import (
    CoarseReady,
    CommandFailed,
    Event,
    FetchFailed,
    Gone,
    JobChanged,
    JobList,
    ResultReady,
    ServerSeen,
    SubmitFailed,
    Submitted,
    SubmitWaiting,
    ThumbnailReady,
    Unloaded,
)
from .preferences import preferences
from .session import JobRecord
from .translations import t

_BUSY_S = 0.1  # between ticks while jobs are active
_IDLE_S = 1.0
_BUDGET_S = 0.05  # of a tick
_first_look = True


def tick() -> float:
    """What Blender's timer calls. Whatever goes wrong, it comes again: a timer that raises is dropped by Blender."""
    app = app_state.current()
    if app is None:
        return _IDLE_S
    try:
        _first_steps()
        changed = take_in(app, budget_s=_BUDGET_S)
        changed = place_arrived(app) or changed
        changed = look_at_process(app) or changed
        if _tab_is_open():
            app.panel_was_drawn()
        app.look_at_list()
        if changed or (app.is_busy and app.panel_is_shown):
            redraw()
    except Exception:
        traceback.print_exc()
    return _BUSY_S if app.is_busy else _IDLE_S


def take_in(app: AppState, *, budget_s: float | None) -> bool:
    """Take events in for about ``budget_s`` seconds (None: all there are); whether there were any."""
    started, any_came = time.monotonic(), False
    with contextlib.suppress(queue.Empty):
        while True:
            app.aside_results.get_nowait()()
            any_came = True
    while events := app.poller.drain(1):
        any_came = True
        (event,) = events
        try:
            _take(app, event)
        except S2MeshError as error:
            app.notice = str(error)
        except Exception as error:  # a mistake of ours must not lose the events behind it
            traceback.print_exc()
            app.notice = t("The extension made a mistake: {error}. Press Doctor").format(error=error)
        built = isinstance(event, CoarseReady)
        if budget_s is not None and (built or time.monotonic() - started > budget_s):
            break
    return any_came


def place_arrived(app: AppState, *, most: int = 1) -> bool:
    """Put results that have arrived into the scene, at most so many; whether anything changed.

    One that would disturb the artist now (his target is in Edit Mode, a render runs) waits; its line says for what.
    """
    changed = False
    for key, event in list(app.arrived.items()):
        record = app.session.find(key)
        if record is None or not record.wanted:
            del app.arrived[key]
            continue
        try:
            _place(app, record, event)
        except importer.MustWait as waits:
            changed = changed or record.state_text != waits.reason
            record.state_text = waits.reason
            continue
        except S2MeshError as error:
            record.error = error
            importer.remove_stand_in(record)
        except Exception as error:  # a mistake of ours: not tried again at every tick
            traceback.print_exc()
            record.error = S2MeshError(t("The mesh cannot be put into the scene: {error}").format(error=error))
        del app.arrived[key]
        most, changed = most - 1, True
        if most <= 0:
            break
    return changed


def redraw() -> None:
    """Draw the sidebars of 3D viewports again, and nothing else."""
    for region in _sidebars():
        region.tag_redraw()


def _sidebars() -> Iterator[bpy.types.Region]:
    for window in bpy.context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "VIEW_3D":
                yield from (region for region in area.regions if region.type == "UI" and region.width > 1)


def _tab_is_open() -> bool:
    """Whether our tab can be seen, also while nothing makes Blender draw it."""
    return any(getattr(region, "active_panel_category", "") == "S2 Mesh" for region in _sidebars())


def _first_steps() -> None:
    """What cannot be done in ``register``, where Blender's data is not there yet."""
    global _first_look
    if _first_look:
        _first_look = False
        own = preferences()
        give_defaults(bpy.data.scenes, own.size, own.smooth)


def look_at_process(app: AppState) -> bool:
    """A server of ours that died by itself is started again, at most every few seconds; whether there is news."""
    if app.process is None:
        return False
    status = app.process.poll()
    try:
        restarted = app.process.restart_if_dead()
    except S2MeshError as error:
        app.process, app.process_problem = None, error
        return True
    if status.state in ("given_up", "stopped"):
        app.process, app.process_problem = None, status.error
        app.poller.connect()
        return True
    if restarted:
        app.notice = t("The server ended by itself and is started again")
    return restarted


# --- events ---


def _take(app: AppState, event: Event) -> None:
    match event:
        case ServerSeen():
            app.take_seen(event)
        case Submitted():
            _submitted(app, event)
        case SubmitWaiting():
            if record := app.session.by_ticket(event.ticket):
                record.state_text = t("Waiting for the server")
        case SubmitFailed():
            if record := app.session.by_ticket(event.ticket):
                record.error, record.wanted = event.error, False
        case JobChanged():
            _changed(app, app.session.update(event.job))
        case CoarseReady():
            record = app.session.find(event.id)
            if record is not None and record.wanted and not record.imported:
                importer.show_stand_in(record, event.data)
        case ResultReady():
            _result(app, event)
        case ThumbnailReady():
            _thumbnail(app, event)
        case FetchFailed():
            _fetch_failed(app, event)
        case Gone():
            if record := app.session.find(event.id):
                importer.remove_stand_in(record)
                thumbnails.remove(record.key)
                job_actions.forget(app, record)
        case JobList():
            _listed(app, event)
        case Unloaded():
            app.notice = t("The memory is free") if event.done else t("The memory is freed after the running job")
        case CommandFailed() if app.answered(event.ticket):
            pass  # the server's line says it
        case CommandFailed():
            record = app.session.find(event.id) if event.id else None
            app.notice = str(event.error) if record is None else f"{record.title}: {event.error}"


def _submitted(app: AppState, event: Submitted) -> None:
    record = app.session.by_ticket(event.ticket)
    if record is not None:
        record.id, record.job, record.state_text = event.job.id, event.job, ""


def _changed(app: AppState, record: JobRecord | None) -> None:
    """A job that ended without a mesh leaves nothing in the scene."""
    if record is None or record.job is None:
        return
    if record.job.finished and record.job.state != "succeeded":
        record.wanted = False
        importer.remove_stand_in(record)


def _result(app: AppState, event: ResultReady) -> None:
    record = app.session.find(event.id)
    asked = app.waiting_imports.pop(event.ticket, None) is not None
    if record is None:
        return
    record.mesh_path = event.path
    if record.wanted and (asked or not record.imported):
        app.arrived[record.key] = event


def _place(app: AppState, record: JobRecord, event: ResultReady) -> None:
    sent, own = app.sent.get(record.ticket), preferences()
    made = importer.place_result(
        record,
        event.data,
        smooth=sent.smooth if sent else own.smooth,
        clay=sent.clay if sent else own.add_clay,
        mark_as_asset=own.mark_as_asset,
        edges=event.edges,
    )
    record.object_name, record.imported, record.wanted = made.name, True, False
    record.state_text = record.state_text or t("In the scene")


def _thumbnail(app: AppState, event: ThumbnailReady) -> None:
    if event.ticket in app.pictures_to_come:
        job_actions.picture_came(app, event.ticket, event.path)
        return
    if record := app.session.find(event.id):
        record.thumbnail_path = event.path
        thumbnails.add(record.key, event.path)


def _fetch_failed(app: AppState, event: FetchFailed) -> None:
    app.waiting_imports.pop(event.ticket, None)
    if event.ticket in app.pictures_to_come:
        key, _ = app.pictures_to_come.pop(event.ticket)
        if waiting := app.session.find(key):
            waiting.error = event.error
        return
    record = app.session.find(event.id)
    if record is not None and event.name == "mesh.glb":  # pictures and stand-ins are no loss
        record.error = event.error
        importer.remove_stand_in(record)


def _listed(app: AppState, event: JobList) -> None:
    """The server's jobs: those of another Blender, or of this one earlier, are shown and can be imported."""
    app.list_came = True
    new = app.session.adopt(event.jobs)
    for record in new:
        record.wanted = False
    app.poller.follow([record.id for record in new if not record.finished], bring=("preview.png",))
    for record in new:
        if record.finished and record.job is not None and record.job.artifact("input.png") is not None:
            app.poller.fetch(record.id, "preview.png")


# --- registration ---


@persistent
def _after_undo(*_: object) -> None:
    """Undo may bring a stand-in back whose job has ended."""
    app = app_state.current()
    if app is not None:
        importer.remove_stale_stand_ins(_active_ids(app))


def _active_ids(app: AppState) -> list[str]:
    return [record.id for record in app.session.active if record.id] + [
        record.id for key in app.arrived if (record := app.session.find(key))
    ]


@persistent
def _after_load(*_: object) -> None:
    """Another file: timers that are not persistent are gone, scenes are new. Jobs and server stay."""
    global _first_look
    _first_look = True
    _after_undo()
    if bpy.app.background:
        _first_steps()
    _start_timer()


def _start_timer() -> None:
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=_BUSY_S, persistent=True)


def _handlers() -> tuple[tuple[list, object], ...]:
    every = bpy.app.handlers
    return (every.load_post, _after_load), (every.undo_post, _after_undo), (every.redo_post, _after_undo)


def register() -> None:
    global _first_look
    _first_look = True
    _start_timer()
    for handlers, ours in _handlers():
        if ours not in handlers:
            handlers.append(ours)


def unregister() -> None:
    if bpy.app.timers.is_registered(tick):
        bpy.app.timers.unregister(tick)
    for handlers, ours in _handlers():
        if ours in handlers:
            handlers.remove(ours)
