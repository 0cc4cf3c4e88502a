"""What of each preset and release is on this machine: looks at files, loads nothing and knows no torch."""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.checkpoints.download import original_path
from core.checkpoints.installed import SUFFIX, find_preset_folder, missing_networks
from core.config.presets import PRESETS, ModelPreset
from core.config.releases import MATTING, RELEASES, Release, get_release
from core.errors import ConfigError


@dataclass(frozen=True)
class Standing:
    """What of a preset or release is on this machine."""

    name: str
    title: str
    installed: bool
    bundled: bool  # part of the program: not downloaded, not removed
    folder: Path
    bytes: int  # of what is installed
    kept_bytes: int  # of originals, whole or in part


def standings(models_dir: Path) -> list[Standing]:
    """Of every preset and release, in the order of their tables."""
    names = [*PRESETS, *(name for name in RELEASES if name not in PRESETS)]
    return [standing(name, models_dir) for name in names]


def standing(name: str, models_dir: Path) -> Standing:
    """Of one of them.

    Raises:
        ConfigError: if there is no such preset or release.
    """
    preset, release = PRESETS.get(name), RELEASES.get(name)
    if preset is None and release is None:
        known = ", ".join(dict.fromkeys((*PRESETS, *RELEASES)))
        raise ConfigError(f"there is no model {name!r}. Known: {known}.")
    folder = find_preset_folder(preset, models_dir) if preset else models_dir / name
    ours = _networks(preset, folder) if preset else _own_files(name, models_dir)
    kept = originals(release, models_dir) if release and release.is_preset else []
    installed = not missing_networks(preset, folder) if preset else all(path.is_file() for path in ours)
    return Standing(
        name=name,
        title=(preset or release).title,
        installed=installed,
        bundled=preset is not None and preset.bundled and folder != models_dir / name,
        folder=folder,
        bytes=sum(path.stat().st_size for path in ours if path.is_file()),
        kept_bytes=sum(_size(path) for path in kept),
    )


def removable(name: str, models_dir: Path) -> list[Path]:
    """The files that this program has put on the disk for a preset or release.

    Raises:
        ConfigError: if there is no such preset or release, or it was never downloaded.
    """
    there = standing(name, models_dir)
    if there.bundled:
        raise ConfigError(f"{name} is part of S2 Mesh and is not removed.")
    if name not in RELEASES:
        raise ConfigError(f"{there.folder} was not downloaded, so it is not removed. It may be what you have trained.")
    files = [*_own_files(name, models_dir), *originals(RELEASES[name], models_dir)]
    return [path for path in dict.fromkeys(files) if path.is_file()]


def with_companions(names: Sequence[str], models_dir: Path) -> list[str]:
    """The names, and with a preset the matting network where it can be run and is not there yet.

    Raises:
        ConfigError: for a name that cannot be downloaded.
    """
    wanted = list(dict.fromkeys(names))
    presets = [name for name in wanted if get_release(name).is_preset]
    runs = importlib.util.find_spec("onnxruntime") is not None
    if presets and runs and MATTING in RELEASES and MATTING not in wanted:
        wanted += [] if standing(MATTING, models_dir).installed else [MATTING]
    return wanted


def _networks(preset: ModelPreset, folder: Path) -> list[Path]:
    return [folder / f"{network}{SUFFIX}" for network in preset.networks()]


def _own_files(name: str, models_dir: Path) -> list[Path]:
    """What is installed in the models folder under this name, if it is."""
    if name in PRESETS:
        return _networks(PRESETS[name], models_dir / name)
    return [models_dir / name / file for source in RELEASES[name].sources for file in source.files]


def originals(release: Release, models_dir: Path) -> list[Path]:
    """Files as they came, whole or in part."""
    paths = [original_path(models_dir, release, source, file) for source in release.sources for file in source.files]
    return [each for path in paths for each in (path, path.with_name(path.name + ".part"))]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
