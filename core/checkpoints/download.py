"""The files of a release on their way to this machine: what is there, what must come, and whether it is the same.

Originals lie in ``.downloads`` of the models folder, a folder for each repository. A file has its name when it is whole
and its digest is right; before that it ends in ``.part``. Torch is not needed here.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from core.checkpoints.ledger import FileRecord, Ledger, file_record
from core.config.releases import Release, Source
from core.errors import CheckpointError, DiskFullError, DownloadError

DOWNLOADS = ".downloads"
SPARE_BYTES = 200_000_000  # that stay free on the disk
OnProgress = Callable[[str, str, int, int], None]  # stage, file, bytes or networks done, of so many


@dataclass(frozen=True)
class Planned:
    """One file of a release, and where it is or will be."""

    source: Source
    name: str
    path: Path
    bytes: int
    commit: str | None = None  # where it is fetched from; None: it is there already
    sha256: str | None = None  # that it must have, as far as the hub says
    git_sha1: str | None = None

    @property
    def is_here(self) -> bool:
        """Whether a file of that size is there; only its digest tells whether it is the right one."""
        return self.path.is_file() and self.path.stat().st_size == self.bytes


@dataclass(frozen=True)
class Plan:
    """What a download will do."""

    release: Release
    files: tuple[Planned, ...]
    by_hand: bool = False
    accept_changes: bool = False  # of the publisher, since the first download or since the digest was written down

    @property
    def bytes_to_fetch(self) -> int:
        """Still to come."""
        return sum(max(0, file.bytes - partial_bytes(file.path)) for file in self.files if not file.is_here)

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def disk_bytes(self) -> int:
        """That must be free: for what comes, and for what is made of it."""
        made = self.total_bytes if self.release.is_preset or self.by_hand else 0
        return self.bytes_to_fetch + made + SPARE_BYTES


def original_path(models_dir: Path, release: Release, source: Source, name: str) -> Path:
    """Where a file of a release is put; what needs no conversion goes to its place at once."""
    if not release.is_preset:
        return models_dir / release.name / name
    return models_dir / DOWNLOADS / source.repo.replace("/", "--") / source.folder / name


def partial_bytes(path: Path) -> int:
    """How much of a file has come."""
    partial = path.with_name(path.name + ".part")
    return partial.stat().st_size if partial.is_file() else 0


def plan_from_hub(
    release: Release, models_dir: Path, *, accept_changes: bool = False, endpoint: str | None = None
) -> Plan:
    """Ask the hub what there is to fetch; it is not asked where all files have come already.

    Args:
        accept_changes: take what the publisher has now, though it is not what came at the first download.

    Raises:
        DownloadError: as ``core.checkpoints.hub`` does.
        CheckpointError: if the publisher's files are not those of the first download.
    """
    ledger, files = Ledger(models_dir), []
    for source in release.sources:
        known = None if accept_changes else ledger.source(source)

        def path(name: str, source: Source = source) -> Path:
            return original_path(models_dir, release, source, name)

        if known is not None and all(
            name in known.files and path(name).is_file() and path(name).stat().st_size == known.files[name].bytes
            for name in source.files
        ):
            files += [Planned(source, name, path(name), known.files[name].bytes) for name in source.files]
            continue
        from core.checkpoints.hub import list_files

        revision = known.commit if known is not None and known.commit else source.revision
        listing = list_files(source, revision, endpoint)
        for file in listing.files:
            first = known.files.get(file.name) if known is not None else None
            if first is not None and (first.bytes != file.bytes or file.sha256 not in (None, first.sha256)):
                raise _changed(source, file.name)
            if not accept_changes and file.sha256 not in (None, _known_digest(source, file.name, file.sha256)):
                raise _changed(source, file.name)
            files.append(
                Planned(source, file.name, path(file.name), file.bytes, listing.commit, file.sha256, file.git_sha1)
            )
    return Plan(release, tuple(files), accept_changes=accept_changes)


def plan_from_folder(release: Release, folder: Path, encoder: Path | None = None) -> Plan:
    """The files of a release that somebody has fetched by hand into ``folder``, or into folders in it.

    Args:
        encoder: where the image encoder's file is, if it is somewhere else.

    Raises:
        CheckpointError: naming what is lacking and where it comes from.
    """
    files = []
    for source in release.sources:
        names = [(name, (name,)) for name in source.files]
        if source.by_hand:
            names = [(source.files[0], (*source.files, *source.by_hand))]
        places = [folder / source.folder, folder / source.repo.rpartition("/")[2] / source.folder, folder]
        places.append(folder / source.repo.rpartition("/")[2])
        for name, known_as in names:
            candidates = [place / other for place in places for other in known_as]
            if encoder is not None and source.by_hand:
                candidates = [encoder]
            found = next((path for path in candidates if path.is_file()), None)
            if found is None:
                raise CheckpointError(
                    f"{folder} lacks {name} of {source.title}. Fetch {source.path(name)} from {source.page} into it."
                )
            files.append(Planned(source, found.name, found, found.stat().st_size))
    return Plan(release, tuple(files), by_hand=True)


def check_room(plan: Plan, models_dir: Path) -> None:
    """Whether the disk has room for all of it.

    Raises:
        DiskFullError: naming what is needed and what there is.
    """
    place = models_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < plan.disk_bytes:
        raise DiskFullError(
            f"{plan.release.name} needs {plan.disk_bytes / 1e9:.1f} GB of free disk in {models_dir}, and there are "
            f"{free / 1e9:.1f} GB. Free some, or name a folder on another disk with --models-dir."
        )


def gather(plan: Plan, models_dir: Path, on_progress: OnProgress, endpoint: str | None = None) -> None:
    """Fetch what is lacking, and hold every file against the record of the first download.

    Raises:
        DownloadError, DiskFullError: as ``core.checkpoints.hub.fetch``.
        CheckpointError: for a file that is not what it was at the first download.
    """
    ledger = Ledger(models_dir)
    for file in plan.files:
        record = ledger.source(file.source)
        if record is None or (file.commit is not None and record.commit != file.commit):
            record = ledger.start(file.source, file.commit)
        known = record.files.get(file.name)

        def told(done: int, file: Planned = file) -> None:
            on_progress("check", file.name, done, file.bytes)

        found = file_record(file.path, told) if file.is_here else None
        if found is not None and plan.by_hand and known not in (None, found):
            raise CheckpointError(
                f"{file.path} is not the file that was downloaded first (its digest differs). Fetch it again from "
                f"{file.source.page}; to trust the new one, remove {ledger.path}."
            )
        if found is None or not _is_right(file, found, known):
            found = _fetch(file, known, on_progress, endpoint)
        if known is not None and found != known:
            raise _changed(file.source, file.name)
        if not plan.accept_changes and found.sha256 != _known_digest(file.source, file.name, found.sha256):
            raise _changed(file.source, file.name)
        ledger.add(file.source, file.name, found)


def _known_digest(source: Source, name: str, otherwise: str) -> str:
    """That a file must have, as far as it is known beforehand."""
    return dict(source.digests).get(name, otherwise)


def _is_right(file: Planned, found: FileRecord, known: FileRecord | None) -> bool:
    """Whether a file that is there needs no download."""
    if known is not None:
        return found == known
    if file.sha256 is not None:
        return found.sha256 == file.sha256
    return file.commit is None  # a small file that nobody vouches for comes anew


def _fetch(file: Planned, known: FileRecord | None, on_progress: OnProgress, endpoint: str | None) -> FileRecord:
    if file.commit is None:
        file.path.unlink(missing_ok=True)
        raise DownloadError(
            f"{file.path} was changed after it had come, and was removed. Run the command again: it is fetched anew."
        )
    from core.checkpoints.hub import RemoteFile, fetch

    remote = RemoteFile(file.name, file.bytes, file.sha256, file.git_sha1)
    on_bytes = lambda done: on_progress("download", file.name, done, file.bytes)  # noqa: E731 - an argument
    return fetch(file.source, remote, file.commit, file.path, on_bytes, endpoint)


def _changed(source: Source, name: str) -> CheckpointError:
    return CheckpointError(
        f"{name} of {source.repo} is not the one that was downloaded first, or that S2 Mesh knows. If {source.page} "
        "tells why and you trust it, run again with --accept-changes."
    )
