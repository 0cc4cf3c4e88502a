# SPDX-License-Identifier: GPL-3.0-or-later
"""From a picture and options to jobs on their way: the one path that operators, drops and scripts take.

Everything a job needs later is read here, on the main thread, at the moment of the click.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import bpy
from bpy.types import Context, Image, Object

from . import app_state, option_checks, pictures
from .app_state import AppState, Sent
from .client_errors import S2MeshError
from .pictures import Picture
from .placement import Placement
from .placing import placements, replace_target, size_of, smooth_of
from .preferences import preferences
from .session import JobRecord
from .translations import t
from .wire import JobRequest

FORMATS = ("glb",)
_PATIENCE_S = 60.0  # for a server that was there a moment ago
_PATIENCE_START_S = 600.0  # for one that is still to be started


def running_app() -> AppState:
    """The state of the extension; raises S2MeshError when it is switched off."""
    app = app_state.current()
    if app is None:
        raise S2MeshError(t("The extension is switched off"), t("Enable S2 Mesh in Preferences > Add-ons"))
    return app


def picture_of(source: "str | os.PathLike | bytes | Image") -> tuple[Picture, str]:
    """A picture from a file's path, a file's content or a Blender image; and how a script names it."""
    if isinstance(source, bytes | bytearray):
        return pictures.picture_from_bytes(bytes(source)), "image"
    if isinstance(source, Image):
        return pictures.picture_from_image(source), f"bpy.data.images[{source.name!r}]"
    path = Path(bpy.path.abspath(os.fspath(source)))
    return pictures.picture_from_file(path), repr(str(path))


def check(app: AppState, options: Mapping[str, Any]) -> None:
    """Raises S2MeshError with what the server is known to refuse."""
    faults = option_checks.warnings(options, app.capabilities)
    if faults:
        raise S2MeshError(" ".join(faults), t("Change it in the panel's Settings"))


def submit(
    context: Context,
    picture: Picture,
    source: str,
    options: Mapping[str, Any],
    *,
    count: int = 1,
    size: float | None = None,
    origin: str | None = None,
    place_at: str | None = None,
    location: Sequence[float] | None = None,
    replace_selected: bool = False,
    smooth: bool | None = None,
) -> list[JobRecord]:
    """Send ``count`` jobs with one picture, each with another seed, and return their records at once.

    What is None is taken from the scene's settings. Sizes and places are in scene units.

    Raises:
        S2MeshError: for options that the server is known to refuse, or a target that cannot be replaced.
    """
    app, own, scene = running_app(), preferences(context), context.scene
    settings = scene.s2mesh
    check(app, options)
    target = None
    if replace_selected:
        target, reason = replace_target(context)
        if target is None:
            raise S2MeshError(reason, t("Or switch Replace Selected off"))
    places = placements(
        scene,
        size=size_of(scene, own.size) if size is None else size,
        origin=origin or settings.origin,
        place_at=place_at or settings.place_at,
        location=location,
        count=count,
    )
    sent = Sent(
        picture=picture,
        options=dict(options),
        source=source,
        smooth=smooth_of(scene, own.smooth) if smooth is None else smooth,
        clay=own.add_clay,
    )
    return [
        send(app, sent, seed_of(options, index), place, context=context, target=target if index == 0 else None)
        for index, place in enumerate(places)
    ]


def send(
    app: AppState, sent: Sent, seed: int | None, place: Placement, *, context: Context, target: Object | None = None
) -> JobRecord:
    """One job on its way; its record stands first in the list."""
    options = {name: value for name, value in sent.options.items() if name != "seed"}
    if seed is not None:
        options["seed"] = seed
    record = app.session.add(new_record(context, sent.picture.title, place, target))
    give(app, record, replace(sent, options=options))
    return record


def new_record(context: Context, title: str, place: Placement, target: Object | None = None) -> JobRecord:
    """A record of the scene as it is now, whose result is wanted."""
    return JobRecord(
        title=title,
        placement=place,
        purpose="new" if target is None else "replace",
        target_name=target.name if target is not None else "",
        target_uid=target.session_uid if target is not None else 0,
        scene_name=context.scene.name,
        collection_name=context.collection.name if context.collection else "",
        wanted=True,
    )


def give(app: AppState, record: JobRecord, sent: Sent) -> None:
    """Hand a record's picture and options to the worker."""
    request = JobRequest(
        picture=sent.picture.png,
        title=sent.picture.title,
        options={**sent.options, "formats": list(FORMATS)},
        idempotency_key=uuid.uuid4().hex,
    )
    patience = _PATIENCE_S if app.is_online else _PATIENCE_START_S
    record.ticket = app.poller.submit(request, patience_s=patience)
    app.sent[record.ticket] = sent
    app.forget_old_pictures()
    app.notice = ""


def seed_of(options: Mapping[str, Any], index: int) -> int | None:
    """The seed of the ``index``-th result; None lets the server draw one."""
    seed = options.get("seed")
    return None if seed is None else int(seed) + index
