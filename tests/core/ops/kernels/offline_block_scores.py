"""Calls of block_scores for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.block_scores import CellSlots, block_scores


def shipped() -> None:
    """32 heads of 32, 2 key heads, one cell a block."""
    _call(32, 2, 32, 256, torch.bfloat16)


def narrow() -> None:
    """Fewer blocks than the wide tile would fill."""
    _call(32, 2, 32, 150, torch.float16)


def general() -> None:
    """Head sizes that need padding, the largest ones, and float32."""
    _call(6, 2, 40, 300, torch.float16)
    _call(8, 8, 128, 300, torch.float16)
    _call(8, 8, 256, 300, torch.bfloat16)
    _call(6, 2, 32, 300, torch.float32)
    _call(8, 2, 256, 300, torch.float32)


def _call(heads: int, groups: int, channels: int, blocks: int, dtype: torch.dtype) -> None:
    tokens = 320
    q = torch.empty(tokens, heads, channels, dtype=dtype)
    kc = torch.empty(blocks, groups, channels, dtype=dtype)
    table = torch.zeros(1, blocks, dtype=torch.int32)
    slots = CellSlots(table, table[0] + 1, None, None, blocks, 0)
    block_scores(q, kc, torch.empty(tokens, heads), slots, 0, tokens, torch.empty(groups, tokens, blocks))
