"""The folders of jobs: one a job, named by its random id, readable by the owner alone.

Clients never name a path. An id is checked to be 32 hexadecimal digits, a file's name to be one of ``ARTIFACTS``.
"""

import contextlib
import os
import shutil
from pathlib import Path

from server.jobs.model import ARTIFACTS, is_id, new_id

_SOURCE = "source"  # the picture as it was sent
_TRASH = ".trash-"


class JobFiles:
    """The folder ``jobs`` of a data directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def folder(self, job_id: str) -> Path:
        assert is_id(job_id), job_id
        return self.root / job_id

    def source(self, job_id: str) -> Path:
        """Where the picture lies, as it was sent."""
        return self.folder(job_id) / _SOURCE

    def artifact(self, job_id: str, name: str) -> Path:
        assert name in ARTIFACTS, name
        return self.folder(job_id) / name

    def create(self, job_id: str, picture: bytes) -> None:
        """Makes the job's folder with its picture; on an error nothing is left.

        Raises:
            OSError: if the disk is full or cannot be written.
        """
        folder = self.folder(job_id)
        folder.mkdir(mode=0o700)
        try:
            with open(folder / _SOURCE, "xb") as file:
                file.write(picture)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def clear_results(self, job_id: str) -> None:
        """Removes what an earlier attempt has written; the picture stays. The folder may be gone."""
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder(job_id).iterdir():
                if path.name != _SOURCE:
                    with contextlib.suppress(OSError):
                        path.unlink()

    def remove(self, job_id: str) -> None:
        """Removes a job's folder. It is renamed first, so that a half-removed one is never mistaken for a job's."""
        trash = self.root / f"{_TRASH}{new_id()}"
        try:
            self.folder(job_id).rename(trash)
        except FileNotFoundError:
            return
        except OSError:  # Windows, while a file is being read: `sweep` takes it at the next start
            trash = self.folder(job_id)
        shutil.rmtree(trash, ignore_errors=True)

    def size(self, job_id: str) -> int:
        """Size of all files of a job."""
        total = 0
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.folder(job_id)):
                with contextlib.suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_size
        return total

    def sweep(self, known: set[str]) -> int:
        """Removes folders of no known job (a server was killed between two steps); returns how many."""
        ours = [path for path in self.root.iterdir() if path.name.startswith(_TRASH) or is_id(path.name)]
        stray = [path for path in ours if path.name not in known]  # nothing of anybody else's
        for path in stray:
            shutil.rmtree(path, ignore_errors=True)
        return len(stray)
