# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be asked of a job in the list. Each starts something and returns at once; events bring the answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from bpy.types import Context

from . import submission
from .app_state import FOLLOWED_FILES, AppState, Sent
from .client_errors import S2MeshError
from .pictures import Picture
from .placement import Placement
from .placing import clear_of, placements, size_of, smooth_of
from .poller import INPUT, MESH
from .preferences import preferences
from .session import JobRecord
from .translations import t

_NOT_SENT = ("formats", "turntable")


def cancel(app: AppState, record: JobRecord) -> None:
    """End it: at once if it waits, at its next step if it runs."""
    record.wanted = False
    if record.id:
        app.poller.cancel(record.id)
    elif record.ticket:
        app.poller.withdraw(record.ticket)
    else:  # its picture is still to come
        record.error = S2MeshError(t("Cancelled"))


def delete(app: AppState, record: JobRecord) -> None:
    """Remove it and its files from the server; one that the server never took is only forgotten."""
    if record.id:
        app.poller.delete(record.id)
    else:
        forget(app, record)


def forget(app: AppState, record: JobRecord) -> None:
    """Take it out of the list."""
    app.session.remove(record)
    app.sent.pop(record.ticket, None)


def want(app: AppState, record: JobRecord) -> None:
    """Bring its mesh into the scene, where it was to go, once more if it was there before."""
    if record.job is not None and record.job.finished and record.job.state != "succeeded":
        raise S2MeshError(t("{title} has no mesh").format(title=record.title), t("Generate it again"))
    record.wanted, record.imported, record.error = True, False, None
    if record.job is not None and record.job.finished:
        app.waiting_imports[app.poller.fetch(record.id, MESH)] = record.key
    else:
        app.poller.follow([record.id], bring=FOLLOWED_FILES)


def import_again(app: AppState, context: Context, record: JobRecord) -> None:
    """Bring its mesh into the current scene, where and as the settings say now."""
    if record.job is None or record.job.state != "succeeded":
        raise S2MeshError(t("{title} is not finished").format(title=record.title), t("Wait until it is done"))
    scene, own = context.scene, preferences(context)
    (record.placement,) = placements(
        scene, size=size_of(scene, own.size), origin=scene.s2mesh.origin, place_at=scene.s2mesh.place_at
    )
    record.purpose, record.target_name, record.target_uid = "new", "", 0
    record.scene_name = scene.name
    record.collection_name = context.collection.name if context.collection else ""
    want(app, record)


def seed_of(record: JobRecord) -> int:
    """The seed that was used."""
    seed = record.job.options.get("seed") if record.job is not None else None
    if seed is None:
        raise S2MeshError(t("The seed of {title} is not known yet").format(title=record.title), t("Wait until it runs"))
    return int(seed)


def options_of(record: JobRecord) -> dict[str, Any]:
    """The options that were set, without those that were left to the preset."""
    options = record.job.options if record.job is not None else {}
    return {name: value for name, value in options.items() if value is not None and name not in _NOT_SENT}


def regenerate(app: AppState, context: Context, record: JobRecord, seed: int) -> JobRecord:
    """The same picture and options with a seed, beside the first result. The new record."""
    if record.job is None:
        raise S2MeshError(t("{title} was not sent").format(title=record.title), t("Click Generate again"))
    place = clear_of(record.placement, [other.placement for other in app.session])
    kept = app.sent.get(record.ticket) if record.ticket else None
    if kept is not None:
        return submission.send(app, kept, seed, place, context=context)
    return _with_server_picture(app, context, record, seed, place)


def _with_server_picture(app: AppState, context: Context, record: JobRecord, seed: int, place: Placement) -> JobRecord:
    """Another Blender sent it: its picture is brought from the server first, see ``picture_came``."""
    options = {**options_of(record), "seed": seed}
    if options.get("background") != "none":
        options["background"] = "alpha"  # what the server has of the picture is without its background
    own = preferences(context)
    again = submission.new_record(context, record.title, place)
    app.session.add(again)
    sent = Sent(
        picture=Picture(png=b"", title=record.title),
        options=options,
        source="image",
        smooth=smooth_of(context.scene, own.smooth),
        clay=own.add_clay,
    )
    app.pictures_to_come[app.poller.fetch(record.id, INPUT)] = (again.key, sent)
    return again


def picture_came(app: AppState, ticket: int, path: Path) -> None:
    """The picture that a record waits for is here: send it."""
    key, sent = app.pictures_to_come.pop(ticket)
    record = app.session.find(key)
    if record is None or record.error is not None:  # cancelled meanwhile
        return
    try:
        picture = Picture(png=path.read_bytes(), title=sent.picture.title)
    except OSError as error:
        record.error = S2MeshError(f"{path}: {error.strerror}", t("Generate it from the picture itself"))
        return
    submission.give(app, record, replace(sent, picture=picture))
