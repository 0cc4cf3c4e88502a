"""Calls of top_blocks and tile_unions for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.block_scores import CellSlots
from core.ops.kernels.select import top_blocks
from core.ops.kernels.unions import tile_unions
from core.ops.tiles import make_tiles


def shipped() -> None:
    """8 of as many blocks as 131k tokens have, tiles of 4 tokens."""
    _call(1270, 8, 4, shuffled=False)


def general() -> None:
    """32 blocks, cells smaller than blocks; few heads, so that tiles have many tokens."""
    _call(1270, 32, 4, shuffled=True)
    _call(300, 8, 16, shuffled=True)
    _call(300, 32, 32, shuffled=False)


def _call(columns: int, selected: int, tile: int, shuffled: bool) -> None:
    tokens, groups = 64, 2
    scores = torch.empty(groups, tokens, (columns + 15) // 16 * 16)[..., :columns]
    table = torch.zeros(1, columns, dtype=torch.int32)
    slots = CellSlots(table, table[0] + 1, None, table[0] if shuffled else None, columns, 0)
    index = torch.zeros(groups, tokens, selected, dtype=torch.int32)
    top_blocks(scores, slots, index)
    tiles = make_tiles(torch.tensor([0, tokens]), tile)
    tile_unions(index, tiles, torch.arange(tokens, dtype=torch.int32))
