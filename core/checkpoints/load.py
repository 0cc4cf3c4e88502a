"""From files to networks: strict both ways, low peak memory, one error that names all that is wrong."""

import threading
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from core.checkpoints.installed import SUFFIX, find_preset_folder, missing_networks
from core.checkpoints.store import NetworkFile, open_tensors, read_header
from core.config.models import ConditionerConfig
from core.config.presets import ModelPreset
from core.errors import CheckpointError, ConfigError, DeviceMemoryError
from core.models.dinov2_keys import match_layout
from core.models.registry import build
from core.models.streaming import stream_blocks
from core.nn.precision import set_compute_dtype

_NAMED = 4  # keys that an error names before it only counts
_OF_THE_WEIGHTS = ("latent_scale", "latent_shift")  # measured in training: the file's values hold, not the preset's


def load_network(
    path: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    expected_config: Any = None,
    check_finite: bool = False,
    streamed: bool = False,
) -> nn.Module:
    """Build the network that ``path`` describes and load its weights, in eval mode.

    Weights of matrix products are in ``dtype``, all others in float32 (see ``core.nn.precision``); the image
    encoder is float32 altogether, as the release runs it. Tensors go to ``device`` one by one.

    Args:
        path: a file written by ``core.checkpoints.store``.
        device: where the network shall be.
        dtype: float32, bfloat16 or float16.
        expected_config: what the file must describe, except for the scale and shift of its latents.
        check_finite: refuse weights that are not finite.
        streamed: its ``blocks`` stay in host memory and come to ``device`` when they are used (core.models.streaming).

    Raises:
        CheckpointError: if the file cannot be read, is another network, or its tensors are not exactly those needed.
        DeviceMemoryError: if they do not fit on ``device``.
    """
    file = read_header(path)
    if expected_config is not None:
        check_config(file, expected_config)
    network = build_unfilled(file.config)
    if not isinstance(file.config, ConditionerConfig):
        set_compute_dtype(network, dtype)
    key_in_file = matched_keys(network, file.shapes, str(path))
    here = "cpu" if streamed else device
    filled: dict[str, Tensor] = {}
    with open_tensors(path) as tensors:
        for key, target in network.state_dict().items():
            try:
                value = tensors.get_tensor(key_in_file[key]).to(device=here, dtype=target.dtype, copy=True)
            except torch.OutOfMemoryError as error:
                raise DeviceMemoryError(
                    f"{device} has too little free memory for {path.name}. Free some, or use another device."
                ) from error
            if check_finite and value.is_floating_point() and not torch.isfinite(value).all():
                raise CheckpointError(f"{path}: {key} has values that are not finite. Download or train it again.")
            filled[key] = value
    network.load_state_dict(filled, strict=True, assign=True)
    left = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if tensor.is_meta]
    assert not left, f"{type(network).__name__} keeps {left} neither in its state dict nor in a constant buffer"
    network = stream_blocks(network, device) if streamed else network.to(device)
    return network.eval()


def build_unfilled(config: Any) -> nn.Module:
    """The network of ``config`` whose parameters have a shape and no memory; constant buffers are real."""
    with _EmptyHasNoMemory():
        return build(config)


def matched_keys(
    network: nn.Module, shapes: Mapping[str, tuple[int, ...]], name: str
) -> dict[str, str]:  # the network's key -> the file's
    """Check that ``shapes`` (of a state dict, from ``name``) are exactly those of ``network``.

    Raises:
        CheckpointError: one, naming missing, unexpected and mis-shaped keys.
    """
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = match_layout({key: key for key in shapes}, set(wanted))  # attention names differ between library versions
    problems = [
        _listed("missing", [key for key in wanted if key not in found]),
        _listed("unexpected", [key for key in found if key not in wanted]),
        _listed(
            "of another shape",
            [
                f"{key} {list(shapes[found[key]])} instead of {list(shape)}"
                for key, shape in wanted.items()
                if key in found and shapes[found[key]] != shape
            ],
        ),
    ]
    if any(problems):
        raise CheckpointError(
            f"{name} does not fit {type(network).__name__}: {'; '.join(filter(None, problems))}. "
            "Use the weights that belong to this preset, or convert or train them again."
        )
    return found


