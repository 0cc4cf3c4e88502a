# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's files and its environment: where they are, what installing costs, and the installation itself.

The extension does not hold the server. It needs a folder with S2 Mesh, a checkout or an unpacked release archive, in
which `packaging/run.py` makes the environment. Nothing here waits for Blender: call it on a thread of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import discovery
from .client_errors import InstallFailed, Stopped
from .install_archive import RUN, archive_bytes, fetch
from .install_python import FoundPython, find_python
from .server_process import clean_environment, detached

__all__ = [
    "FoundPython",
    "Installation",
    "Plan",
    "archive_bytes",
    "default_folder",
    "fetch",
    "find_installation",
    "find_python",
]

Build = Literal["cpu", "cuda"]
_ROOM_GB: dict[Build, int] = {"cpu": 3, "cuda": 10}
_PARTS: dict[Build, tuple[str, ...]] = {
    "cpu": ("PyTorch for the CPU, about 200 MB", "the other libraries, about 300 MB"),
    "cuda": ("PyTorch for NVIDIA GPUs, about 3 GB", "the other libraries, about 300 MB"),
}
_INTERRUPT_S = 10.0  # for the child to end by itself
_MAX_LINE = 500


def default_folder(data_dir: Path | None = None) -> Path:
    """Where the server is installed when nothing else was chosen."""
    return (discovery.user_data_dir() if data_dir is None else Path(data_dir)) / "server"


def find_installation(chosen: Path | None = None, data_dir: Path | None = None) -> Installation:
    """The folder chosen in the preferences, else the default one. Whether anything is in it, it says itself."""
    return Installation(Path(chosen) if chosen else default_folder(data_dir))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What an installation does and costs, for the question before it."""

    folder: Path  # of the environment
    build: Build
    parts: tuple[str, ...]  # what is downloaded
    room_gb: int  # of disk that it needs, downloads included
    free_gb: float | None  # of disk that there is

    @property
    def fits(self) -> bool:
        return self.free_gb is None or self.free_gb >= self.room_gb

    def words(self) -> list[str]:
        """Sentences for people."""
        free = "" if self.free_gb is None else f"; {self.free_gb:.0f} GB are free"
        return [
            f"Downloads {' and '.join(self.parts)}.",
            f"Needs about {self.room_gb} GB in {self.folder}{free}.",
            "Blender goes on meanwhile; an installation that was interrupted is taken up again.",
        ]


class Installation:
    """S2 Mesh in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder).absolute()

    # --- what is there ---

    @property
    def has_files(self) -> bool:
        """Whether S2 Mesh lies in the folder, installed or not."""
        return (self.folder / RUN).is_file()

    @property
    def environment(self) -> Path:
        """The virtual environment, there or not."""
        return Path(os.environ.get("S2MESH_VENV") or self.folder / ".venv").absolute()

    @property
    def is_installed(self) -> bool:
        """Whether the server can be started."""
        try:
            state = json.loads((self.environment / "s2mesh.json").read_text(encoding="utf-8"))
            done = "runtime" in state.get("done", {}) and not state.get("busy")
        except (OSError, ValueError, AttributeError, TypeError):
            return False
        return bool(done) and self.has_files and self._python().is_file() and self._script().is_file()

    @property
    def version(self) -> str:
        """Of the files; empty where there are none. They are read, not run."""
        try:
            text = (self.folder / "core" / "__init__.py").read_text(encoding="utf-8")[:10_000]
        except (OSError, ValueError):
            return ""
        found = re.search(r"^__version__ = \"([^\"]{1,40})\"", text, re.MULTILINE)
        return found[1] if found else ""

    def command(self, *arguments: str) -> list[str]:
        """What runs `s2mesh` with these arguments, such as `serve`; no further process lies between.

        Raises:
            InstallFailed: if it is not installed.
        """
        if not self.is_installed:
            raise InstallFailed(f"S2 Mesh is not installed in {self.folder}", "Press Install Server.")
        if sys.platform == "win32":  # s2mesh.exe would be a process between us and the server
            return [str(self._python()), "-m", "server.cli", *arguments]
        return [str(self._python()), str(self._script()), *arguments]

    def _python(self) -> Path:
        return self.environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def _script(self) -> Path:
        return self.environment / ("Scripts/s2mesh.exe" if sys.platform == "win32" else "bin/s2mesh")

    # --- installing ---

    def plan(self, build: Build | None = None) -> Plan:
        """What `run` would do.

        Args:
            build: None takes the GPU's where there is an NVIDIA GPU.
        """
        build = build or guess_build()
        there = next(path for path in (self.environment, *self.environment.parents) if path.exists())
        try:
            free = shutil.disk_usage(there).free / 1e9
        except OSError:
            free = None
        return Plan(folder=self.environment, build=build, parts=_PARTS[build], room_gb=_ROOM_GB[build], free_gb=free)

    def run(
        self,
        python: FoundPython | str | None,
        on_line: Callable[[str], object],
        should_stop: Callable[[], bool],
        *,
        build: Build | None = None,
        verb: str = "setup",
    ) -> None:
        """Makes the environment, or goes on where it was interrupted. Returns when it is ready.

        Args:
            python: that makes it; None, or empty, looks for one.
            on_line: told each line of output.
            build: None leaves the choice to `packaging/run.py`.

        Raises:
            InstallFailed: with the reason that it gave. Stopped: as asked; the next run goes on from there.
        """
        if not self.has_files:
            raise InstallFailed(
                f"{self.folder} has no S2 Mesh", "Choose the folder of a checkout, or a release archive to unpack."
            )
        if not isinstance(python, FoundPython):
            python = find_python(python or "")
            on_line(f"Using {' '.join(python.command)}")
        options = [] if build is None else [f"--{build}"]
        command = [
            *python.command,
            str(self.folder / RUN),
            *options,
            "-v",
            verb,
            *(["--runtime"] if verb == "setup" else []),
        ]
        status, lines = _run_lines(command, self.folder, on_line, should_stop)
        if status != 0:
            said = [line for line in lines if line.startswith("s2mesh: error: ")] or lines[-1:]
            reason = said[-1].removeprefix("s2mesh: error: ") if said else f"it ended with status {status}"
            raise InstallFailed(
                f"The installation failed: {reason}", "Press Install Server again: what is there already is kept."
            )
        if verb == "setup" and not self.is_installed:
            raise InstallFailed(
                f"The installation in {self.folder} ended well, but the server is not there",
                "Press Install Server again, or run `python3 packaging/run.py setup` there and read what it says.",
            )


