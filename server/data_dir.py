"""The data directory: token, lock, address of the running server, jobs. Readable by its owner alone.

token          one line; needed for every request
server.json    address and process of the running server, so that clients on this machine find it
server.lock    held by the running server
jobs.sqlite    jobs, events, measured times
jobs/<id>/     files of a job
models/        presets that are not part of the repository
"""

import contextlib
import json
import os
import secrets
import time
from pathlib import Path
from typing import Any

import filelock

from core import __version__
from core.checkpoints.installed import user_data_dir
from core.errors import ConfigError, CoreError
from core.files import replacing

TOKEN, INFO, LOCK, DATABASE, JOBS, MODELS = "token", "server.json", "server.lock", "jobs.sqlite", "jobs", "models"
MIN_TOKEN = 16  # characters


class AlreadyRunning(CoreError):
    """Another server has this data directory."""

    exit_status = 2


class DataDir:
    """One data directory; None is this user's own. Nothing is made before it is asked for."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = (path or user_data_dir()).absolute()
        self._lock: filelock.FileLock | None = None

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    @property
    def jobs(self) -> Path:
        return self.path / JOBS

    @property
    def models(self) -> Path:
        return self.path / MODELS

    def create(self) -> None:
        """Makes the folder, for its owner alone.

        Raises:
            ConfigError: if it cannot be made or written.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if os.name == "posix" and self.path.stat().st_uid == os.getuid():
                self.path.chmod(0o700)
            probe = self.path / f".probe-{os.getpid()}"
            probe.touch(mode=0o600)
            probe.unlink()
        except OSError as error:
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the data folder {self.path} cannot be used: {reason}. Choose another with --data-dir."
            ) from None

    def acquire(self) -> None:
        """Takes the folder for this server.

        Raises:
            AlreadyRunning: with the address of the one that has it.
        """
        lock = filelock.FileLock(self.path / LOCK, timeout=0, mode=0o600)
        try:
            lock.acquire()
        except filelock.Timeout:
            where = (self.read_info() or {}).get("url", "an address that it has not told yet")
            raise AlreadyRunning(
                f"a server is running already with the data folder {self.path}, at {where}. "
                "Use it, stop it, or choose another folder with --data-dir."
            ) from None
        self._lock = lock

    def release(self) -> None:
        """Lets the next server in."""
        with contextlib.suppress(OSError):
            (self.path / INFO).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    # --- token ---

    def token(self) -> str | None:
        """The token, or None where there is none yet.

        Raises:
            ConfigError: if it cannot be read, or is too short to be safe.
        """
        path = self.path / TOKEN
        try:
            token = path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"the token in {path} cannot be read ({error}). Run `s2mesh token --new`.") from None
        if len(token) < MIN_TOKEN or not token.isprintable() or " " in token:
            raise ConfigError(f"the token in {path} is shorter than {MIN_TOKEN} letters. Run `s2mesh token --new`.")
        return token

    def ensure_token(self) -> str:
        """The token; made if there is none."""
        return self.token() or self.new_token()

    def new_token(self) -> str:
        """Replaces the token; a running server takes the new one at once."""
        self.create()
        token = secrets.token_urlsafe(32)
        self._write_private(TOKEN, token + "\n")
        return token

    # --- where the server is ---

    def write_info(self, url: str) -> None:
        info = {"url": url, "pid": os.getpid(), "version": __version__, "started_at": round(time.time(), 3)}
        self._write_private(INFO, json.dumps(info) + "\n")

    def read_info(self) -> dict[str, Any] | None:
        """What the running server wrote; None where there is none. It may be of one that was killed."""
        try:
            info = json.loads((self.path / INFO).read_text(encoding="utf-8"))
            return info if isinstance(info.get("url"), str) else None
        except (OSError, ValueError, AttributeError):
            return None

    def _write_private(self, name: str, text: str) -> None:
        with replacing(self.path / name, private=True) as partial:
            partial.write_text(text, encoding="utf-8")


class TokenFile:
    """The token as it stands in the file now, read again only when the file has changed."""

    def __init__(self, data_dir: DataDir) -> None:
        self._data_dir = data_dir
        self._path = data_dir.path / TOKEN
        self._seen: tuple[int, int] | None = None
        self._token = ""

    def current(self) -> str:
        """Empty where there is no usable token: then nobody is let in."""
        try:
            state = self._path.stat()
            seen = state.st_mtime_ns, state.st_ino
            if seen != self._seen:
                self._token, self._seen = self._data_dir.token() or "", seen
        except (OSError, ConfigError):
            self._token, self._seen = "", None
        return self._token
