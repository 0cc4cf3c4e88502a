"""The launches of one diffusion block's norms at the released width, for compilation without a GPU."""

import torch

from core.ops.kernels.modulated_norm import gated_residual, gated_residual_norm, modulated_norm


def shipped() -> None:
    """Every norm of a block, forward and backward, bfloat16, 1024 channels, two uneven samples."""
    x, branch, (gate, shift, scale), weight, bias, cu = _arguments(1024, torch.bfloat16)
    first = modulated_norm(x, shift, scale, None, None, cu, 1e-6)
    second = gated_residual_norm(x, branch, gate, None, None, weight, bias, cu, 1e-6)
    third = gated_residual_norm(x, branch, None, shift, scale, None, None, cu, 1e-6)
    last = gated_residual(x, branch, gate, cu)
    sum(out.sum() for out in (first, *second, *third, last)).backward()


def widest() -> None:
    """All that a kernel can be asked for at once, 4096 channels."""
    x, branch, (gate, shift, scale), weight, bias, cu = _arguments(4096, torch.float16)
    out = gated_residual_norm(x, branch, gate, shift, scale, weight, bias, cu, 1e-6)
    (out[0].sum() + out[1].sum()).backward()


def _arguments(channels: int, dtype: torch.dtype) -> tuple:
    """x, branch [300, C]; gate, shift, scale [2, C]; weight, bias [C]; cu_seqlens [3]."""
    x, branch = (torch.zeros(300, channels, dtype=dtype, requires_grad=True) for _ in range(2))
    vectors = torch.zeros(2, 3 * channels, dtype=dtype, requires_grad=True).chunk(3, -1)
    weight, bias = (torch.zeros(channels, requires_grad=True) for _ in range(2))
    return x, branch, vectors, weight, bias, torch.tensor([0, 100, 300], dtype=torch.int32)
