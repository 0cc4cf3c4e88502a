"""Downloads of presets: one at a time, each in a process of its own that runs `s2mesh models download`.

So the web process loads neither torch nor the hub's library, a conversion takes no memory of it, and what is cancelled
or killed goes on where it stopped when it is asked for again. What others may see is one snapshot, replaced as a whole.
"""

import collections
import contextlib
import json
import logging
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from typing import Any

from core.checkpoints.installed import default_models_dir
from core.checkpoints.standing import standing, with_companions
from core.config.presets import PRESETS
from core.config.releases import RELEASES
from server.errors import ApiError
from server.jobs.model import failure, timestamp
from server.settings import ServerSettings

RUNNING, SUCCEEDED, FAILED, CANCELLED = "running", "succeeded", "failed", "cancelled"
_KINDS = {
    "DownloadError": "hub_failed",
    "CheckpointError": "weights_unusable",
    "DiskFullError": "disk_full",
    "ConfigError": "folder_busy",
    "InputError": "folder_unusable",
}
_EXIT_S = 5.0
_TAIL_LINES = 20
_log = logging.getLogger("s2mesh.downloads")


@dataclass(frozen=True, kw_only=True)
class Download:
    """A download as anybody may see it."""

    preset: str
    state: str
    started_at: float
    finished_at: float | None = None
    cancelling: bool = False
    stage: str | None = None  # check, download or convert
    file: str | None = None
    done: int | None = None  # bytes of all files, or networks, of this stage
    total: int | None = None
    error: dict[str, Any] | None = None


class Downloads:
    """At most one download at a time; the last one is remembered until the next."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self.models_dir = settings.worker.models_dir or default_models_dir()
        self._lock = threading.Lock()
        self._last: Download | None = None
        self._process: subprocess.Popen | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def offer(self, name: str) -> dict[str, Any] | None:
        """What would come with a preset, for whoever decides on it; None for one that is part of the program."""
        if name not in RELEASES:
            return None
        names = with_companions([name], self.models_dir)
        sources = [source for wanted in names for source in RELEASES[wanted].sources]
        return {
            "bytes": sum(source.about_bytes for source in sources),
            "disk_bytes": sum(RELEASES[wanted].disk_bytes for wanted in names),
            "sources": [
                {"title": each.title, "license": each.license, "bytes": each.about_bytes, "page": each.page}
                for each in sources
            ],
        }

    def describe(self, name: str) -> dict[str, Any]:
        """The download of a preset, also where none was started.

        Raises:
            ApiError: preset_not_found, preset_not_downloadable.
        """
        offer = self._offer(name)
        there = standing(name, self.models_dir)
        last = self._last if self._last is not None and self._last.preset == name else None
        return {
            "preset": name,
            "state": last.state if last else SUCCEEDED if there.installed else "none",
            "installed": there.installed,
            "kept_bytes": there.kept_bytes,
            "offer": offer,
            "started_at": timestamp(last.started_at) if last else None,
            "finished_at": timestamp(last.finished_at) if last else None,
            "cancelling": bool(last and last.cancelling),
            **{field: getattr(last, field, None) for field in ("stage", "file", "done", "total", "error")},
        }

    def start(self, name: str) -> bool:
        """Starts the download; False where it runs already, or the preset is installed.

        Raises:
            ApiError: preset_not_found, preset_not_downloadable, download_running (another one's).
            OSError: if no process can be started.
        """
        self._offer(name)
        with self._lock:
            if self._last is not None and self._last.state == RUNNING:
                if self._last.preset != name:
                    message = f"{self._last.preset} is being downloaded; wait for its end, or cancel it."
                    raise ApiError("download_running", message, preset=self._last.preset)
                return False
            if self._stopped or standing(name, self.models_dir).installed:
                return False
            if self._thread is not None:
                self._thread.join()
            start = self._settings.models_command or (sys.executable, "-m", "server.cli", "models")
            models_dir = ("--models-dir", str(self.models_dir))
            self._process = subprocess.Popen(
                [*start, "download", name, "--yes", "--json", "--attended", *models_dir],
                cwd=self._settings.data_dir,  # not the user's folder: Python would look for `server` there first
                stdin=subprocess.PIPE,  # it ends when this does, so that it never outlives the server
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            self._last = Download(preset=name, state=RUNNING, started_at=time.time())
            self._thread = threading.Thread(target=self._follow, args=(self._process,), name="download", daemon=True)
            self._thread.start()
        _log.info("downloading %s", name)
        return True

    def cancel(self, name: str) -> None:
        """Ends the download if it runs; what has come is kept."""
        with self._lock:
            if self._last is None or self._last.preset != name or self._last.state != RUNNING:
                return
            self._last = replace(self._last, cancelling=True)
            self._process.terminate()

    def stop(self) -> None:
        """The server ends."""
        with self._lock:
            self._stopped = True
            running = self._last.preset if self._last is not None and self._last.state == RUNNING else None
        if running is not None:
            self.cancel(running)
            self._thread.join(2 * _EXIT_S)

    # --- inside ---

    def _offer(self, name: str) -> dict[str, Any]:
        if name not in PRESETS:
            raise ApiError("preset_not_found", f"there is no preset {name[:60]!r}. Known: {', '.join(PRESETS)}.")
        offer = self.offer(name)
        if offer is None:
            raise ApiError("preset_not_downloadable", f"{name} is not downloaded: its weights are part of S2 Mesh.")
        return offer

    def _follow(self, process: subprocess.Popen) -> None:
        """Reads what the process tells, to its end."""
        words: collections.deque[str] = collections.deque(maxlen=_TAIL_LINES)
        log = threading.Thread(target=_keep, args=(process, words), daemon=True, name="download-log")
        log.start()
        error = None
        with contextlib.suppress(OSError), process.stdout as pipe:
            for line in pipe:
                error = self._hear(line) or error
        try:
            status = process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        with contextlib.suppress(OSError):
            process.stdin.close()
        log.join(_EXIT_S)
        with self._lock:
            state = SUCCEEDED if status == 0 else CANCELLED if self._last.cancelling else FAILED
            if state == FAILED and error is None:
                message = f"the process that downloads ended with status {status}. Start it again: it goes on."
                error = failure("download_died", message)
            error = error if state == FAILED else None
            self._last = replace(self._last, state=state, finished_at=time.time(), cancelling=False, error=error)
        last_words = {"last_words": "\n".join(words)} if state == FAILED else {}
        _log.info("download of %s: %s", self._last.preset, state, extra={"error": error, **last_words})

    def _hear(self, line: bytes) -> dict[str, Any] | None:
        """Takes one line; the error, if it tells of one."""
        try:
            event = json.loads(line)
            kind = event["type"]
        except (ValueError, TypeError, KeyError):
            return None  # of a library
        if kind == "progress":
            with self._lock:
                place = {name: event.get(name) for name in ("stage", "file", "done", "total")}
                self._last = replace(self._last, **place)
        elif kind == "error":
            code = _KINDS.get(event.get("kind"), "internal")
            return failure(code, str(event.get("message")))
        return None


def _keep(process: subprocess.Popen, words: "collections.deque[str]") -> None:
    with contextlib.suppress(OSError), process.stderr as pipe:
        for line in pipe:
            words.append(line.decode(errors="replace").rstrip())
