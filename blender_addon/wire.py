# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes over the wire, as server/API.md describes it: jobs, files, presets, options, the server's state.

Every class is made by ``from_json``. Keys that this version does not know are passed over, so that a newer server can
be talked to; values of a wrong kind raise WireError, so that nothing unchecked goes further.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from .client_errors import WireError
from .wire_values import document_of, items, mapping, number, text, texts, true_or_false, whole, wrong

__all__ = ["Artifact", "Capabilities", "ErrorInfo", "Job", "JobRequest", "Option", "Preset", "Ready", "WireError"]

FINISHED = ("succeeded", "failed", "cancelled")
STATES = ("queued", "running", "interrupted", *FINISHED)
_ID = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9]{1,10}){1,2}")


# --- requests ---


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """A picture on its way to the server."""

    picture: bytes  # a whole PNG, JPEG, WebP, BMP, TIFF or GIF file
    title: str  # the picture's name, for people
    options: dict[str, Any]  # as server/API.md lists them; what is left out is the server's choice
    idempotency_key: str  # the same for every try, so that it becomes one job


# --- answers ---


@dataclass(frozen=True, kw_only=True)
class ErrorInfo:
    """Why a job failed."""

    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def advice(self) -> str:
        """What to do; empty where nobody knows."""
        advice = self.details.get("advice")
        return advice if isinstance(advice, str) else ""

    @classmethod
    def from_json(cls, document: Any) -> ErrorInfo:
        document = document_of(document, "error")
        return cls(
            code=text(document, "code"),
            message=text(document, "message"),
            details=mapping(document, "details", None) or {},
        )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file of a job."""

    name: str
    bytes: int
    sha256: str
    media_type: str = ""
    url: str = ""

    @classmethod
    def from_json(cls, document: Any) -> Artifact:
        document = document_of(document, "file")
        return cls(
            name=text(document, "name", pattern=_FILE),
            bytes=whole(document, "bytes"),
            sha256=text(document, "sha256", pattern=_SHA256),
            media_type=text(document, "media_type", ""),
            url=text(document, "url", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the server told it last."""

    id: str
    title: str
    state: str  # one of STATES
    cancelling: bool = False
    attempt: int = 0
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    queue_position: int | None = None  # 1 is the next
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    fraction: float = 0.0  # 0 to 1
    eta_s: float | None = None
    last_event: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    error: ErrorInfo | None = None
    notes: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    artifacts: tuple[Artifact, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether nothing more will come."""
        return self.state in FINISHED

    def artifact(self, name: str) -> Artifact | None:
        """The file of that name, if it is there already."""
        return next((artifact for artifact in self.artifacts if artifact.name == name), None)

    @classmethod
    def from_json(cls, document: Any) -> Job:
        document = document_of(document, "job")
        state = text(document, "state")
        if state not in STATES:
            raise wrong("state", state)
        error = document.get("error")
        return cls(
            id=text(document, "id", pattern=_ID),
            title=text(document, "title", ""),
            state=state,
            cancelling=true_or_false(document, "cancelling", False),
            attempt=whole(document, "attempt", 0),
            created_at=text(document, "created_at", None),
            started_at=text(document, "started_at", None),
            finished_at=text(document, "finished_at", None),
            queue_position=whole(document, "queue_position", None),
            stage=text(document, "stage", None),
            step=whole(document, "step", None),
            steps=whole(document, "steps", None),
            fraction=min(max(float(number(document, "fraction", 0.0)), 0.0), 1.0),
            eta_s=number(document, "eta_s", None),
            last_event=whole(document, "last_event", 0),
            options=mapping(document, "options", None) or {},
            error=None if error is None else ErrorInfo.from_json(error),
            notes=texts(document, "notes", ()) if "notes" in document else (),
            result=mapping(document, "result", None),
            artifacts=tuple(Artifact.from_json(item) for item in items(document, "artifacts", None)),
        )


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a job, with what is needed to draw a control for it."""

    name: str
    type: str  # string, integer, number, boolean, array
    default: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()  # empty: any
    nullable: bool = False
    help: str = ""

    @classmethod
    def from_json(cls, document: Any) -> Option:
        document = document_of(document, "option")
        return cls(
            name=text(document, "name"),
            type=text(document, "type"),
            default=document.get("default"),
            minimum=number(document, "minimum", None),
            maximum=number(document, "maximum", None),
            choices=texts(document, "choices", None),
            nullable=true_or_false(document, "nullable", False),
            help=text(document, "help", ""),
        )


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """One detail stage of a preset."""

    resolution: int  # voxels a side
    memory_gb: float | None = None

    @classmethod
    def from_json(cls, document: Any) -> Resolution:
        document = document_of(document, "resolution")
        return cls(resolution=whole(document, "resolution"), memory_gb=number(document, "memory_gb", None))


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A set of models that makes shapes."""

    name: str
    title: str = ""
    installed: bool = True
    bytes: int | None = None
    license: str = ""
    source: str = ""
    resolutions: tuple[Resolution, ...] = ()
    stages: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, document: Any) -> Preset:
        document = document_of(document, "preset")
        return cls(
            name=text(document, "name"),
            title=text(document, "title", ""),
            installed=true_or_false(document, "installed", True),
            bytes=whole(document, "bytes", None),
            license=text(document, "license", None) or "",
            source=text(document, "source", None) or "",
            resolutions=tuple(Resolution.from_json(item) for item in items(document, "resolutions", None)),
            stages=texts(document, "stages", None),
        )


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What can be asked for."""

    version: str
    default_preset: str
    presets: tuple[Preset, ...]
    options: tuple[Option, ...]
    formats: tuple[str, ...] = ()
    limits: dict[str, Any] = field(default_factory=dict)

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)

    def preset(self, name: str) -> Preset | None:
        return next((preset for preset in self.presets if preset.name == name), None)

    @classmethod
    def from_json(cls, document: Any) -> Capabilities:
        document = document_of(document, "list of capabilities")
        return cls(
            version=text(document, "version"),
            default_preset=text(document, "default_preset"),
            presets=tuple(Preset.from_json(item) for item in items(document, "presets")),
            options=tuple(Option.from_json(item) for item in items(document, "options")),
            formats=texts(document, "formats", None),
            limits=mapping(document, "limits", None) or {},
        )


