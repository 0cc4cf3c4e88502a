"""The authors' released folder to ours: ``config.yaml`` and ``.ckpt`` files to one safetensors file per network.

Their files are pickles: they are opened by torch's restricted loader only, which builds tensors and plain containers
and refuses the rest. The classes that their configuration names are looked up in a table, never imported. Keys and
layouts (torchsparse kernels [27, in, out], x fastest) stay: our modules use the same. Files are mapped into memory
and written tensor by tensor, so that the whole needs less than any of its networks.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from core.checkpoints.authors_config import config_from_authors, scheduler_shift
from core.checkpoints.installed import SUFFIX
from core.checkpoints.load import build_unfilled, matched_keys
from core.checkpoints.pickled import MappedState, only_tensors, read_mapped, read_pickled
from core.checkpoints.store import save_tensors
from core.config.presets import PRESETS, ModelPreset
from core.errors import CheckpointError, ConfigError
from core.models.dinov2_keys import from_hub

CONFIG_NAME = "config.yaml"
MAX_CONFIG_BYTES = 1_000_000
DINOV2_NAMES = ("dinov2_vitl14_reg4_pretrain.pth", "dinov2.pth", "dinov2.safetensors")
DINOV2_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_reg4_pretrain.pth"


class Source(NamedTuple):
    """Where the authors keep one network."""

    section: str  # of config.yaml
    file: str
    entry: str  # top-level key inside the file


SOURCES = {  # our network's name to the authors' place
    "dense_dit": Source("dense_dit", "model_dense.ckpt", "dit"),
    "dense_vae": Source("dense_vae", "model_dense.ckpt", "vae"),
    "sparse_dit_512": Source("sparse_dit_512", "model_sparse_512.ckpt", "dit"),
    "sparse_vae_512": Source("sparse_vae_512", "model_sparse_512.ckpt", "vae"),
    "refiner_512": Source("refiner", "model_refiner.ckpt", "refiner"),
    "sparse_dit_1024": Source("sparse_dit_1024", "model_sparse_1024.ckpt", "dit"),
    "sparse_vae_1024": Source("sparse_vae_1024", "model_sparse_1024.ckpt", "vae"),
    "refiner_1024": Source("refiner_1024", "model_refiner_1024.ckpt", "refiner"),
}
CONDITIONER_SECTION = "dense_image_encoder"
SCHEDULERS = {"dense_scheduler": None, "sparse_scheduler_512": 512, "sparse_scheduler_1024": 1024}  # SDF resolution


def convert(
    folder: Path,
    models_dir: Path,
    *,
    dinov2: Path | None = None,
    dtype: torch.dtype | None = None,
    replace: bool = False,
    presets: Iterable[ModelPreset] = tuple(PRESETS.values()),
    on_network: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Convert a released folder into ``models_dir/<preset>``, which appears whole or not at all.

    Args:
        folder: holds ``config.yaml`` and the five ``.ckpt`` files.
        models_dir: where presets are kept.
        dinov2: weights of the image encoder, the file of Meta's hub (.pth) or of transformers (.safetensors); by
            default looked for in ``folder`` under the names ``DINOV2_NAMES``.
        dtype: of the stored weights; None keeps that of the files.
        replace: whether an installed preset may be replaced.
        presets: those among which the folder's configuration is looked up.
        on_network: called with name, number and total before each network.

    Returns:
        The folder that was made.

    Raises:
        CheckpointError: for anything missing, damaged, foreign, or not a model that we have a preset for.
    """
    sections = read_config(folder / CONFIG_NAME)
    preset = matching_preset(sections, presets)
    if lacking := sorted({s.file for s in SOURCES.values() if not (folder / s.file).is_file()}):
        raise CheckpointError(f"{folder} lacks {', '.join(lacking)}. Download the whole folder from {preset.source}.")
    dinov2 = dinov2 or next((p for name in DINOV2_NAMES if (p := folder / name).is_file()), None)
    if dinov2 is None or not dinov2.is_file():
        raise CheckpointError(
            f"the image encoder's weights {'are not in ' + str(folder) if dinov2 is None else f'{dinov2} are missing'}."
            f" Download {DINOV2_URL} into the folder, or name the file with --dinov2."
        )
    target = models_dir / preset.name
    if target.exists() and not replace:
        raise CheckpointError(f"{target} exists. Remove it, or add --replace.")
    models_dir.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{preset.name}.", dir=models_dir))
    try:
        made = scratch / "new"
        networks = preset.networks()
        for number, (name, config) in enumerate(networks.items(), start=1):
            if on_network is not None:
                on_network(name, number, len(networks))
            if name == "conditioner":
                state, origin = read_dinov2(dinov2), dinov2.name
            else:
                source = SOURCES[name]
                state, origin = read_entry(folder / source.file, source.entry), f"{source.file}: {source.entry}"
            network = build_unfilled(config)
            keys = matched_keys(network, state.shapes, origin)
            stored = state.renamed(keys)
            save_tensors(made / f"{name}{SUFFIX}", stored, config, dtype, about={"converted_from": origin})
            del state, stored
        _put_in_place(made, target, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def read_config(path: Path) -> dict[str, dict[str, Any]]:
    """The sections of the authors' ``config.yaml``: plain data only.

    Raises:
        CheckpointError: if it is missing, not YAML, or not a mapping of sections.
    """
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} is far too large for a configuration. Download it again.")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Give the folder that holds the released files.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError) as error:
        raise CheckpointError(f"{path} is not a configuration that can be read. Download it again.") from error
    if not isinstance(data, dict) or not all(isinstance(section, dict) for section in data.values()):
        raise CheckpointError(f"{path} has no sections. Download it again.")
    return data


