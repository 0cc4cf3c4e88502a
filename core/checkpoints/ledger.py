"""The record of downloads: what a publisher's files were when they first came, and what was made of them.

It is ``downloads.json`` in the models folder, and it outlives what it speaks of: who removes a preset and downloads it
again gets the same files, or is told. Nothing here loads torch.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from core.config.releases import Source
from core.errors import CheckpointError
from core.files import replacing

NAME, VERSION = "downloads.json", 1
_PIECE = 2**22


@dataclass(frozen=True)
class FileRecord:
    """One file as it was."""

    bytes: int
    sha256: str


@dataclass
class SourceRecord:
    """Files of one source."""

    revision: str  # that was asked for
    commit: str | None  # that it was; None for files fetched by hand
    files: dict[str, FileRecord] = field(default_factory=dict)


class Ledger:
    """The record in ``models_dir``; every change is written at once.

    Raises:
        CheckpointError: if it is there and cannot be read.
    """

    def __init__(self, models_dir: Path) -> None:
        self.path = models_dir / NAME
        self._sources: dict[str, SourceRecord] = {}
        self._made: dict[str, dict[str, str]] = {}
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            if data["version"] != VERSION:
                raise CheckpointError(f"{self.path} is of another version of S2 Mesh. Update S2 Mesh, or remove it.")
            self._sources = {key: _source(value) for key, value in data["sources"].items()}
            self._made = {name: dict(files) for name, files in data["made"].items()}
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.path} cannot be read ({error}). Remove it: the next download is then taken for the first."
            ) from error

    def source(self, source: Source) -> SourceRecord | None:
        """What is known of a source, unless another revision of it is wanted now."""
        known = self._sources.get(source.key)
        return known if known is not None and known.revision in (source.revision, BY_HAND) else None

    def start(self, source: Source, commit: str | None) -> SourceRecord:
        """Begins to record a source anew."""
        revision = source.revision if commit else BY_HAND
        self._sources[source.key] = SourceRecord(revision, commit)
        return self._sources[source.key]

    def add(self, source: Source, file: str, record: FileRecord) -> None:
        """Records a file."""
        self._sources[source.key].files[file] = record
        self._write()

    def made(self, name: str) -> Mapping[str, str]:
        """Digests of the files that were made of a release: name to the SHA-256 of what they hold."""
        return self._made.get(name, {})

    def set_made(self, name: str, digests: Mapping[str, str]) -> None:
        """Records what was made; nothing for a release that was removed."""
        self._made.pop(name, None)
        if digests:
            self._made[name] = dict(digests)
        self._write()

    def _write(self) -> None:
        data = {
            "version": VERSION,
            "sources": {key: asdict(record) for key, record in self._sources.items()},
            "made": self._made,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as partial:
            partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


BY_HAND = "by hand"


def file_record(path: Path, on_bytes: Callable[[int], None] = lambda done: None) -> FileRecord:
    """Reads a file to its end; ``on_bytes`` is told how far it is.

    Raises:
        OSError: if it cannot be read.
    """
    total, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
            done += len(piece)
            on_bytes(done)
    return FileRecord(done, total.hexdigest())


def _source(value: dict[str, Any]) -> SourceRecord:
    files = {name: FileRecord(int(file["bytes"]), str(file["sha256"])) for name, file in value["files"].items()}
    return SourceRecord(str(value["revision"]), value["commit"], files)