@dataclass(frozen=True, kw_only=True)
class Ready:
    """The server's worker, queue, device and memory."""

    ready: bool
    draining: bool = False
    worker_state: str = "stopped"  # starting, idle, busy, stopping, stopped, broken
    worker_pid: int | None = None
    restarts: int = 0
    queued: int = 0
    running: int = 0
    queue_limit: int | None = None
    device: str | None = None  # such as cuda:0; None until the worker has told it
    device_title: str | None = None  # such as NVIDIA H100
    dtype: str | None = None
    preset: str | None = None  # whose weights are loaded
    memory_used: int | None = None  # bytes
    memory_free: int | None = None
    memory_total: int | None = None
    problem: str | None = None  # why it is not ready, in the server's words

    @classmethod
    def from_json(cls, document: Any, problem: str | None = None) -> Ready:
        document = document_of(document, "state")
        worker, queue = mapping(document, "worker", None) or {}, mapping(document, "queue", None) or {}
        device, memory = mapping(document, "device", None) or {}, mapping(document, "memory", None) or {}
        return cls(
            ready=true_or_false(document, "ready"),
            draining=true_or_false(document, "draining", False),
            worker_state=text(worker, "state", "stopped"),
            worker_pid=whole(worker, "pid", None),
            restarts=whole(worker, "restarts", 0),
            queued=whole(queue, "queued", 0),
            running=whole(queue, "running", 0),
            queue_limit=whole(queue, "limit", None),
            device=text(device, "name", None),
            device_title=text(device, "title", None),
            dtype=text(device, "dtype", None),
            preset=text(document, "preset", None),
            memory_used=whole(memory, "used_bytes", None),
            memory_free=whole(memory, "free_bytes", None),
            memory_total=whole(memory, "total_bytes", None),
            problem=problem,
        )
