"""Calls of the attention to pooled cells for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.compressed import compressed_forward, compressed_tile_size
from core.ops.tiles import make_tiles

GENERAL = [  # heads, key heads, channels, dtype: what needs padding, the largest, float32
    (6, 2, 40, torch.float16),
    (8, 8, 64, torch.bfloat16),
    (8, 8, 128, torch.float16),
    (8, 2, 256, torch.bfloat16),
    (6, 2, 32, torch.float32),
    (8, 2, 256, torch.float32),
]


def shipped() -> None:
    """32 heads of 32, 2 key heads."""
    _call(32, 2, 32, torch.bfloat16)


def general() -> None:
    """Every other kind of shape."""
    for case in GENERAL:
        _call(*case)


def _call(heads: int, groups: int, channels: int, dtype: torch.dtype) -> None:
    q = torch.empty(320, heads, channels, dtype=dtype)
    k, v = (torch.empty(150, groups, channels, dtype=dtype) for _ in range(2))
    tiles = make_tiles(torch.tensor([0, 320]), compressed_tile_size(q, groups))
    compressed_forward(q, k, v, tiles, torch.tensor([0, 150], dtype=torch.int32))
