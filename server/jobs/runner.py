"""The job that the worker has: handed over, followed step by step, and brought to its end in the database.

Used by the supervisor's thread alone. ``persist`` keeps what is finished from being lost to a busy database.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.config.presets import PRESETS
from core.config.stages import STRUCTURE
from core.errors import ConfigError
from server.errors import FAILURES
from server.jobs.estimate import Estimate, job_stages
from server.jobs.files import JobFiles
from server.jobs.model import Artifact, IllegalTransition, Job, JobState, failure
from server.jobs.retention import apply_retention
from server.jobs.store import JobStore
from server.jobs.worker_process import WorkerProcess
from server.settings import ServerSettings
from server.worker import protocol

_SAVE_EVERY_S = 0.2  # of progress within a stage
_RETRY_S = 0.5
_log = logging.getLogger("s2mesh.jobs")


@dataclass
class Running:
    """One job while the worker has it."""

    job: Job
    estimate: Estimate
    device: str
    moved_at: float  # last progress
    saved_at: float = 0.0
    stage: str | None = None
    notes: tuple[str, ...] = ()
    kill_at: float | None = None  # a cancel that has not been obeyed by then
    verdict: tuple[str, str] | None = None  # failure code and message, where we killed the worker ourselves


class JobRunner:
    """At most one job at a time."""

    def __init__(self, settings: ServerSettings, store: JobStore, files: JobFiles) -> None:
        self._settings, self._store, self._files = settings, store, files
        self._give_up = threading.Event()
        self.current: Running | None = None

    def abandon_writes(self) -> None:
        """From another thread: the server ends, do not wait for the database any longer."""
        self._give_up.set()

    # --- a job begins ---

    def give(self, job: Job, worker: WorkerProcess, device: str) -> bool:
        """Hands a queued job to the worker; False if it was cancelled a moment ago, or cannot be run any more."""
        try:
            estimate = self._estimate(job, device)
        except (KeyError, ConfigError):  # queued by another version
            message = f"this version of S2 Mesh cannot run preset {job.options.get('preset')!r} with these options."
            error = failure("options_unusable", message, "Send the picture again.")
            self._store.transition(job.id, JobState.FAILED, error=error)
            return False
        try:
            job = self._store.transition(
                job.id, JobState.RUNNING, attempt=job.attempt + 1, stage=None, step=None, steps=None, fraction=0.0,
                eta_s=None, error=None, notes=[], artifacts=[],
            )  # fmt: skip
        except IllegalTransition:
            return False
        self.current = Running(job, estimate, device, moved_at=time.monotonic())
        self._files.clear_results(job.id)
        worker.send(
            protocol.Run(
                job_id=job.id,
                title=job.title,
                source=str(self._files.source(job.id)),
                folder=str(self._files.folder(job.id)),
                options=job.options,
                max_bytes=self._settings.limits.job_bytes,
            )
        )  # a worker that does not take it is gone, and the supervisor will hear of that
        return True

    def _estimate(self, job: Job, device: str) -> Estimate:
        options = job.options
        preset = PRESETS[options["preset"]]
        stages = job_stages(preset, options["resolution"])
        planned = {STRUCTURE: options["dense_steps"] + 1} if options["dense_steps"] else {}
        if options["sparse_steps"]:
            planned |= {stage: options["sparse_steps"] for stage in stages if stage.startswith("detail ")}
        return Estimate(stages, self._store.stage_times(preset.name, device), planned)

    # --- it runs ---

    def move(self, progress: protocol.Progress) -> None:
        """Saves progress: each new stage, each end of one, and a few times a second between."""
        running = self.current
        now = running.moved_at = time.monotonic()
        fraction, left = running.estimate.after(progress)
        new_stage, running.stage = progress.stage != running.stage, progress.stage
        if not new_stage and progress.step < progress.steps and now - running.saved_at < _SAVE_EVERY_S:
            return
        running.saved_at = now
        place = {"stage": progress.stage, "step": progress.step, "steps": progress.steps}
        place |= {"fraction": round(fraction, 4), "eta_s": None if left is None else round(left, 1)}
        try:
            self._store.update(running.job.id, {"type": "progress", **place}, **place)
        except sqlite3.OperationalError as error:  # the next one will do
            _log.warning("progress could not be saved: %s", error)

    def add_artifact(self, event: protocol.ArtifactWritten) -> None:
        artifact = Artifact(name=event.name, bytes=event.bytes, sha256=event.sha256)
        self._persist(lambda: self._store.add_artifact(event.job_id, artifact))

    def add_note(self, event: protocol.Note) -> None:
        running = self.current
        running.notes = (*running.notes, event.message)
        note = {"type": "note", "message": event.message}
        self._persist(lambda: self._store.update(event.job_id, note, notes=list(running.notes)))

    def cancel(self, job_id: str, worker: WorkerProcess, grace_s: float) -> None:
        """Asks the worker to stop the job; the supervisor kills it after the grace time."""
        running = self.current
        if running is not None and running.job.id == job_id and running.kill_at is None:
            running.kill_at = time.monotonic() + grace_s
            worker.send(protocol.Cancel(job_id=job_id))

    # --- it ends ---

    def settle(self, event: protocol.Done | protocol.Failed | protocol.Cancelled) -> None:
        """The worker is through with the job."""
        if isinstance(event, protocol.Done):
            self._finish(JobState.SUCCEEDED, result=event.result, fraction=1.0)
        elif isinstance(event, protocol.Cancelled):
            self._finish(JobState.CANCELLED)
        else:
            self._finish(JobState.FAILED, error=failure(event.kind, event.message, event.advice))

    def lose(self, how: str) -> str | None:
        """The worker is gone with the job. Returns whose fault that is: the cause, or None for a cancel of ours."""
        running = self.current
        if self._store.get(running.job.id).cancelling:
            self._finish(JobState.CANCELLED)
            return None
        code, message = running.verdict or ("worker_died", f"the worker {how} during this job.")
        self._finish(JobState.FAILED, error=failure(code, message, f"{FAILURES[code]} Other jobs go on."))
        return message.rstrip(".")

    def interrupt(self) -> None:
        """The server ends before the job: it runs again at the next start, and this try does not count."""
        attempt = self.current.job.attempt - 1
        self._finish(JobState.INTERRUPTED, attempt=attempt)

    def _finish(self, state: JobState, **changes: object) -> None:
        running, self.current = self.current, None
        job_id = running.job.id
        self._persist(lambda: self._store.transition(job_id, state, **changes))
        _log.info("job %s", state.value, extra={"job": job_id, "error": changes.get("error")})
        if state is JobState.SUCCEEDED:
            preset, measured = running.job.options["preset"], running.estimate.measured
            self._persist(lambda: self._store.keep_stage_times(preset, running.device, measured))
        self._persist(lambda: apply_retention(self._store, self._files, self._settings.limits))

    def _persist(self, write: Callable[[], object]) -> None:
        """Writes to the database however long another program holds it: what is finished is not lost."""
        while True:
            try:
                write()
                return
            except sqlite3.OperationalError as error:
                _log.warning("the database cannot be written now, trying again: %s", error)
                if self._give_up.wait(_RETRY_S):
                    return
            except (IllegalTransition, KeyError) as error:
                _log.error("the job is not what it was thought to be: %r", error)
                return
