"""Starting a kernel: on the device of its tensors, with the launch options of the device's generation.

Kernel files call ``launch.run`` and ``launch.capability`` through this module, so that a test can record what would
be started and compile it for GPUs that are not there.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

Grid = tuple[int, ...]
INTERPRETED_CAPABILITY = (9, 0)  # what kernels are configured for in Triton's CPU interpreter


def run(kernel: Any, grid: Grid, *args: Any, num_warps: int = 4, num_stages: int = 2, **constants: Any) -> None:
    """Start ``kernel`` on the device of its first tensor; nothing happens for an empty grid.

    Args:
        kernel: a ``triton.jit`` function.
        grid: programs along each axis; the second and third hold at most 65,535.
        args: its arguments, tensors and numbers.
        constants: its ``tl.constexpr`` arguments.
    """
    if 0 in grid:
        return
    device = next(x.device for x in args if isinstance(x, Tensor))
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability (major, minor) of a CUDA device."""
    if device.type != "cuda":
        return INTERPRETED_CAPABILITY
    return torch.cuda.get_device_capability(device)


def precision(dtype: torch.dtype) -> str:
    """``input_precision`` of ``tl.dot``: float32 operands are multiplied as float32, not TensorFloat-32."""
    return "ieee" if dtype == torch.float32 else "tf32"


def next_power_of_2(n: int) -> int:
    """Smallest power of two that is at least ``n``: the length of a ``tl.arange``."""
    return triton.next_power_of_2(max(n, 1))


def padded_channels(channels: int) -> int:
    """Columns of a tile of so many channels: a power of two that ``tl.dot`` takes."""
    return max(16, next_power_of_2(channels))


cdiv: Callable[[int, int], int] = triton.cdiv
