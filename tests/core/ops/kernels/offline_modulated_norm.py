"""The launches of one diffusion block's norms at the released width, for compilation without a GPU."""

import torch

from core.ops.kernels.modulated_norm import gated_residual, gated_residual_norm, modulated_norm


def block() -> None:
    """Every norm of a block, forward and backward, bfloat16, 1024 channels, two uneven samples."""
    _block(1024, torch.bfloat16)


def widest() -> None:
    """4096 channels."""
    _block(4096, torch.float16)


def _block(channels: int, dtype: torch.dtype) -> None:
    cu = torch.tensor([0, 100, 300], dtype=torch.int32)
    x, branch = (torch.zeros(300, channels, dtype=dtype, requires_grad=True) for _ in range(2))
    gate, shift, scale = torch.zeros(2, 3 * channels, dtype=dtype, requires_grad=True).chunk(3, -1)
    weight, bias = (torch.zeros(channels, requires_grad=True) for _ in range(2))
    first = modulated_norm(x, shift, scale, None, None, cu, 1e-6)
    second = gated_residual_norm(x, branch, gate, None, None, weight, bias, cu, 1e-6)
    third = gated_residual_norm(x, branch, None, shift, scale, None, None, cu, 1e-6)
    last = gated_residual(x, branch, gate, cu)
    sum(out.sum() for out in (first, *second, *third, last)).backward()
