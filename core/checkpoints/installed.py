"""Which presets are on this machine, and where: looks at names of files, loads nothing and knows no torch."""

from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from core.config.presets import PRESETS, ModelPreset
from core.config.releases import MATTING, RELEASES

if TYPE_CHECKING:
    from core.imaging.background import MattingModel

SUFFIX = ".safetensors"
_BUNDLED = Path(__file__).resolve().parents[1] / "weights"  # core/weights


def user_data_dir() -> Path:
    """Where this user's weights and, unless told otherwise, the server's jobs are kept."""
    return platformdirs.user_data_path("s2mesh", appauthor=False)


def default_models_dir() -> Path:
    """Where presets that are not part of the repository are kept: the user's data folder."""
    return user_data_dir() / "models"


def find_preset_folder(preset: ModelPreset, models_dir: Path | None = None) -> Path:
    """The folder of a preset's files: inside this package for bundled weights, else below ``models_dir``.

    A bundled preset that ``models_dir`` holds in full is taken from there: that is how trained weights are tried.
    """
    own = (models_dir or default_models_dir()) / preset.name
    if preset.bundled and (models_dir is None or missing_networks(preset, own)):
        return _BUNDLED / preset.name
    return own


def missing_networks(preset: ModelPreset, folder: Path) -> list[str]:
    """Names of the preset's networks that have no file in ``folder``."""
    return [name for name in preset.networks() if not (folder / f"{name}{SUFFIX}").is_file()]


def installed_presets(models_dir: Path | None = None) -> list[str]:
    """Names of the presets whose files are all there."""
    return [
        name for name, preset in PRESETS.items() if not missing_networks(preset, find_preset_folder(preset, models_dir))
    ]


def installed_matting(models_dir: Path | None = None) -> "MattingModel | None":
    """The matting network, if its file is there and onnxruntime is installed; it is opened when a picture needs it."""
    if MATTING not in RELEASES:
        return None
    path = (models_dir or default_models_dir()) / MATTING / RELEASES[MATTING].sources[0].files[0]
    if not path.is_file():
        return None
    from core.imaging.matting import OnnxMatting, can_run  # numpy: not needed where only names are looked at

    return OnnxMatting(path) if can_run() else None
