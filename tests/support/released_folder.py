"""A folder as the authors lay theirs out, tiny, with random weights."""

from pathlib import Path

import torch
import yaml

from core.checkpoints import convert_direct3d_s2 as conversion
from core.config.presets import ModelPreset
from core.models.dinov2_keys import to_hub
from core.models.registry import build
from tests.support.released_config import SECTIONS


def write_released(folder: Path, preset: ModelPreset) -> dict[str, dict[str, torch.Tensor]]:
    """Writes the authors' files of the tiny preset with random weights; their state dicts under our names."""
    (folder / "config.yaml").write_text(yaml.safe_dump(SECTIONS))
    torch.manual_seed(0)
    states = {name: build(config).half().state_dict() for name, config in preset.networks().items()}
    files: dict[str, dict] = {}
    for name, (_, file, entry) in conversion.SOURCES.items():
        files.setdefault(file, {})[entry] = states[name]
    for number, (file, content) in enumerate(files.items()):  # both layouts that torch has written
        torch.save(content, folder / file, _use_new_zipfile_serialization=number != 1)
    states["conditioner"] = {key: value.float() for key, value in states["conditioner"].items()}
    hub = to_hub({key.removeprefix("backbone."): value for key, value in states["conditioner"].items()})
    torch.save(hub, folder / "dinov2_vitl14_reg4_pretrain.pth")
    return states
