"""Golden files: inputs, weights and outputs of the authors' modules, and how far ours are from them.

Letters: N rows, C channels.
"""

import json
import lzma
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from core.errors import InputError

VANISHING = 1e-5  # of the largest gradient of a file


@dataclass(frozen=True)
class Comparison:
    """One tensor of ours against theirs."""

    tensor: str  # its name in the golden file
    error: float  # relative RMS error, or the share of rows that differ; infinite where they cannot be compared
    shape: tuple[int, ...]
    note: str = ""


@dataclass(frozen=True)
class Golden:
    """A golden file in memory.

    ``tensors`` are under their names in the file; ``extras`` is what its metadata says besides module and config.
    """

    module: str
    config: dict[str, Any]
    extras: dict[str, Any]
    tensors: dict[str, Tensor]
    device: torch.device

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(f"the file lacks the tensor {name}.")
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str, default: Tensor) -> Tensor:
        """The tensor ``name``, or ``default`` if the file has none."""
        return self.tensors.get(name, default)

    def expected(self) -> list[str]:
        """Names of all tensors to compare with."""
        return sorted(name for name in self.tensors if name.startswith(("out.", "grad.")))

    def load_into(self, module: nn.Module) -> nn.Module:
        """Give ``module`` the weights of the file, or those of the recipe that it names.

        Raises:
            InputError: if there are none, or keys or shapes differ.
        """
        prefix = "weights."
        weights = {name.removeprefix(prefix): t for name, t in self.tensors.items() if name.startswith(prefix)}
        if not weights and (seed := self.extras.get("weights_recipe_seed")) is not None:
            weights = recipe_weights(module, int(seed))
        if not weights:
            raise InputError("the file has neither weights nor weights_recipe_seed.")
        try:
            module.load_state_dict(weights)
        except RuntimeError as error:
            raise InputError(f"the weights do not fit: {' '.join(str(error).split())}") from error
        return module.to(self.device).eval()


def read_golden(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a ``.safetensors`` golden file, or of one packed as ``.safetensors.xz``.

    Raises:
        InputError: if it is none.
    """
    try:
        data = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["golden"])
        if not isinstance(header["module"], str) or not isinstance(header.get("config", {}), dict):
            raise ValueError("module must be a name and config a mapping")
        return header, safetensors.torch.load(data)
    except (OSError, safetensors.SafetensorError, lzma.LZMAError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"not a golden file ({type(error).__name__}: {error}).") from error


def load_golden(path: Path, device: torch.device) -> Golden:
    """A golden file with its tensors on ``device``. Raises InputError if it is none."""
    header, tensors = read_golden(path)
    module, config = header.pop("module"), header.pop("config", {})
    placed = {name: tensor.to(device) for name, tensor in tensors.items()}
    return Golden(module=module, config=config, extras=header, tensors=placed, device=device)


def recipe_weights(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Weights that depend on a seed, the key and the shape alone, so that a file need not store them."""
    weights = {}
    for key, value in sorted(module.state_dict().items()):
        generator = torch.Generator().manual_seed((seed + zlib.crc32(key.encode())) % 2**31)
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim <= 1:
            weights[key] = 0.1 * noise + (1.0 if key.endswith("weight") else 0.0)
        elif key.endswith("kernel"):
            fan = value.shape[-2] * (value.shape[0] if value.ndim == 3 else 1)
            weights[key] = noise / math.sqrt(fan)
        else:
            weights[key] = noise / math.sqrt(value.shape[-1])
    return weights


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """RMS of the difference over RMS of theirs; infinite if the shapes differ or a value is not finite."""
    if ours.shape != theirs.shape:
        return math.inf
    if not theirs.numel():
        return 0.0
    ours, theirs = ours.detach().cpu().double(), theirs.cpu().double()
    difference, size = _rms(ours - theirs), _rms(theirs)
    error = difference / size if size > 0 else difference
    return error if math.isfinite(error) else math.inf


def compare_gradients(pairs: dict[str, tuple[Tensor, Tensor]]) -> list[Comparison]:
    """Gradients, ours and theirs by name.

    Some vanish in exact arithmetic (a bias before a norm, a bias of all keys): theirs is then rounding noise, five
    orders below the largest, and the difference is measured against the largest instead.
    """
    largest = max((_rms(theirs) for _, theirs in pairs.values()), default=0.0)
    rows = []
    for name, (ours, theirs) in pairs.items():
        if ours.shape == theirs.shape and theirs.numel() and _rms(theirs) < VANISHING * largest:
            error = _rms(ours.detach().cpu().double() - theirs.cpu().double()) / largest
            note = "vanishes; relative to the largest gradient"
            rows.append(Comparison(name, error if math.isfinite(error) else math.inf, tuple(theirs.shape), note))
        else:
            rows.append(compare(name, ours, theirs))
    return rows


def _rms(x: Tensor) -> float:
    return float(x.cpu().double().square().mean().sqrt()) if x.numel() else 0.0


def compare(name: str, ours: Tensor, theirs: Tensor) -> Comparison:
    """Values in the same order."""
    note = "" if ours.shape == theirs.shape else f"our shape is {list(ours.shape)}"
    return Comparison(name, relative_error(ours, theirs), tuple(theirs.shape), note)


def compare_rows(name: str, ours: Tensor, theirs: Tensor) -> Comparison:
    """Whole numbers in the same order: the share of rows that differ. Both [N, C]."""
    if ours.shape != theirs.shape:
        return Comparison(name, math.inf, tuple(theirs.shape), f"our shape is {list(ours.shape)}")
    wrong = (ours.long() != theirs.long()).any(1)
    return Comparison(name, float(wrong.float().mean()) if wrong.numel() else 0.0, tuple(theirs.shape))


def compare_sets(name: str, ours: Tensor, theirs: Tensor, excused: Tensor | None = None) -> Comparison:
    """Whole rows in any order, [N, C] and [M, C]: the share of theirs that differ, those in ``excused`` apart."""
    only_ours, only_theirs = _difference(ours, theirs), _difference(theirs, ours)
    differing = only_ours | only_theirs
    free = differing & _rows(excused) if excused is not None else set()
    note = f"{len(free)} rows at the threshold differ" if free else ""
    return Comparison(name, len(differing - free) / max(len(theirs), 1), tuple(theirs.shape), note)


def compare_at_coords(
    name: str,
    ours: Tensor,  # [N, C]
    our_coords: Tensor,  # [N, D] whole numbers, none twice
    theirs: Tensor,  # [M, C]
    their_coords: Tensor,  # [M, D]; may repeat
) -> Comparison:
    """Values by coordinate. It counts against ours to have a coordinate twice, or others than theirs."""
    rows = {coord: row for row, coord in enumerate(map(tuple, our_coords.tolist()))}
    wanted = list(map(tuple, their_coords.tolist()))
    missing, extra = set(wanted) - rows.keys(), rows.keys() - set(wanted)
    if missing or extra or len(rows) != len(our_coords):
        note = f"{len(missing)} missing, {len(extra)} not in theirs, {len(our_coords) - len(rows)} twice"
        return Comparison(name, math.inf, tuple(theirs.shape), note)
    order = torch.tensor([rows[coord] for coord in wanted], dtype=torch.long, device=ours.device)
    repeated = len(wanted) - len(rows)
    note = f"{repeated} of theirs are repeated" if repeated else ""
    return Comparison(name, relative_error(ours[order].reshape(theirs.shape), theirs), tuple(theirs.shape), note)


def _rows(coords: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, coords.tolist()))


def _difference(first: Tensor, second: Tensor) -> set[tuple[int, ...]]:
    return _rows(first) - _rows(second)