def matching_preset(sections: Mapping[str, Mapping[str, Any]], presets: Iterable[ModelPreset]) -> ModelPreset:
    """The preset whose networks and schedules are those of the authors' configuration.

    Raises:
        CheckpointError: if there is none, naming what the nearest one has otherwise.
    """
    found = {name: _config(sections, source.section) for name, source in SOURCES.items()}
    found["conditioner"] = _config(sections, CONDITIONER_SECTION)
    candidates = [preset for preset in presets if set(preset.networks()) == set(found)]
    differing = {
        preset: [name for name, config in preset.networks().items() if config != found[name]]
        + [section for section in SCHEDULERS if not _schedule_fits(sections, section, preset)]
        for preset in candidates
    }
    for preset, names in differing.items():
        if not names:
            return preset
    nearest = min(differing, key=lambda preset: len(differing[preset]), default=None)
    if nearest is None:
        raise CheckpointError("no preset has the networks of this folder. Update S2 Mesh.")
    details = [_difference(name, found.get(name), nearest.networks().get(name)) for name in differing[nearest]]
    raise CheckpointError(
        f"this folder is no model that S2 Mesh knows; {nearest.name} is nearest, but differs in {'; '.join(details)}. "
        "Use a released folder, or update S2 Mesh."
    )


def read_entry(path: Path, entry: str) -> MappedState:
    """One state dict of a ``.ckpt`` file.

    Raises:
        CheckpointError: if the file is damaged, holds anything but tensors, or lacks ``entry``.
    """
    return read_pickled(path, lambda content: _entry(content, entry, path))


def read_dinov2(path: Path) -> MappedState:
    """The image encoder's state dict under our keys, from Meta's hub file or from transformers' safetensors.

    Raises:
        CheckpointError: if the file cannot be read or is another model.
    """
    state = read_mapped(path) if path.suffix == SUFFIX else read_pickled(path, lambda content: _from_hub(content, path))
    return state.renamed({f"backbone.{key}": key for key in state})


def _entry(content: Any, entry: str, path: Path) -> Any:
    if not isinstance(content, dict) or entry not in content:
        raise CheckpointError(f"{path} has no entry {entry!r}. Download it again.")
    return content[entry]


def _from_hub(content: Any, path: Path) -> Any:
    try:
        return from_hub(only_tensors(content, path))
    except KeyError as error:
        raise CheckpointError(
            f"{path} is not DINOv2 with registers (it has {error.args[0]!r}). Download {DINOV2_URL}."
        ) from error


def _config(sections: Mapping[str, Mapping[str, Any]], section: str) -> Any:
    try:
        return config_from_authors(*_target(sections, section))
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"section {section!r} of {CONFIG_NAME}: {error} Use a released folder.") from error


def _target(sections: Mapping[str, Mapping[str, Any]], section: str) -> tuple[str, Mapping[str, Any]]:
    content = sections.get(section)
    if content is None:
        raise ConfigError("it is missing.")
    target, params = content.get("target"), content.get("params") or {}
    if not isinstance(target, str) or not isinstance(params, Mapping):
        raise ConfigError("it has no target and params.")
    return target, params


def _schedule_fits(sections: Mapping[str, Mapping[str, Any]], section: str, preset: ModelPreset) -> bool:
    try:
        shift = scheduler_shift(*_target(sections, section))
    except (ConfigError, TypeError, ValueError) as error:
        raise CheckpointError(f"section {section!r} of {CONFIG_NAME}: {error} Use a released folder.") from error
    resolution = SCHEDULERS[section]
    stage = preset.dense if resolution is None else next(s for s in preset.sparse if s.resolution == resolution)
    return shift == stage.sampling.shift


def _difference(name: str, found: Any, expected: Any) -> str:
    """What two configurations of network ``name`` have otherwise; for a scheduler, its name."""
    if found is None or type(found) is not type(expected):
        return name
    names = [f.name for f in fields(expected) if getattr(found, f.name) != getattr(expected, f.name)]
    return f"{name} ({', '.join(names)})"


def _put_in_place(made: Path, target: Path, scratch: Path) -> None:
    """Rename ``made`` to ``target``; what was there goes to ``scratch``, and back if the rename fails."""
    old = scratch / "old"
    if target.exists():
        target.rename(old)
    try:
        made.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
