"""What the routes share: settings, store, files, supervisor, gate, and the counters of what is taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from flask import current_app

from server.downloads import Downloads
from server.errors import ApiError
from server.jobs.files import JobFiles
from server.jobs.model import Job, is_id
from server.jobs.store import JobStore
from server.jobs.supervisor import Supervisor
from server.security import Gate
from server.settings import ServerSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Service:
    """One server's parts, kept in ``app.extensions``."""

    settings: ServerSettings
    store: JobStore
    files: JobFiles
    supervisor: Supervisor
    gate: Gate
    downloads: Downloads = field(init=False)
    uploads: threading.Semaphore = field(init=False)
    streams: threading.Semaphore = field(init=False)
    keyed: threading.Lock = field(init=False, default_factory=threading.Lock)  # held to add a job with a key

    def __post_init__(self) -> None:
        object.__setattr__(self, "downloads", Downloads(self.settings))
        object.__setattr__(self, "uploads", threading.Semaphore(self.settings.limits.uploads))
        object.__setattr__(self, "streams", threading.Semaphore(self.settings.limits.event_streams))

    def job(self, job_id: str) -> Job:
        """The job of an id that a client sent.

        Raises:
            ApiError: job_not_found.
        """
        job = self.store.get(job_id) if is_id(job_id) else None
        if job is None:
            raise ApiError("job_not_found", "there is no job of this id; it may have been deleted. See /v1/jobs.")
        return job

    @contextmanager
    def stream_slot(self) -> Iterator[None]:
        """One of the few places for event streams.

        Raises:
            ApiError: too_many_streams.
        """
        if not self.streams.acquire(blocking=False):
            raise ApiError(
                "too_many_streams",
                f"all {self.settings.limits.event_streams} event streams are taken; poll /v1/jobs/ID?after=N instead.",
                headers={"Retry-After": "5"},
            )
        try:
            yield
        finally:
            self.streams.release()


def service() -> Service:
    """The parts of the server that answers the present request."""
    return current_app.extensions["s2mesh"]
