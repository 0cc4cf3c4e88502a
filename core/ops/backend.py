"""Which implementation of an op runs: the quadratic reference, plain torch, or Triton kernels.

The choice is made per call and never at import: ``use_backend`` for the code inside it, else the best one that
works here. ``backend_report`` says what would run and why.
"""

import enum
import functools
import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch

from core.errors import ConfigError

OPS = (
    "compressed_attention",
    "select_blocks",
    "selected_attention",
    "window_attention",
    "spatial_sparse_attention",
    "submanifold_conv3d",
    "modulated_norm",
    "pool_cells",
)
OLDEST_TRITON = (3, 2)
OLDEST_CAPABILITY = (8, 0)


class Backend(enum.Enum):
    """REFERENCE: slow and obvious, the specification. TORCH: any device. TRITON: CUDA kernels."""

    REFERENCE = "reference"
    TORCH = "torch"
    TRITON = "triton"


class OpReport(NamedTuple):
    """One line of ``backend_report``."""

    op: str
    backend: Backend
    reason: str


_requested: ContextVar[Backend | None] = ContextVar("requested_backend", default=None)


@contextmanager
def use_backend(backend: Backend) -> Iterator[None]:
    """Run the ops inside the ``with`` block on ``backend``; other threads and tasks are not affected."""
    token = _requested.set(backend)
    try:
        yield
    finally:
        _requested.reset(token)


def backend_for(op: str, device: torch.device | str = "cpu") -> Backend:
    """The backend that ``op`` (one of ``OPS``) uses for tensors on ``device``.

    Raises:
        ConfigError: if ``use_backend`` asks for Triton and it cannot run ``op`` there.
    """
    return _choose(op, torch.device(device)).backend


def backend_report(device: torch.device | str | None = None) -> list[OpReport]:
    """What every op would use on ``device`` (default: CUDA where there is one, else the CPU), and why."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return [_choose(op, torch.device(device)) for op in OPS]


def _choose(op: str, device: torch.device) -> OpReport:
    assert op in OPS, f"unknown op {op!r}"
    requested = _requested.get()
    obstacle = _triton_obstacle(device)
    if requested is Backend.TRITON and obstacle is not None:
        raise ConfigError(f"Triton was asked for, but {obstacle}. Use the torch backend.")
    if requested is not None:
        return OpReport(op, requested, "asked for with use_backend")
    if obstacle is None:
        return OpReport(op, Backend.TRITON, "fastest on this device")
    return OpReport(op, Backend.TORCH, obstacle)


def _triton_obstacle(device: torch.device) -> str | None:
    """Why Triton cannot run on ``device``, or None."""
    if device.type == "cpu" and _requested.get() is Backend.TRITON and os.environ.get("TRITON_INTERPRET") == "1":
        return _triton_missing()  # Triton's interpreter: for tests, far slower than torch
    if device.type != "cuda":
        return f"Triton kernels need a CUDA device, not {device.type}"
    return _triton_missing() or _device_obstacle(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _triton_missing() -> str | None:
    """Why Triton itself is unusable, or None; looked up once."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    if torch.version.hip is not None:
        return "the Triton kernels are for NVIDIA devices only"
    try:
        version = importlib.import_module("triton").__version__
    except (ImportError, OSError) as error:
        return f"Triton cannot be imported: {error}"
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_TRITON:
        return f"Triton {version} is too old: {'.'.join(map(str, OLDEST_TRITON))} or newer is needed"
    return None


@functools.cache
def _device_obstacle(index: int) -> str | None:
    """Why kernels cannot run on CUDA device ``index``, or None: one small kernel is built and run there, once."""
    name, capability = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
    if capability < OLDEST_CAPABILITY:
        return f"{name} has compute capability {capability[0]}.{capability[1]}; the kernels need 8.0 or newer"
    try:
        from core.ops.kernels.probe import add_one

        device = torch.device("cuda", index)
        works = bool((add_one(torch.zeros(256, device=device)) == 1).all())
    except Exception as error:  # whatever the compiler, linker or driver has to say: torch runs instead
        return f"a first Triton kernel failed on {name} ({type(error).__name__}: {str(error).strip()[:200]})"
    return None if works else f"a first Triton kernel gave wrong numbers on {name}"
