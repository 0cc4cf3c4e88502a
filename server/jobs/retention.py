"""Old finished jobs are removed, by number and by bytes; what a dead server left is put in order."""

import logging

from server.jobs.files import JobFiles
from server.jobs.model import MAX_ATTEMPTS, JobState, failure
from server.jobs.store import JobStore
from server.settings import Limits

_log = logging.getLogger("s2mesh.jobs")


def remove_job(store: JobStore, files: JobFiles, job_id: str) -> bool:
    """Removes a finished job and its files; False if it is not finished or not there."""
    if not store.delete(job_id):
        return False
    files.remove(job_id)
    return True


def apply_retention(store: JobStore, files: JobFiles, limits: Limits) -> int:
    """Removes the oldest finished jobs until both limits are kept; returns how many. The newest always stays."""
    finished = store.finished()
    sizes = [files.size(job.id) for job in finished]
    total, removed = sum(sizes), 0
    for job, size in zip(finished[:-1], sizes[:-1], strict=True):
        if len(finished) - removed <= limits.keep_jobs and total <= limits.keep_bytes:
            break
        if remove_job(store, files, job.id):
            _log.info("removed old job", extra={"job": job.id})
            total -= size
            removed += 1
    return removed


def reconcile(store: JobStore, files: JobFiles) -> None:
    """At the start of a server: what was running is run again once, folders of no job are removed."""
    files.sweep(store.ids())
    for state in (JobState.RUNNING, JobState.INTERRUPTED):
        before = None
        while True:
            jobs, before = store.page(state=state, limit=100, before=before)
            for job in jobs:
                _settle(store, job.id)
            if before is None:
                break


def _settle(store: JobStore, job_id: str) -> None:
    job = store.get(job_id)
    if job.state is JobState.RUNNING:
        job = store.transition(job_id, JobState.INTERRUPTED)
    if job.cancelling:
        store.transition(job_id, JobState.CANCELLED)
    elif job.attempt >= MAX_ATTEMPTS:
        message = "the server ended twice while this job ran; it is not tried again."
        advice = "If memory ran out, choose a smaller resolution; the server's log may say more."
        store.transition(job_id, JobState.FAILED, error=failure("interrupted_twice", message, advice))
    else:
        anew = {"stage": None, "step": None, "steps": None, "fraction": 0.0, "eta_s": None}
        store.transition(job_id, JobState.QUEUED, **anew, started_at=None, artifacts=[], notes=[])
    _log.info("settled an interrupted job", extra={"job": job_id})
