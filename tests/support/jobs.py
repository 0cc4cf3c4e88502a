"""A store and jobs for tests of the server's parts, without a server."""

import time
from typing import Any

from server.jobs.model import Job, JobState, new_id
from server.jobs.store import JobStore

WAYS: dict[JobState, tuple[JobState, ...]] = {  # how a job comes into each state
    JobState.QUEUED: (),
    JobState.RUNNING: (JobState.RUNNING,),
    JobState.SUCCEEDED: (JobState.RUNNING, JobState.SUCCEEDED),
    JobState.FAILED: (JobState.RUNNING, JobState.FAILED),
    JobState.CANCELLED: (JobState.CANCELLED,),
    JobState.INTERRUPTED: (JobState.RUNNING, JobState.INTERRUPTED),
}


def new_job(**fields: Any) -> Job:
    """A queued job that is in no store yet."""
    defaults = {"id": new_id(), "title": "mug.png", "options": {"seed": 7}, "created_at": time.time()}
    return Job(**{**defaults, "state": JobState.QUEUED, **fields})


def add_job(
    store: JobStore, state: JobState = JobState.QUEUED, *, key: str | None = None, digest: str = "d", **fields: Any
) -> Job:
    """A job in the store, brought into ``state`` the legal way."""
    job = store.add(new_job(**fields), max_queued=10_000, idempotency_key=key, request_digest=digest)
    assert job is not None
    for step in WAYS[state]:
        job = store.transition(job.id, step)
    return job
