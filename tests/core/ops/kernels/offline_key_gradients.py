"""Calls of the key-major backward kernels for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.block_plan import WindowPlan, make_block_plan
from core.ops.kernels.selected_key_gradients import selected_key_gradients
from core.ops.kernels.window_key_gradients import window_key_gradients

TOKENS = 300


def shipped() -> None:
    """32 heads of 32, 2 key heads, 8 selected blocks; the windows of the VAE."""
    _blocks(32, 2, 32, torch.bfloat16, True)
    _blocks(32, 2, 32, torch.bfloat16, False)
    _windows(32, 2, 32, torch.bfloat16)
    _windows(8, 8, 64, torch.float16)


def general() -> None:
    """Head sizes that need padding, large ones, and float32."""
    _blocks(6, 2, 40, torch.float16, True)
    _blocks(8, 2, 128, torch.bfloat16, True)
    _blocks(8, 2, 256, torch.float16, False)
    _blocks(6, 2, 32, torch.float32, True)
    _windows(6, 2, 40, torch.float16)
    _windows(16, 1, 64, torch.bfloat16)
    _windows(8, 2, 128, torch.float16)
    _windows(8, 2, 256, torch.bfloat16)
    _windows(6, 2, 32, torch.float32)
    _windows(8, 8, 64, torch.float32)
    _windows(8, 2, 128, torch.float32)
    _windows(8, 2, 256, torch.float32)


def _inputs(heads: int, groups: int, channels: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v, grad_out, lse2, row_dot and gate."""
    shapes = [(TOKENS, x, channels) for x in (heads, groups, groups, heads)]
    sums = [torch.empty(TOKENS, x) for x in (heads, heads, 3)]
    return [*(torch.empty(shape, dtype=dtype) for shape in shapes), *sums]


def _windows(heads: int, groups: int, channels: int, dtype: torch.dtype) -> None:
    order = torch.arange(TOKENS)
    windows = WindowPlan(order, order, torch.tensor([0, 170, TOKENS], dtype=torch.int32), 170)
    inputs = _inputs(heads, groups, channels, dtype)
    window_key_gradients(*inputs, windows, torch.empty(inputs[1].shape), torch.empty(inputs[1].shape))


def _blocks(heads: int, groups: int, channels: int, dtype: torch.dtype, deterministic: bool) -> None:
    tokens = torch.arange(TOKENS)
    plan = make_block_plan(torch.zeros_like(tokens), tokens // 60, tokens // 60, 1)
    inputs = _inputs(heads, groups, channels, dtype)
    index = torch.arange(3, dtype=torch.int32).expand(groups, TOKENS, 3)
    grads = torch.empty(inputs[1].shape), torch.empty(inputs[1].shape)
    selected_key_gradients(*inputs, index, plan, *grads, deterministic=deterministic)
