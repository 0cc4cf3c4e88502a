# SPDX-License-Identifier: GPL-3.0-or-later
"""What the worker thread tells the main thread. ``ticket`` is that of the command that an event answers, else 0."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .client_errors import S2MeshError
from .glb import MeshData
from .mesh_edges import MeshEdges
from .wire import Capabilities, Job, Ready

MESH, COARSE, PREVIEW, INPUT = "mesh.glb", "coarse.glb", "preview.png", "input.png"


@dataclass(frozen=True, kw_only=True)
class Event:
    ticket: int = 0


@dataclass(frozen=True, kw_only=True)
class ServerSeen(Event):
    """The server's line changed. ``error`` says why nothing can be asked of it; then ``ready`` is None."""

    ready: Ready | None = None
    error: S2MeshError | None = None
    capabilities: Capabilities | None = None  # stay as they were while the server is away
    url: str = ""
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Submitted(Event):
    """The server has taken the picture; from now on the job is followed."""

    job: Job


@dataclass(frozen=True, kw_only=True)
class SubmitWaiting(Event):
    """Not sent yet, for this reason; it is tried again by itself."""

    error: S2MeshError


@dataclass(frozen=True, kw_only=True)
class SubmitFailed(Event):
    """It became no job."""

    error: S2MeshError


@dataclass(frozen=True, kw_only=True)
class JobChanged(Event):
    """A followed job moved on."""

    job: Job


@dataclass(frozen=True, kw_only=True)
class CoarseReady(Event):
    """The coarse structure of a job that still runs."""

    id: str
    data: MeshData


@dataclass(frozen=True, kw_only=True)
class ResultReady(Event):
    """The mesh, read and checked, and its file."""

    id: str
    data: MeshData
    path: Path
    edges: MeshEdges  # of the triangles: found here, they are most of what importing would take


@dataclass(frozen=True, kw_only=True)
class ThumbnailReady(Event):
    """A picture for the list: that of the mesh, or as long as there is none the one that the job began with."""

    id: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class FetchFailed(Event):
    """A file did not come; ``name`` is the file's."""

    id: str
    name: str
    error: S2MeshError


@dataclass(frozen=True, kw_only=True)
class Gone(Event):
    """The server has no such job (any more)."""

    id: str


@dataclass(frozen=True, kw_only=True)
class JobList(Event):
    """The newest jobs of the server, newest first."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, kw_only=True)
class Unloaded(Event):
    """``done`` is False where the memory is freed after the running job."""

    done: bool


@dataclass(frozen=True, kw_only=True)
class CommandFailed(Event):
    """``command`` (cancel, delete, refresh, unload, follow) could not be done; ``id`` is the job that it is about."""

    command: str
    error: S2MeshError
    id: str = ""