def check_config(file: NetworkFile, expected: Any) -> None:
    """Refuse a file that describes another network than ``expected``.

    Raises:
        CheckpointError: naming the fields that differ.
    """
    if type(file.config) is not type(expected):
        raise CheckpointError(
            f"{file.path} holds a network of {type(file.config).__name__}, not of {type(expected).__name__}. "
            "Put the right file in its place."
        )
    free = {name: getattr(file.config, name) for name in _OF_THE_WEIGHTS if hasattr(expected, name)}
    if file.config != (wanted := replace(expected, **free)):
        differing = [
            f"{field.name} {getattr(file.config, field.name)} instead of {getattr(wanted, field.name)}"
            for field in fields(wanted)
            if getattr(file.config, field.name) != getattr(wanted, field.name)
        ]
        raise CheckpointError(
            f"{file.path} is of another size: {', '.join(differing)}. Use the weights that belong to this preset."
        )


class NetworkStore:
    """The networks of one preset, each loaded when first asked for and kept until released.

    Args:
        cuda_graphs: whether a sampler may record an evaluation and replay it (``core.pipeline.graphs``).

    Raises:
        CheckpointError: at once, if files are missing: before any minute is spent on the first stages.
    """

    def __init__(
        self,
        preset: ModelPreset,
        folder: Path | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        cuda_graphs: bool = True,
    ):
        self.preset = preset
        self.folder = find_preset_folder(preset) if folder is None else folder
        self.device = torch.device(device)
        self.dtype = dtype
        self.cuda_graphs = cuda_graphs
        self._loaded: dict[str, nn.Module] = {}
        self.streamed: set[str] = set()  # of those loaded
        self._read_ahead: set[str] = set()
        if missing := missing_networks(preset, self.folder):
            remedy = (
                "Train them with `s2mesh train-starter`, or restore the repository's core/weights."
                if preset.bundled
                else f"Run `s2mesh models download {preset.name}`."
            )
            raise CheckpointError(
                f"the weights of preset {preset.name!r} are not installed: "
                f"{self.folder} lacks {', '.join(missing)}. {remedy}"
            )

    def get(self, name: str, *, streamed: bool = False) -> nn.Module:
        """The network called ``name`` (of ``preset.networks()``); ``streamed`` as for ``load_network``."""
        configs = self.preset.networks()
        if name not in configs:
            raise ConfigError(f"preset {self.preset.name!r} has no network {name!r}. Known: {', '.join(configs)}.")
        if name in self._loaded and streamed != (name in self.streamed):
            self.release(name)
        if name not in self._loaded:
            self._loaded[name] = load_network(
                self.folder / f"{name}{SUFFIX}",
                device=self.device,
                dtype=self.dtype,
                expected_config=configs[name],
                streamed=streamed,
            )
            self.streamed |= {name} if streamed else set()
            self._read_ahead.discard(name)
        return self._loaded[name]

    def read_ahead(self, *names: str) -> list[threading.Thread]:
        """Have the files of networks that come next read while others compute: then they are in the system's cache.

        What goes wrong is told when the network is loaded. Returns the threads that read.
        """
        names = [name for name in names if name not in self._loaded and name not in self._read_ahead]
        self._read_ahead.update(names)
        files = [self.folder / f"{name}{SUFFIX}" for name in names]
        threads = [threading.Thread(target=_read_through, args=(file,), daemon=True) for file in files]
        for thread in threads:
            thread.start()
        return threads

    def release(self, name: str) -> None:
        """Forget the network; its memory is free once no one else holds it."""
        self._loaded.pop(name, None)
        self.streamed.discard(name)

    @property
    def loaded(self) -> tuple[str, ...]:
        """Names of the networks in memory."""
        return tuple(self._loaded)


def _read_through(path: Path) -> None:
    """Reads a file and keeps nothing."""
    piece = bytearray(8 * 2**20)
    try:
        with path.open("rb", buffering=0) as file:
            while file.readinto(piece):
                pass
    except OSError:
        return


class _EmptyHasNoMemory(TorchFunctionMode):
    """Sends ``torch.empty``, with which parameters are made, to the meta device; constants stay real.

    Start values are not drawn there: it would change nothing, and load a compiler that takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.empty and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        if getattr(func, "__module__", "") == nn.init.__name__:
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def _listed(kind: str, keys: list[str]) -> str:
    """``3 missing (a, b, c)``, or nothing for no keys."""
    if not keys:
        return ""
    more = ", ..." if len(keys) > _NAMED else ""
    return f"{len(keys)} {kind} ({', '.join(keys[:_NAMED])}{more})"
