"""A job, its states and which may follow which, its events and its files."""

import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any


class JobState(str, Enum):
    """Where a job is in its life."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # the server ended while it ran

    @property
    def finished(self) -> bool:
        """True where nothing more will come."""
        return not TRANSITIONS[self]


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED}),
    JobState.INTERRUPTED: frozenset({JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}
MAX_ATTEMPTS = 2  # a job that was running when the server died is run again once

ARTIFACTS: dict[str, str] = {  # the only names of files that a client may ask for, and their types
    "mesh.glb": "model/gltf-binary",
    "mesh.obj": "model/obj",
    "mesh.ply": "model/ply",
    "mesh.stl": "model/stl",
    "coarse.glb": "model/gltf-binary",
    "preview.png": "image/png",
    "turntable.webp": "image/webp",
    "input.png": "image/png",
    "job.json": "application/json",
}

_ID = re.compile(r"[0-9a-f]{32}")


class IllegalTransition(Exception):
    """A state was to follow one that it may not follow."""


def new_id() -> str:
    """32 random hexadecimal digits."""
    return uuid.uuid4().hex


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def check_transition(old: JobState, new: JobState) -> None:
    """Raises IllegalTransition where ``new`` may not follow ``old``."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"{old.value} -> {new.value}")


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of a job."""

    name: str  # of ARTIFACTS
    bytes: int
    sha256: str  # hexadecimal

    def to_dict(self, job_id: str) -> dict[str, Any]:
        return {
            "name": self.name,
            "bytes": self.bytes,
            "sha256": self.sha256,
            "media_type": ARTIFACTS[self.name],
            "url": f"/v1/jobs/{job_id}/artifacts/{self.name}",
        }


@dataclass(frozen=True, kw_only=True)
class Job:
    """One picture on its way to a mesh, as it is stored. Times are seconds since 1970."""

    id: str
    title: str  # the picture's name, for people only
    state: JobState
    options: dict[str, Any]
    created_at: float
    number: int = 0  # in order of arrival, given by the store
    attempt: int = 0  # how often it was started
    cancelling: bool = False
    started_at: float | None = None
    finished_at: float | None = None
    stage: str | None = None
    step: int | None = None
    steps: int | None = None
    fraction: float = 0.0
    eta_s: float | None = None
    last_event: int = 0
    error: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    artifacts: tuple[Artifact, ...] = field(default=())

    def to_dict(self, queue_position: int | None = None, events: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        """As clients see it."""
        return {
            "id": self.id,
            "title": self.title,
            "state": self.state.value,
            "cancelling": self.cancelling,
            "attempt": self.attempt,
            "created_at": timestamp(self.created_at),
            "started_at": timestamp(self.started_at),
            "finished_at": timestamp(self.finished_at),
            "queue_position": queue_position,
            "stage": self.stage,
            "step": self.step,
            "steps": self.steps,
            "fraction": round(self.fraction, 4),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
            "last_event": self.last_event,
            "options": self.options,
            "error": self.error,
            "notes": list(self.notes),
            "result": self.result,
            "artifacts": [artifact.to_dict(self.id) for artifact in self.artifacts],
            "events": [] if events is None else events,
        }


def timestamp(seconds: float | None) -> str | None:
    """ISO 8601 in UTC with milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def failure(code: str, message: str, advice: str = "") -> dict[str, Any]:
    """The ``error`` of a job; ``code`` is one of ``server.errors.FAILURES``."""
    return {"code": code, "message": message, "details": {"advice": advice} if advice else {}}
