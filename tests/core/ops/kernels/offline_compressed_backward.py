"""Calls of the gradients of pooled keys for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.block_plan import make_block_plan
from core.ops.kernels.compressed_backward import compressed_key_gradients
from tests.core.ops.kernels.offline_compressed import GENERAL


def shipped() -> None:
    """32 heads of 32, 2 key heads, gated; parts added in order, and by atomics."""
    for deterministic in (True, False):
        _call(32, 2, 32, torch.bfloat16, deterministic)


def general() -> None:
    """Every other kind of shape."""
    for case in GENERAL:
        _call(*case)


def _call(heads: int, groups: int, channels: int, dtype: torch.dtype, deterministic: bool = True) -> None:
    plan = make_block_plan(torch.zeros(320).long(), *[torch.arange(320) // 2] * 2, 1)  # 160 cells of 2 tokens
    q, grad_out = (torch.empty(320, heads, channels, dtype=dtype) for _ in range(2))
    k, v = (torch.empty(160, groups, channels, dtype=dtype) for _ in range(2))
    lse2, row_dot = torch.empty(320, heads), torch.empty(320, heads)
    compressed_key_gradients(q, k, v, grad_out, lse2, row_dot, torch.empty(320, 3), plan, deterministic)
