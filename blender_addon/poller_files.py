# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings one file of a job into the cache folder and reads it; what goes wrong becomes an event."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .client import Client, ClientSettings
from .client_errors import Damaged, Offline, Refused, S2MeshError, WrongService, WrongToken, WrongVersion
from .disk import cache_path, is_whole, trim
from .glb import MeshData, read_glb
from .mesh_edges import find_edges
from .poller_events import (
    COARSE,
    INPUT,
    MESH,
    PREVIEW,
    CoarseReady,
    Event,
    FetchFailed,
    Gone,
    ResultReady,
    ThumbnailReady,
)
from .wire import Artifact, Job

_CONNECTION = (Offline, WrongService, WrongVersion, WrongToken)


@dataclass(kw_only=True)
class Fetch:
    """A file that is to be brought."""

    id: str  # of the job
    name: str  # of the file
    ticket: int = 0
    job: Job | None = None  # None: asked for
    breaks: int = 0  # connections that broke meanwhile


def bring(client: Client, settings: ClientSettings, fetch: Fetch, should_stop: Callable[[], bool]) -> list[Event]:
    """What is to be told about it.

    Raises:
        Offline and its like: to be tried again.
    """
    try:
        job = fetch.job or client.job(fetch.id)[0]
        artifact = _artifact(job, fetch.name)
        path = _stored(client, settings, job.id, artifact, should_stop)
        return [_event(fetch, path, read_glb(path) if path.suffix == ".glb" else None)]
    except _CONNECTION:
        raise
    except S2MeshError as error:
        if isinstance(error, Damaged):
            with contextlib.suppress(OSError, UnboundLocalError):
                path.unlink(missing_ok=True)
        failed = FetchFailed(ticket=fetch.ticket, id=fetch.id, name=fetch.name, error=error)
        gone = isinstance(error, Refused) and error.code == "job_not_found"
        return [failed, Gone(id=fetch.id)] if gone else [failed]


def _artifact(job: Job, name: str) -> Artifact:
    found = job.artifact(name) or (job.artifact(INPUT) if name == PREVIEW else None)
    if found is None:
        there = ", ".join(artifact.name for artifact in job.artifacts) or "none"
        raise Refused("artifact_not_found", f"The job has no file {name}; it has: {there}", status=404)
    return found


def _stored(
    client: Client, settings: ClientSettings, job_id: str, artifact: Artifact, should_stop: Callable[[], bool]
) -> Path:
    """The file in the cache folder; downloaded where it is not there yet, a second time where it came damaged."""
    path = cache_path(settings.cache_dir, job_id, artifact)
    if is_whole(path, artifact):
        with contextlib.suppress(OSError):
            os.utime(path)
        return path
    trim(settings.cache_dir, settings.cache_bytes - artifact.bytes)
    try:
        return client.download(job_id, artifact, path, should_stop)
    except Damaged:
        return client.download(job_id, artifact, path, should_stop)


def _event(fetch: Fetch, path: Path, data: MeshData | None) -> Event:
    if data is None:
        return ThumbnailReady(ticket=fetch.ticket, id=fetch.id, path=path)
    if fetch.name == MESH:
        edges = find_edges(data.triangles)
        return ResultReady(ticket=fetch.ticket, id=fetch.id, data=data, path=path, edges=edges)
    assert fetch.name == COARSE
    return CoarseReady(ticket=fetch.ticket, id=fetch.id, data=data)