def guess_build() -> Build:
    """By the NVIDIA driver's own tool, as `packaging/run.py` does; it decides in the end."""
    tool = shutil.which("nvidia-smi") or shutil.which(r"C:\Windows\System32\nvidia-smi.exe")
    return "cuda" if tool and sys.platform != "darwin" else "cpu"


def _run_lines(
    command: list[str], cwd: Path, on_line: Callable[[str], object], should_stop: Callable[[], bool]
) -> tuple[int, list[str]]:
    """Exit status and the last lines of a child, whose every line is told as it comes."""
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **detached(),
        )
    except OSError as error:
        raise InstallFailed(
            f"{command[0]} cannot be started: {error.strerror or error}", "Choose another Python in the preferences."
        ) from None
    waiting: queue.Queue[bytes | None] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(process.stdout, waiting), daemon=True)
    reader.start()
    last: list[str] = []
    try:
        while True:
            if should_stop():
                raise Stopped("The installation")
            try:
                piece = waiting.get(timeout=0.2)
            except queue.Empty:
                if process.poll() is not None and not reader.is_alive() and waiting.empty():
                    break
                continue
            if piece is None:
                break
            line = piece.decode("utf-8", "replace").strip()[:_MAX_LINE]
            if line:
                last = [*last[-99:], line]
                on_line(line)
        return process.wait(), last
    finally:
        _end_with_children(process)
        reader.join(2.0)
        if not reader.is_alive():
            process.stdout.close()


def _read_lines(stream, lines: queue.Queue) -> None:
    with contextlib.suppress(OSError, ValueError):
        while piece := stream.readline(8192):
            lines.put(piece)
    lines.put(None)


def _end_with_children(process: subprocess.Popen) -> None:
    """Ends a child of ours and what it started; gives it a moment to leave things whole."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True, timeout=10)
    else:
        _signal_group(process, signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_INTERRUPT_S)
    if process.poll() is None:
        if sys.platform == "win32":
            process.kill()
        else:
            _signal_group(process, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)


def _signal_group(process: subprocess.Popen, number: int) -> None:
    """The child leads a group of its own (`detached`); it lives or is a zombie of ours, so the number is its own."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, number)
