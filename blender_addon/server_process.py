# SPDX-License-Identifier: GPL-3.0-or-later
"""A server on this machine that this Blender started, or found running.

Only a process that was started here is ever ended here; a process that is known by its number alone is left in peace.
A server that does not answer for a while is busy, not dead: dead is one whose process has ended. No method waits,
unless it says so; ``poll`` is to be called now and then.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import discovery
from .client_errors import S2MeshError, StartFailed
from .discovery import LocalServer

_BETWEEN_STARTS_S = 5.0
_QUICK_S = 30.0  # a server that ends sooner has a reason that stays
_MAX_QUICK = 3
_MAX_LOG = 5 * 2**20
_NOT_FOR_CHILDREN = (  # of Blender's environment: they would lead another Python astray
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "PYTHONEXECUTABLE",
    "__PYVENV_LAUNCHER__",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)
State = Literal["stopped", "starting", "running", "stopping", "ended", "given_up"]


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """Of the server's process.

    state: "stopped" nobody wants one; "starting" until it has told its address; "running"; "stopping" as asked;
        "ended" by itself; "given_up" it ended by itself too often.
    """

    state: State
    server: LocalServer | None = None
    owned: bool = False  # whether it was started here
    exit_status: int | None = None  # negative: the signal that ended it
    error: S2MeshError | None = None  # why it ended


class ServerProcess:
    """Starts and ends one server.

    Args:
        command: what starts it, such as `Installation.command()` with `serve` behind; `--parent-pid` is added.
        log_path: where its output goes.
        parent_pid: with whose end it ends; None: it stays.
        data_dir: its data folder; None is this user's own.
        cwd: where it runs; None is the data folder's parent or what there is of it.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        command: Sequence[str],
        log_path: Path,
        parent_pid: int | None = None,
        *,
        data_dir: Path | None = None,
        cwd: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.command = list(command)
        self.log_path = Path(log_path)
        self._parent_pid = parent_pid
        self._data_dir = data_dir
        self._cwd = cwd
        self._clock = clock
        self._process: subprocess.Popen | None = None
        self._server: LocalServer | None = None
        self._started_at = float("-inf")
        self._quick_deaths = 0
        self._stopping = False
        self._exit_status: int | None = None

    @property
    def running(self) -> bool:
        """Whether a process lives that was started here."""
        return self._process is not None and self._process.poll() is None

    # --- start ---

    def adopt(self) -> LocalServer | None:
        """The server that runs on this machine already, whoever started it."""
        self._server = discovery.find_local(self._data_dir)
        return self._server

    def start(self) -> None:
        """Starts it, unless one runs already: that one is adopted. A click of the artist also forgets old failures.

        Raises:
            StartFailed: with the reason; too soon after the last start, too.
        """
        self._quick_deaths = 0
        self._start()

    def restart_if_dead(self) -> bool:
        """For those who call it now and then: starts a server that ended by itself. True where it did.

        Raises:
            StartFailed: as ``start``; after three quick deaths there is no further start.
        """
        if self.poll().state != "ended" or self._clock() - self._started_at < _BETWEEN_STARTS_S:
            return False
        self._start()
        return True

    def _start(self) -> None:
        if self.running or self.adopt() is not None:
            return
        if not self.command:
            raise StartFailed("The server cannot be started: there is no command", "Press Install Server.")
        if self._clock() - self._started_at < _BETWEEN_STARTS_S:
            raise StartFailed("The server was started a moment ago", "Wait five seconds before the next try.")
        self._started_at = self._clock()
        self._stopping, self._exit_status = False, None
        parent = [] if self._parent_pid is None else ["--parent-pid", str(self._parent_pid)]
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            _rotate(self.log_path)
            with self.log_path.open("ab") as log:
                log.write(f"\n--- {time.strftime('%Y-%m-%d %H:%M:%S')} start ---\n".encode())
                log.flush()
                self._process = subprocess.Popen(
                    [*self.command, *parent],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self._cwd,
                    env=clean_environment(),
                    **detached(),
                )
        except (OSError, ValueError) as error:
            self._process = None
            reason = getattr(error, "strerror", None) or str(error)
            raise StartFailed(
                f"The server cannot be started: {self.command[0]}: {reason}",
                "Press Install Server, or check the command in the preferences.",
            ) from None

    # --- look ---

    def poll(self) -> ProcessStatus:
        """How it stands."""
        if self._process is None:
            server = self._server and self.adopt()
            return ProcessStatus(state="running" if server else "stopped", server=server)
        status = self._process.poll()
        if status is None:
            self._server = self._server or discovery.find_local(self._data_dir)
            if self._server is not None:
                self._quick_deaths = 0 if self._clock() - self._started_at > _QUICK_S else self._quick_deaths
            state = "stopping" if self._stopping else "running" if self._server else "starting"
            return ProcessStatus(state=state, server=self._server, owned=True)
        if self._exit_status is None:  # seen for the first time
            self._exit_status, self._server = status, None
            if not self._stopping:
                quick = self._clock() - self._started_at < _QUICK_S
                self._quick_deaths = self._quick_deaths + 1 if quick else 0
        if self._stopping:
            return ProcessStatus(state="stopped", exit_status=status)
        if (server := discovery.find_local(self._data_dir)) is not None:  # ours gave way to one that was quicker
            self._process, self._server = None, server
            return ProcessStatus(state="running", server=server)
        given_up = self._quick_deaths >= _MAX_QUICK
        return ProcessStatus(
            state="given_up" if given_up else "ended", exit_status=status, error=self._why(status, given_up)
        )

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of the log; empty where there is none."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 64 * 1024, 0))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return "\n".join(line[:500] for line in text.splitlines()[-lines:])

    def _why(self, status: int, given_up: bool) -> StartFailed:
        said = [line for line in self.log_tail(8).splitlines() if line.strip() and not line.startswith("--- ")]
        errors = [line for line in said if "error" in line.lower()] or said
        last = f": {errors[-1]}" if errors else ""
        ended = f"by signal {-status}" if status < 0 else f"with status {status}"
        often = f", {self._quick_deaths} times in a row" if given_up else ""
        return StartFailed(f"The server ended {ended}{often}{last}", "Open Log tells more.")

    # --- end ---

    def stop(self, wait_s: float = 0.0) -> bool:
        """Asks the server that was started here to end; it first ends its running job, within its own limit.

        Args:
            wait_s: how long to wait for its end; then it is killed. 0 does not wait, and a second call kills.

        Returns:
            Whether it has ended. A server that others started is let alone: True, and it is adopted no longer.
        """
        process = self._process
        if process is None or process.poll() is not None:
            self._server = None
            self._stopping = True
            return True
        with contextlib.suppress(OSError):
            process.kill() if self._stopping else process.terminate()
        self._stopping = True
        if wait_s > 0:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(wait_s)
            if process.poll() is None:
                with contextlib.suppress(OSError):
                    process.kill()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(2.0)
        return process.poll() is not None


def clean_environment() -> dict[str, str]:
    """The environment for a program outside Blender."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_FOR_CHILDREN}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def detached() -> dict[str, object]:
    """Arguments of Popen: no window of its own, and Ctrl+C in Blender's terminal does not reach it."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _rotate(log: Path) -> None:
    """One old log is kept."""
    with contextlib.suppress(OSError):
        if log.stat().st_size > _MAX_LOG:
            os.replace(log, log.with_name(f"{log.name}.1"))
