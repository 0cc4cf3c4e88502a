"""One worker process: started, fed, listened to and ended. What becomes of its jobs is the supervisor's affair."""

import collections
import contextlib
import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.settings import THREADS
from server.worker import protocol

_TAIL_LINES = 30
_log = logging.getLogger("s2mesh.worker")


@dataclass(frozen=True, eq=False)
class Heard:
    """A message of a worker."""

    worker: "WorkerProcess"
    event: protocol.Event


@dataclass(frozen=True, eq=False)
class Garbled:
    """A worker wrote what is no message."""

    worker: "WorkerProcess"
    message: str


@dataclass(frozen=True, eq=False)
class Gone:
    """A worker's pipe has ended: it is dead or about to be."""

    worker: "WorkerProcess"


class WorkerProcess:
    """A started process. ``tell`` gets Heard, Garbled and at last Gone, from a thread of its own.

    Raises:
        OSError: if it cannot be started.
    """

    def __init__(self, command: list[str], folder: Path, tell: Callable[[Heard | Garbled | Gone], None]) -> None:
        self.started_at = time.monotonic()
        self.last_sign = self.started_at  # of life
        self._tell = tell
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        self._write_lock = threading.Lock()
        # Not the user's folder: `-m server.worker` would look for a folder `server` there first.
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**THREADS, **os.environ, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        self._log_thread = threading.Thread(target=self._keep_log, daemon=True, name="worker-log")
        self._log_thread.start()
        self._event_thread = threading.Thread(target=self._listen, daemon=True, name="worker-events")
        self._event_thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, command: protocol.Command) -> bool:
        """False if the process does not take it any more; Gone will follow."""
        try:
            with self._write_lock:
                self.process.stdin.write(protocol.encode(command))
                self.process.stdin.flush()
        except (OSError, ValueError):
            return False
        return True

    def kill(self) -> None:
        """Ends it now, whatever it does."""
        with contextlib.suppress(OSError):
            self.process.kill()

    def wait(self, timeout_s: float) -> int | None:
        """The exit status, once it has ended; None if it has not in time."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> int | None:
        """Kills it if need be, and frees its pipes; returns the exit status."""
        status = self.wait(0.5)
        if status is None:
            self.kill()
            status = self.wait(10)
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        for thread in (self._log_thread, self._event_thread):
            thread.join(2)  # not for ever: a process that the worker started may still hold its pipes
        return status

    def last_words(self) -> str:
        """The end of what it wrote to its log."""
        return "\n".join(self._tail)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self.process.stdout as pipe:
            while line := pipe.readline(protocol.MAX_LINE_BYTES):
                self.last_sign = time.monotonic()
                try:
                    self._tell(Heard(self, protocol.decode(line)))
                except protocol.ProtocolError as error:
                    self._tell(Garbled(self, str(error)))
                    break
        self._tell(Gone(self))

    def _keep_log(self) -> None:
        with contextlib.suppress(OSError), self.process.stderr as pipe:
            for line in iter(lambda: pipe.readline(65536), b""):
                text = line.decode(errors="replace").rstrip()
                if text:
                    self._tail.append(text)
                    _log.info("%s", text, extra={"worker_pid": self.pid})


def describe_end(status: int | None) -> str:
    """An exit status in words: `was killed by signal 9`."""
    if status is None:
        return "does not end"
    if status < 0:
        return f"was killed by signal {-status}" + (" (out of memory?)" if status == -9 else "")
    return f"ended with status {status}"
