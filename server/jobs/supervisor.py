"""Owns the worker process: starts it, feeds it the oldest queued job, watches it, and replaces it when it must.

One thread decides everything. Others, and the worker's own threads, leave messages in its inbox; what they may see
is ``status``, replaced as a whole. The database is written here and by the routes; ``JobStore.transition`` keeps the
two from contradicting each other.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from core.config.presets import PRESETS
from server.errors import FAILURES
from server.jobs.breaker import Breaker
from server.jobs.estimate import Estimate, job_stages
from server.jobs.files import JobFiles
from server.jobs.model import Artifact, IllegalTransition, Job, JobState, failure
from server.jobs.retention import apply_retention
from server.jobs.store import JobStore
from server.jobs.worker_process import Garbled, Gone, Heard, WorkerProcess, describe_end
from server.settings import ServerSettings
from server.worker import protocol

_TICK_S = 0.2
_SAVE_EVERY_S = 0.2  # of progress within a stage
_log = logging.getLogger("s2mesh.supervisor")


@dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """What anybody may know of the worker."""

    state: str = "stopped"  # starting, idle, busy, stopping, broken
    pid: int | None = None
    restarts: int = 0
    device: protocol.Ready | None = None
    preset: str | None = None  # whose networks are in memory
    memory: protocol.Memory | None = None
    draining: bool = False
    problem: str | None = None  # why there is no worker
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class _Cancel:
    job_id: str


@dataclass(frozen=True)
class _Unload:
    wait: bool
    answer: "Future[bool | None]"


@dataclass(frozen=True)
class _Drain:
    grace_s: float


class _Wake:
    pass


@dataclass
class _Running:
    """The job that the worker has."""

    job: Job
    estimate: Estimate
    moved_at: float  # last progress
    saved_at: float = 0.0
    stage: str | None = None
    notes: tuple[str, ...] = ()
    kill_at: float | None = None  # a cancel that has not been obeyed by then
    verdict: tuple[str, str] | None = None  # failure code and message, where we killed the worker ourselves


class Supervisor:
    """The one owner of the worker."""

    def __init__(self, settings: ServerSettings, store: JobStore, files: JobFiles) -> None:
        self._settings, self._worker_settings = settings, settings.worker
        self._store, self._files = store, files
        self._inbox: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)
        self._stop = False
        self._drain_at: float | None = None
        self._drained = threading.Event()
        self._breaker = Breaker(self._worker_settings.breaker_deaths, self._worker_settings.breaker_cooldown_s)
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._running: _Running | None = None
        self._wanted = self._worker_settings.start_at_once
        self._unload_after = False
        self._idle_since = time.monotonic()
        self._starts = 0
        self._status = WorkerStatus()

    # --- for any thread ---

    def start(self) -> None:
        self._thread.start()

    @property
    def status(self) -> WorkerStatus:
        return replace(self._status, problem=self._breaker.message, retry_after_s=self._breaker.retry_after_s)

    def wake(self) -> None:
        """A job was queued."""
        self._inbox.put(_Wake())

    def cancel(self, job_id: str) -> None:
        """The job is marked in the store; stop it if it runs."""
        self._inbox.put(_Cancel(job_id))

    def unload(self, *, wait: bool) -> bool | None:
        """Ends the worker, which frees all its memory. True: done; False: after the running job; None: busy."""
        answer: Future[bool | None] = Future()
        self._inbox.put(_Unload(wait, answer))
        return answer.result(timeout=self._worker_settings.exit_grace_s + 30)

    def drain(self, grace_s: float) -> None:
        """Takes no further job; the running one may end within the grace time, else it is interrupted."""
        self._inbox.put(_Drain(grace_s))

    def wait_drained(self, timeout_s: float) -> bool:
        return self._drained.wait(timeout_s)

    def stop(self) -> None:
        """Ends the worker and the thread; a running job is left ``interrupted``."""
        self.drain(0.0)
        self._drained.wait(30)
        self._stop = True
        self.wake()
        self._thread.join(self._worker_settings.exit_grace_s + 30)

    # --- the thread ---

    def _work(self) -> None:
        while not self._stop:
            try:
                self._handle(self._inbox.get(timeout=_TICK_S))
            except queue.Empty:
                pass
            except Exception:
                _log.exception("a message could not be handled")
            try:
                self._tick()
            except sqlite3.OperationalError as error:
                _log.warning("the database cannot be used now: %s", error)
            except Exception:
                _log.exception("the supervisor stumbled")
        self._end_worker("stopped")

    def _handle(self, message: object) -> None:
        if isinstance(message, Heard | Garbled | Gone):
            if message.worker is not self._worker:
                return  # of one that was replaced
            if isinstance(message, Heard):
                self._hear(message.event)
            elif isinstance(message, Garbled):
                self._condemn("worker_garbled", f"the worker wrote what is no message: {message.message}.")
            else:
                self._bury()
        elif isinstance(message, _Cancel):
            self._cancel_running(message.job_id)
        elif isinstance(message, _Unload):
            message.answer.set_result(self._unload(message.wait))
        elif isinstance(message, _Drain):
            self._drain_at = time.monotonic() + message.grace_s
            self._set(draining=True)

    def _tick(self) -> None:
        now = time.monotonic()
        if self._worker is not None:
            self._watch(self._worker, now)
        if self._drain_at is not None:
            self._drain_now(now)
            return
        if self._worker is None:
            if self._breaker.message is not None:
                self._set(state="broken")
            elif self._wanted or self._store.next_queued() is not None:
                self._start_worker()
        elif self._ready and self._running is None:
            job = self._store.next_queued()
            if job is not None:
                self._give(job)
            elif 0 < self._worker_settings.idle_unload_s < now - self._idle_since:
                _log.info("the worker was idle; its memory is freed")
                self._end_worker("stopped")

    def _watch(self, worker: WorkerProcess, now: float) -> None:
        """Replaces a worker that does not start, beat, move on or obey."""
        settings, running = self._worker_settings, self._running
        if not self._ready:
            if now - worker.started_at > settings.start_timeout_s:
                self._condemn("worker_hung", f"the worker did not start within {settings.start_timeout_s:.0f} s.")
        elif now - worker.last_sign > settings.heartbeat_timeout_s:
            self._condemn("worker_hung", f"no sign of life from the worker for {settings.heartbeat_timeout_s:.0f} s.")
        elif running is not None and running.kill_at is not None and now > running.kill_at:
            _log.info("killing the worker: it does not stop its cancelled job", extra={"job": running.job.id})
            running.kill_at = None
            worker.kill()
        elif running is not None and now - running.moved_at > settings.stall_timeout_s:
            self._condemn("worker_hung", f"the job made no step for {settings.stall_timeout_s:.0f} s.")

    # --- the worker ---

    def _start_worker(self) -> None:
        self._wanted, self._ready = False, False
        _log.info("starting a worker")
        try:
            self._worker = WorkerProcess(self._worker_settings.command_line(), self._settings.data_dir, self._inbox.put)
        except OSError as error:
            self._breaker.died(f"it cannot be started: {error}", hopeless=True)
            return
        self._set(state="starting", pid=self._worker.pid, restarts=self._starts)
        self._starts += 1

    def _end_worker(self, state: str) -> None:
        """Asks the worker to leave, else kills it. It has no job."""
        if self._worker is not None:
            self._set(state="stopping")
            self._worker.send(protocol.Exit())
            self._worker.wait(self._worker_settings.exit_grace_s)
            self._forget_worker(state)

    def _forget_worker(self, state: str) -> int | None:
        status = self._worker.close()
        self._worker, self._ready = None, False
        self._set(state=state, pid=None, preset=None, memory=None)
        return status

    def _condemn(self, code: str, message: str) -> None:
        """Kills a worker that cannot be trusted any more; ``_bury`` follows."""
        _log.error("%s", message)
        if self._running is not None and self._running.verdict is None:
            self._running.verdict = (code, message)
        self._worker.kill()
        self._bury()

    def _bury(self) -> None:
        """The worker has ended without being asked to."""
        words = self._worker.last_words()
        status = self._forget_worker("stopped")
        cause = f"it {describe_end(status)}"
        _log.error("the worker is gone: %s", cause, extra={"last_words": words})
        running, self._running = self._running, None
        if running is not None and self._store.get(running.job.id).cancelling:
            self._finish(running, JobState.CANCELLED)  # we killed it: no fault of its own
            self._wanted = True
            return
        if running is not None:
            code, message = running.verdict or ("worker_died", f"the worker {describe_end(status)} during this job.")
            cause = message.rstrip(".")
            advice = f"{FAILURES[code]} The next job runs in a new worker."
            self._finish(running, JobState.FAILED, error=failure(code, message, advice))
        self._breaker.died(cause)

    def _unload(self, wait: bool) -> bool | None:
        if self._running is not None:
            self._unload_after = self._unload_after or wait
            return False if wait else None
        self._wanted = False
        self._end_worker("stopped")
        return True

    # --- jobs ---

    def _give(self, job: Job) -> None:
        preset, options = PRESETS[job.options["preset"]], job.options
        device = self._status.device.device if self._status.device else "?"
        try:
            job = self._store.transition(
                job.id, JobState.RUNNING, attempt=job.attempt + 1, stage=None, step=None, steps=None, fraction=0.0,
                eta_s=None, error=None, notes=[], artifacts=[],
            )  # fmt: skip
        except IllegalTransition:  # cancelled a moment ago
            return
        measured = self._store.stage_times(preset.name, device)
        stages = job_stages(preset, options.get("resolution"))
        planned = {"structure": options["dense_steps"] + 1} if options.get("dense_steps") else {}
        if options.get("sparse_steps"):
            planned |= {stage: options["sparse_steps"] for stage in stages if stage.startswith("detail ")}
        self._running = _Running(job, Estimate(stages, measured, planned), moved_at=time.monotonic())
        self._set(state="busy")
        self._files.clear_results(job.id)
        self._worker.send(
            protocol.Run(
                job_id=job.id,
                title=job.title,
                source=str(self._files.source(job.id)),
                folder=str(self._files.folder(job.id)),
                options=options,
                max_bytes=self._settings.limits.job_bytes,
            )
        )  # a worker that does not take it is gone, and `_bury` is told

    def _hear(self, event: protocol.Event) -> None:
        running = self._running
        if isinstance(event, protocol.Heartbeat):
            self._set(preset=event.preset, memory=event.memory)
        elif isinstance(event, protocol.Ready):
            self._ready, self._idle_since = True, time.monotonic()
            self._set(state="idle", device=event, memory=event.memory)
            _log.info("the worker is ready on %s (%s)", event.device, event.device_title)
        elif isinstance(event, protocol.StartFailed):
            self._forget_worker("broken")
            self._breaker.died(event.message.rstrip("."), hopeless=True)
        elif running is None or event.job_id != running.job.id:
            _log.warning("the worker speaks of job %s, which it does not have", event.job_id)
        elif isinstance(event, protocol.Progress):
            self._move(running, event)
        elif isinstance(event, protocol.ArtifactWritten):
            artifact = Artifact(name=event.name, bytes=event.bytes, sha256=event.sha256)
            self._persist(lambda: self._store.add_artifact(running.job.id, artifact))
        elif isinstance(event, protocol.Note):
            running.notes = (*running.notes, event.message)
            note = {"type": "note", "message": event.message}
            self._persist(lambda: self._store.update(running.job.id, note, notes=list(running.notes)))
        else:
            self._settle(running, event)

    def _move(self, running: _Running, progress: protocol.Progress) -> None:
        """Saves progress: each new stage, each end of one, and a few times a second between."""
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

    def _settle(self, running: _Running, event: protocol.Done | protocol.Failed | protocol.Cancelled) -> None:
        """The worker is through with its job."""
        self._running = None
        if isinstance(event, protocol.Done):
            self._finish(running, JobState.SUCCEEDED, result=event.result, fraction=1.0)
        elif isinstance(event, protocol.Cancelled):
            self._finish(running, JobState.CANCELLED)
        else:
            self._finish(running, JobState.FAILED, error=failure(event.kind, event.message, event.advice))
        if isinstance(event, protocol.Failed) and event.fatal:
            _log.warning("replacing the worker after %s", event.kind)
            self._worker.kill()
            self._forget_worker("stopped")
            self._wanted = True
            return
        self._breaker.succeeded()
        self._idle_since = time.monotonic()
        self._set(state="idle")
        if self._unload_after:
            self._unload_after = False
            self._end_worker("stopped")

    def _finish(self, running: _Running, state: JobState, **changes: object) -> None:
        job_id = running.job.id
        self._persist(lambda: self._store.transition(job_id, state, **changes))
        _log.info("job %s", state.value, extra={"job": job_id, "error": changes.get("error")})
        if state is JobState.SUCCEEDED and self._status.device is not None:
            preset, device = running.job.options["preset"], self._status.device.device
            self._persist(lambda: self._store.keep_stage_times(preset, device, running.estimate.measured))
        self._persist(lambda: apply_retention(self._store, self._files, self._settings.limits))

    def _cancel_running(self, job_id: str) -> None:
        running = self._running
        if running is not None and running.job.id == job_id and running.kill_at is None:
            running.kill_at = time.monotonic() + self._worker_settings.cancel_grace_s
            self._worker.send(protocol.Cancel(job_id=job_id))

    def _drain_now(self, now: float) -> None:
        if self._running is not None and now > self._drain_at:
            running, self._running = self._running, None
            _log.warning("the grace time is over: the job will run again", extra={"job": running.job.id})
            self._worker.kill()
            self._forget_worker("stopped")
            attempt = running.job.attempt - 1  # no fault of its own
            self._persist(lambda: self._store.transition(running.job.id, JobState.INTERRUPTED, attempt=attempt))
        if self._running is None:
            self._drained.set()

    # --- small things ---

    def _persist(self, write: Callable[[], object]) -> None:
        """Writes to the database however long another program holds it: what is finished is not lost."""
        while True:
            try:
                write()
                return
            except sqlite3.OperationalError as error:
                _log.warning("the database cannot be written now, trying again: %s", error)
                if self._stop:
                    return
                time.sleep(0.5)
            except (IllegalTransition, KeyError) as error:
                _log.error("the job is not what it was thought to be: %r", error)
                return

    def _set(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)
