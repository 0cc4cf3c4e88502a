"""Calls of block_scores for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.block_scores import CellSlots, block_scores
from tests.core.ops.kernels.offline_compressed import GENERAL


def shipped() -> None:
    """32 heads of 32, 2 key heads, one cell a block."""
    _call(32, 2, 32, 256, torch.bfloat16)


def narrow() -> None:
    """Fewer blocks than the wide tile would fill."""
    _call(32, 2, 32, 150, torch.float16)


def general() -> None:
    """Every other kind of shape."""
    for heads, groups, channels, dtype in GENERAL:
        _call(heads, groups, channels, 300, dtype)


def _call(heads: int, groups: int, channels: int, blocks: int, dtype: torch.dtype) -> None:
    tokens = 320
    q = torch.empty(tokens, heads, channels, dtype=dtype)
    kc = torch.empty(blocks, groups, channels, dtype=dtype)
    table = torch.zeros(1, blocks, dtype=torch.int32)
    slots = CellSlots(table, table[0] + 1, None, None, blocks, 0)
    block_scores(q, kc, torch.empty(tokens, heads), slots, 0, tokens, torch.empty(groups, tokens, blocks))
