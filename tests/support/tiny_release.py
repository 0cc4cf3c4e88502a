"""``s2mesh models`` with a release of a few thousand weights in the authors' layout, for a process of its own.

    HF_ENDPOINT=URL python tests/support/tiny_release.py download tiny-release ...

``write_hub`` makes the files that a fake hub serves for it.
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "tiny-release"


def main() -> int:
    sys.path.insert(0, str(ROOT))
    import huggingface_hub.constants

    from core.cli.errors import run_reporting
    from core.cli.models import main as models

    huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 2000
    huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT = 30
    know_release()
    know_layout()
    return run_reporting(lambda: models(sys.argv[1:]))


def know_release() -> None:
    """Puts the release and its preset into the tables, without torch."""
    from core.config import presets, releases

    source = replace(releases.RELEASES["direct3d-s2-v1.1"].sources[0], repo="somebody/tiny", folder="v1")
    encoder = replace(releases.DINOV2, repo="somebody/eye")
    release = releases.Release(name=NAME, title="Tiny", sources=(source, encoder))
    releases.RELEASES.clear()
    releases.RELEASES[NAME] = release
    presets.PRESETS[NAME] = preset()


def know_layout() -> None:
    """Widths that the authors' files do not state are small ones; before the conversion is imported."""
    from core.checkpoints import authors_config
    from tests.support.released_config import shrunk

    authors_config.config_from_authors = shrunk


def preset():
    from tests.support.released_config import tiny_preset

    return replace(tiny_preset(), name=NAME)


def write_hub(folder: Path) -> dict[str, bytes]:
    """What a hub has of it: path to content."""
    from safetensors.torch import save_file

    from tests.support.released_folder import write_released

    states = write_released(folder, preset())
    (folder / "dinov2_vitl14_reg4_pretrain.pth").unlink()
    files = {f"somebody/tiny/v1/{path.name}": path.read_bytes() for path in folder.iterdir()}
    save_file({key.removeprefix("backbone."): value for key, value in states["conditioner"].items()}, folder / "eye")
    return files | {"somebody/eye/model.safetensors": (folder / "eye").read_bytes()}


if __name__ == "__main__":
    sys.exit(main())
