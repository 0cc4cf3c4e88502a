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
from concurrent.futures import Future
from dataclasses import dataclass, replace

from server.jobs.breaker import Breaker
from server.jobs.files import JobFiles
from server.jobs.runner import JobRunner
from server.jobs.store import JobStore
from server.jobs.worker_process import Garbled, Gone, Heard, WorkerProcess, describe_end
from server.settings import ServerSettings
from server.worker import protocol

_TICK_S = 0.2
_STOP_PATIENCE_S = 30.0
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


class _Wake:
    """Look at the queue."""


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


class Supervisor:
    """The one owner of the worker."""

    def __init__(self, settings: ServerSettings, store: JobStore, files: JobFiles) -> None:
        self._settings, self._worker_settings = settings, settings.worker
        self._store = store
        self._runner = JobRunner(settings, store, files)
        self._inbox: queue.Queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="supervisor", daemon=True)
        self._stop = False
        self._drain_at: float | None = None
        self._drained = threading.Event()
        self._breaker = Breaker(self._worker_settings.breaker_deaths, self._worker_settings.breaker_cooldown_s)
        self._worker: WorkerProcess | None = None
        self._ready = False
        self._wanted = self._worker_settings.start_at_once  # a worker, though no job waits
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
        return answer.result(timeout=self._worker_settings.exit_grace_s + _STOP_PATIENCE_S)

    def drain(self, grace_s: float) -> None:
        """Takes no further job; the running one may end within the grace time, else it is interrupted."""
        self._inbox.put(_Drain(grace_s))

    def wait_drained(self, timeout_s: float) -> bool:
        return self._drained.wait(timeout_s)

    def stop(self) -> None:
        """Ends the worker and the thread; a running job is left ``interrupted``."""
        self.drain(0.0)
        self._drained.wait(_STOP_PATIENCE_S)
        self._stop = True
        self._runner.abandon_writes()
        self.wake()
        self._thread.join(self._worker_settings.exit_grace_s + _STOP_PATIENCE_S)

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
        self._end_worker()

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
            if self._worker is not None:
                self._runner.cancel(message.job_id, self._worker, self._worker_settings.cancel_grace_s)
        elif isinstance(message, _Unload):
            message.answer.set_result(self._unload(message.wait))
        elif isinstance(message, _Drain):
            self._drain_at = time.monotonic() + message.grace_s
            self._set(draining=True)

    def _hear(self, event: protocol.Event) -> None:
        running = self._runner.current
        if isinstance(event, protocol.Heartbeat):
            self._set(preset=event.preset, memory=event.memory)
        elif isinstance(event, protocol.Ready):
            self._ready, self._idle_since = True, time.monotonic()
            self._set(state="idle", device=event, memory=event.memory)
            _log.info("the worker is ready on %s (%s)", event.device, event.device_title)
        elif isinstance(event, protocol.StartFailed):
            self._forget_worker()
            self._breaker.died(event.message.rstrip("."), hopeless=True)
        elif running is None or event.job_id != running.job.id:
            _log.warning("the worker speaks of job %s, which it does not have", event.job_id)
        elif isinstance(event, protocol.Progress):
            self._runner.move(event)
        elif isinstance(event, protocol.ArtifactWritten):
            self._runner.add_artifact(event)
        elif isinstance(event, protocol.Note):
            self._runner.add_note(event)
        else:
            self._runner.settle(event)
            self._after_job(event)

    def _tick(self) -> None:
        now = time.monotonic()
        if self._worker is not None:
            self._watch(self._worker, now)
        if self._drain_at is not None:
            self._drain_now(now)
        elif self._worker is None:
            if self._breaker.message is not None:
                self._set(state="broken")
            elif self._wanted or self._store.next_queued() is not None:
                self._start_worker()
            else:
                self._set(state="stopped")
        elif self._ready and self._runner.current is None:
            job = self._store.next_queued()
            if job is not None:
                if self._runner.give(job, self._worker, self._status.device.device):
                    self._set(state="busy")
            elif 0 < self._worker_settings.idle_unload_s < now - self._idle_since:
                _log.info("the worker was idle; its memory is freed")
                self._end_worker()

    def _drain_now(self, now: float) -> None:
        running = self._runner.current
        if running is not None and now > self._drain_at:
            _log.warning("the grace time is over: the job will run again", extra={"job": running.job.id})
            self._worker.kill()
            self._forget_worker()
            self._runner.interrupt()
        if self._runner.current is None:
            self._drained.set()

    # --- the worker ---

    def _watch(self, worker: WorkerProcess, now: float) -> None:
        """Replaces a worker that does not start, beat, move on or obey."""
        settings, running = self._worker_settings, self._runner.current
        if not self._ready:
            if now - worker.started_at > settings.start_timeout_s:
                self._condemn("worker_hung", f"the worker did not start within {settings.start_timeout_s:g} s.")
        elif now - worker.last_sign > settings.heartbeat_timeout_s:
            self._condemn("worker_hung", f"no sign of life from the worker for {settings.heartbeat_timeout_s:g} s.")
        elif running is not None and running.kill_at is not None and now > running.kill_at:
            _log.info("killing the worker: it does not stop its cancelled job", extra={"job": running.job.id})
            worker.kill()
            self._bury()
        elif running is not None and now - running.moved_at > settings.stall_timeout_s:
            self._condemn("worker_hung", f"the job made no step for {settings.stall_timeout_s:g} s.")

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

    def _after_job(self, event: protocol.Done | protocol.Failed | protocol.Cancelled) -> None:
        if isinstance(event, protocol.Failed) and event.fatal:
            _log.warning("replacing the worker after %s", event.kind)
            self._worker.kill()
            self._forget_worker()
            self._wanted = not self._unload_after
        else:
            self._breaker.succeeded()
            self._idle_since = time.monotonic()
            self._set(state="idle")
            if self._unload_after:
                self._end_worker()
        self._unload_after = False

    def _unload(self, wait: bool) -> bool | None:
        if self._runner.current is not None:
            self._unload_after = self._unload_after or wait
            return False if wait else None
        self._wanted = False
        self._end_worker()
        return True

    def _end_worker(self) -> None:
        """Asks the worker to leave, else kills it. It has no job."""
        if self._worker is not None:
            self._set(state="stopping")
            if not self._ready:  # it would hear us only when all is loaded
                self._worker.kill()
            self._worker.send(protocol.Exit())
            self._worker.wait(self._worker_settings.exit_grace_s)
            self._forget_worker()

    def _forget_worker(self) -> int | None:
        status = self._worker.close()
        self._worker, self._ready = None, False
        self._set(state="stopped", pid=None, preset=None, memory=None)
        return status

    def _condemn(self, code: str, message: str) -> None:
        """Kills a worker that cannot be trusted any more."""
        _log.error("%s", message)
        if self._runner.current is not None:
            self._runner.current.verdict = (code, message)
        self._worker.kill()
        self._bury()

    def _bury(self) -> None:
        """The worker has ended without being asked to."""
        words = self._worker.last_words()
        how = describe_end(self._forget_worker())
        _log.error("the worker %s", how, extra={"last_words": words})
        self._unload_after = False
        if self._runner.current is None:
            self._breaker.died(f"it {how}")
        elif (cause := self._runner.lose(how)) is not None:
            self._breaker.died(cause)
        else:  # we killed it ourselves for a cancel
            self._wanted = True

    def _set(self, **changes: object) -> None:
        self._status = replace(self._status, **changes)
