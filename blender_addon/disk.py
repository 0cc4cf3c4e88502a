# SPDX-License-Identifier: GPL-3.0-or-later
"""The folder of downloaded files: names that cannot lead out of it, a bound on its size, room before a download."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from pathlib import Path

from .client_errors import DiskFull
from .wire import Artifact

_OURS = re.compile(r"[0-9a-f]{32}-[0-9a-f]{12}-[A-Za-z0-9_.-]+")
_STALE_S = 86400.0  # after which what was left of an unfinished download goes
_RESERVE = 32 * 2**20  # bytes that are left free


def cache_path(folder: Path, job_id: str, artifact: Artifact) -> Path:
    """Where a file of a job is kept. Its parts were checked when they came off the wire."""
    return folder / f"{job_id}-{artifact.sha256[:12]}-{artifact.name}"


def is_whole(path: Path, artifact: Artifact) -> bool:
    """Whether the file is there already as the server has it."""
    try:
        if path.stat().st_size != artifact.bytes:
            return False
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(2**20):
                digest.update(piece)
    except OSError:
        return False
    return digest.hexdigest() == artifact.sha256


def require_room(path: Path, size: int) -> None:
    """Raises DiskFull where a file of ``size`` bytes would fill the disk."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return  # a file system that does not tell; writing will
    if free < size + _RESERVE:
        raise DiskFull(
            f"The disk is full: {path.name} needs {size / 2**20:.0f} MB and {free / 2**20:.0f} MB are free in "
            f"{path.parent}",
            "Free some space, or choose another cache folder in the preferences. Then import the job again.",
        )


def trim(folder: Path, max_bytes: int, keep: Path | None = None) -> None:
    """Removes the files that were used longest ago until the rest fits, and what unfinished downloads left long ago.

    Only files with names of ours; ``keep`` stays in any case. Another Blender may do the same at the same time.
    """
    found = []
    try:
        for path in folder.iterdir():
            if _OURS.fullmatch(path.name):
                with contextlib.suppress(OSError):
                    state = path.stat()
                    found.append((state.st_mtime, state.st_size, path))
    except OSError:
        return
    total = sum(size for _, size, _ in found)
    for changed, size, path in sorted(found):
        stale = path.suffix == ".part" and time.time() - changed > _STALE_S
        if path != keep and (stale or (total > max_bytes and path.suffix != ".part")):
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size
