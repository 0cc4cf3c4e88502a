"""One network in one safetensors file, with its configuration in the header.

The header's one entry, ``s2mesh``, is a JSON object: ``format_version`` of this layout, ``network`` (the name of a
configuration dataclass), ``config`` (its fields), ``sha256`` of the tensors, ``about`` (free for the writer). One
entry, since safetensors writes several in random order, and the same weights shall give the same bytes. No Python
object is ever stored or loaded.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from core.config import models
from core.config.base import from_dict, to_dict
from core.errors import CheckpointError, ConfigError
from core.files import replacing

ENTRY, FORMAT_VERSION = "s2mesh", 1
CONFIGS = {
    config.__name__: config
    for config in (
        models.ConditionerConfig,
        models.DenseDiTConfig,
        models.DenseVAEConfig,
        models.SparseDiTConfig,
        models.SparseVAEConfig,
        models.UNet3DConfig,
        models.RefinerConfig,
    )
}
_NAMES = {  # of safetensors
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PICKLES = (b"PK\x03\x04", b"\x80")  # torch.save's archives, and bare pickles


@dataclass(frozen=True)
class NetworkFile:
    """What the header of a file says: no tensor has been read."""

    path: Path
    config: Any  # a dataclass of core.config.models
    shapes: dict[str, tuple[int, ...]]
    sha256: str
    about: dict[str, Any]


def save_network(
    path: Path,
    module: nn.Module,
    config: Any,
    dtype: torch.dtype | None = None,
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the state dict of ``module`` to ``path``, by rename: never half a file.

    Args:
        path: the file to write or replace; its folder is made.
        module: the network.
        config: its configuration, stored in the header.
        dtype: of all floating point tensors in the file; None keeps each tensor's own.
        about: anything fit for JSON, such as the training that led here.

    Raises:
        CheckpointError: for a value that is not finite, or that is not in ``dtype``.
    """
    save_tensors(path, module.state_dict(), config, dtype, about=about)


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    config: Any,
    dtype: torch.dtype | None = None,
    *,
    about: Mapping[str, Any] | None = None,
) -> None:
    """``save_network`` for a state dict, which may be a lazy one: each tensor is asked for twice and kept by nobody.

    So what is in memory at a time is one tensor, however large the network.
    """
    total, shapes = hashlib.sha256(), {}
    for key in sorted(tensors):
        tensor = _storable(key, tensors[key], dtype, path)
        _count_in(total, key, tensor)
        shapes[key] = tensor.dtype, tuple(tensor.shape), tensor.nbytes
    entry = {
        "format_version": FORMAT_VERSION,
        "network": type(config).__name__,
        "config": to_dict(config),
        "sha256": total.hexdigest(),
        "about": dict(about or {}),
    }
    assert entry["network"] in CONFIGS, f"{entry['network']} is not in CONFIGS"
    header: dict[str, Any] = {"__metadata__": {ENTRY: json.dumps(entry)}}
    order = sorted(shapes, key=lambda key: (-shapes[key][0].itemsize, key))  # wide ones first: each is aligned
    place = 0
    for key in order:
        kind, shape, size = shapes[key]
        header[key] = {"dtype": _NAMES[kind], "shape": shape, "data_offsets": [place, place + size]}
        place += size
    written = json.dumps(header, separators=(",", ":")).encode()
    written += b" " * (-len(written) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for key in order:
            file.write(_raw(_storable(key, tensors[key], dtype, path)))


def read_header(path: Path) -> NetworkFile:
    """Read and check the header of ``path``.

    Raises:
        CheckpointError: if it is missing, damaged, a pickle, or not in this version of this format.
    """
    with open_tensors(path) as file:
        entry = (file.metadata() or {}).get(ENTRY)
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - not a dict
    if entry is None:
        raise CheckpointError(f"{path} is not a file of S2 Mesh. Convert released ones with `s2mesh models convert`.")
    try:
        header = json.loads(entry)
        version = header["format_version"]
        if version == FORMAT_VERSION:
            config = from_dict(CONFIGS[header["network"]], header["config"])
            return NetworkFile(path, config, shapes, header["sha256"], header["about"])
    except (KeyError, ValueError, TypeError, RecursionError, ConfigError) as error:
        raise CheckpointError(f"{path} has a damaged header ({_brief(error)}). Download or save it again.") from error
    raise CheckpointError(
        f"{path} has format version {version!r}; this program reads {FORMAT_VERSION}. Install a matching version."
    )


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[Any]:
    """The safetensors file ``path``, opened; ``keys()``, ``metadata()``, ``get_slice(key)``, ``get_tensor(key)``.

    Raises:
        CheckpointError: if it is missing, cut short, not safetensors, or a pickle (which could run code).
    """
    try:
        with path.open("rb") as raw:
            start = raw.read(4)
        if start.startswith(_PICKLES) and not _is_header_length(path):
            raise CheckpointError(
                f"{path} is a pickle, which could run code, and is not loaded. Use a .safetensors file; "
                "released checkpoints are converted with `s2mesh models convert`."
            )
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing. Download or convert the weights first.") from None
    except SafetensorError as error:
        cause = _brief(error)
        raise CheckpointError(f"{path} is damaged or cut short ({cause}). Download or save it again.") from error
    except OSError as error:
        cause = error.strerror or _brief(error)
        raise CheckpointError(f"{path} cannot be read ({cause}). Check the path and its permissions.") from error


def verify_digest(path: Path) -> None:
    """Read all of ``path`` and compare with the digest in its header.

    Raises:
        CheckpointError: if they differ, or the file cannot be read.
    """
    expected = read_header(path).sha256
    found = hashlib.sha256()
    with open_tensors(path) as file:
        for key in sorted(file.keys()):
            _count_in(found, key, file.get_tensor(key))
    if found.hexdigest() != expected:
        raise CheckpointError(f"{path} was changed after it was saved (its SHA-256 differs). Download it again.")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of ``tensors``, in order of name."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        _count_in(total, key, tensors[key])
    return total.hexdigest()


def _count_in(total: Any, key: str, tensor: Tensor) -> None:
    total.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
    total.update(_raw(tensor))


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, in its own memory where that is in order."""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _storable(key: str, tensor: Tensor, dtype: torch.dtype | None, path: Path) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(dtype or tensor.dtype)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key} has values that are not finite in {tensor.dtype}; {path} was not written.")
    return tensor


def _is_header_length(path: Path) -> bool:
    """Whether the first eight bytes are a header length that fits the file, as safetensors starts."""
    with path.open("rb") as raw:
        length = int.from_bytes(raw.read(8), "little")
        return 0 < length <= path.stat().st_size - 8 and raw.read(1) == b"{"


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
