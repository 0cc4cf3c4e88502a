"""Releases on this machine: installed, verified, removed; one at a time, and never half.

``python -m core.cli.models`` and the server's downloads are this. Torch is loaded where files are converted or read.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import filelock

from core.checkpoints.download import OnProgress, Plan, check_room, gather, original_path
from core.checkpoints.installed import SUFFIX
from core.checkpoints.ledger import Ledger, file_record
from core.checkpoints.standing import originals, removable, standing
from core.config.presets import PRESETS, ModelPreset
from core.config.releases import RELEASES
from core.errors import CheckpointError, ConfigError
from core.files import replacing, telling_why

LOCK = ".lock"


@contextlib.contextmanager
def one_at_a_time(models_dir: Path) -> Iterator[None]:
    """Holds the models folder, and clears away what a conversion left that was killed.

    Raises:
        ConfigError: if another process holds it. InputError: if it cannot be written. DiskFullError: if it is full.
    """
    with telling_why(models_dir), contextlib.ExitStack() as held:
        models_dir.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(filelock.FileLock(models_dir / LOCK, timeout=0))
        except filelock.Timeout:
            raise ConfigError(
                f"another download, conversion or removal is under way in {models_dir}. Wait for its end."
            ) from None
        for name in (*PRESETS, *RELEASES):
            for left in models_dir.glob(f".{name}.*"):
                shutil.rmtree(left, ignore_errors=True)
        yield


def install(
    plan: Plan,
    models_dir: Path,
    on_progress: OnProgress,
    *,
    keep_originals: bool = False,
    dtype: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch what is lacking, hold it against the record, convert it, and put it in its place.

    What is interrupted is taken up at the next call: files go on where they stopped, a conversion starts over. Files
    that the user fetched by hand are never changed.

    Args:
        keep_originals: leave the publisher's files where they were put; else they go when they are converted.
        dtype: of the converted weights, such as ``float16``; None keeps the publisher's.

    Returns:
        The folder that was made.

    Raises:
        CheckpointError: for files that are damaged, foreign, or of another version than the release's.
        DownloadError, DiskFullError, ConfigError: as the steps do.
    """
    release = plan.release
    with one_at_a_time(models_dir):
        check_room(plan, models_dir)
        gather(plan, models_dir, on_progress, endpoint)
        if release.is_preset:
            folder = _convert(plan, models_dir, dtype, on_progress)
            if not keep_originals and not plan.by_hand:
                _remove_files(originals(release, models_dir), models_dir)
            return folder
        folder = models_dir / release.name
        digests = {}
        for file in plan.files:
            place = folder / file.name
            if plan.by_hand:
                _copy(file.path, place, on_progress)
            digests[place.name] = file_record(place).sha256
        Ledger(models_dir).set_made(release.name, digests)
        return folder


def verify(name: str, models_dir: Path, on_progress: OnProgress) -> list[str]:
    """A sentence for each file of an installed preset or release that is not what it was; empty if all is well.

    Every byte is read: the networks are held against the digests in their headers, these against what was recorded
    when they were made, and originals that were kept against what came at the first download.

    Raises:
        ConfigError: if there is no such preset or release. CheckpointError: if it is not installed.
    """
    there = standing(name, models_dir)
    preset, release, ledger = PRESETS.get(name), RELEASES.get(name), Ledger(models_dir)
    if not there.installed and not there.bytes and not there.kept_bytes:
        raise CheckpointError(f"{name} is not installed. Run `s2mesh models download {name}`.")
    problems = _verify_networks(preset, there.folder, ledger.made(name), on_progress) if preset else []
    for source in release.sources if release else ():
        known = ledger.source(source)
        for file, first in known.files.items() if known else ():
            path = original_path(models_dir, release, source, file)
            if not path.is_file():
                if not release.is_preset:
                    problems.append(f"{path} is missing. Run `s2mesh models download {name}`.")
                continue
            on_progress("verify", file, 0, 1)
            if file_record(path) != first:
                problems.append(f"{path} was changed after it was downloaded. Remove it and download it again.")
    return problems


def remove(name: str, models_dir: Path) -> None:
    """Removes exactly what ``removable`` lists, and folders that are empty then. The record of digests stays.

    Raises:
        ConfigError: as ``removable``.
    """
    with one_at_a_time(models_dir):
        _remove_files(removable(name, models_dir), models_dir)
        Ledger(models_dir).set_made(name, {})


# --- steps ---


def _convert(plan: Plan, models_dir: Path, dtype: str | None, on_progress: OnProgress) -> Path:
    import torch

    from core.checkpoints.convert_direct3d_s2 import CONFIG_NAME, convert, matching_preset, read_config
    from core.checkpoints.store import read_header

    name = plan.release.name
    config = next(file.path for file in plan.files if file.name == CONFIG_NAME)
    found = matching_preset(read_config(config), PRESETS.values()).name
    if found != name:
        raise CheckpointError(
            f"{config.parent} holds {found}, not {name}. Run `s2mesh models download {found}` for it."
        )
    folder = convert(
        config.parent,
        models_dir,
        dinov2=next(file.path for file in plan.files if file.source is plan.release.sources[-1]),
        dtype=None if dtype is None else getattr(torch, dtype),
        replace=True,
        presets=[PRESETS[name]],
        on_network=lambda network, number, total: on_progress("convert", network, number - 1, total),
    )
    made = {path.name: read_header(path).sha256 for path in sorted(folder.glob(f"*{SUFFIX}"))}
    Ledger(models_dir).set_made(name, made)
    return folder


def _verify_networks(preset: ModelPreset, folder: Path, made: dict[str, str], on_progress: OnProgress) -> list[str]:
    from core.checkpoints.load import check_config
    from core.checkpoints.store import read_header, verify_digest

    problems, networks = [], preset.networks()
    for number, (name, config) in enumerate(networks.items()):
        on_progress("verify", name, number, len(networks))
        path = folder / f"{name}{SUFFIX}"
        try:
            header = read_header(path)
            check_config(header, config)
            verify_digest(path)
            if made.get(path.name, header.sha256) != header.sha256:
                raise CheckpointError(f"{path} is not the file that was made here. Download or convert it again.")
        except CheckpointError as error:
            problems.append(str(error))
    return problems


def _copy(path: Path, place: Path, on_progress: OnProgress) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    on_progress("copy", place.name, 0, 1)
    with replacing(place) as partial:
        shutil.copyfile(path, partial)


def _remove_files(paths: list[Path], models_dir: Path) -> None:
    """Removes files, and the folders in the models folder that are empty then."""
    for path in paths:
        path.unlink(missing_ok=True)
    for folder in {parent for path in paths for parent in path.parents if models_dir in parent.parents}:
        for empty in (folder, *folder.parents):
            if empty == models_dir:
                break
            with contextlib.suppress(OSError):  # there is something in it
                empty.rmdir()
