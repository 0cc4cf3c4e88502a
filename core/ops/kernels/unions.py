"""Which blocks the tokens of a tile chose between them, and who chose which.

Letters: N tokens, G key heads, S selected blocks per token, I tiles of at most T tokens, P programs' tiles.

A program walks through the distinct blocks of its tiles in rising order: each step takes the lowest number above the
last one. That needs no order within a token's choices and allows -1 anywhere.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch
from core.ops.tiles import Tiles

ENTRIES = 128  # choices that a program of one warp takes, if a tile has not more


class Unions(NamedTuple):
    """The distinct blocks of every tile. A tile's entries end after its count: -1 and 0 follow."""

    blocks: Tensor  # [G, I, T * S] int32, ascending
    members: Tensor  # [G, I, T * S] int32: bit t says that token t of the tile chose the block
    count: Tensor  # [G, I] int32


def tile_unions(
    block_index: Tensor,  # [G, N, S] int32, those of a token distinct; -1 is none
    tiles: Tiles,  # at most 32 positions each
    order: Tensor | None,  # [N] int32: position -> token; None: the same
) -> Unions:
    """Gather the choices of every tile's tokens."""
    groups, _, size = block_index.shape
    assert tiles.size <= 32, "members are bits of an int32"
    shape = (groups, len(tiles), tiles.size * size)
    unions = Unions(*(torch.empty(s, dtype=torch.int32, device=block_index.device) for s in (shape, shape, shape[:2])))
    padded = launch.next_power_of_2(tiles.size), launch.next_power_of_2(size)
    entries = padded[0] * padded[1]
    together = max(1, ENTRIES // entries)
    launch.run(
        _tile_unions,
        (launch.cdiv(len(tiles), together), groups),
        block_index,
        tiles.start,
        tiles.stop,
        order,
        *unions,
        len(tiles),
        block_index.stride(0),
        T=tiles.size,
        TP=padded[0],
        S=size,
        SP=padded[1],
        TILES=together,
        num_warps=1 if entries <= 512 else 4,
    )
    return unions


@triton.jit(do_not_specialize=["num_tiles", "group_stride"])
def _tile_unions(
    block_index,
    starts,
    stops,
    order,
    blocks,
    members,
    counts,
    num_tiles,
    group_stride,
    T: tl.constexpr,
    TP: tl.constexpr,
    S: tl.constexpr,
    SP: tl.constexpr,
    TILES: tl.constexpr,
):
    NONE: tl.constexpr = 2147483647
    group = tl.program_id(1).to(tl.int64)
    tile = tl.program_id(0) * TILES + tl.arange(0, TILES)
    there = tile < num_tiles
    entry = tl.arange(0, TP * SP)
    place, choice = entry // SP, entry % SP
    token = tl.load(starts + tile, mask=there, other=0)[:, None] + place[None, :]  # [TILES, TP * SP]
    valid = token < tl.load(stops + tile, mask=there, other=0)[:, None]
    if order is not None:
        token = tl.load(order + token, mask=valid, other=0)
    at = group * group_stride + token.to(tl.int64) * S + choice[None, :]
    chosen = tl.load(block_index + at, mask=valid & (choice < S)[None, :], other=-1)
    chosen = tl.where(chosen >= 0, chosen, NONE)
    bit = 1 << place
    union = tl.full((TILES, TP * SP), -1, tl.int32)
    who = tl.zeros((TILES, TP * SP), tl.int32)
    count = tl.zeros((TILES,), tl.int32)
    lowest = tl.min(chosen, axis=1)  # [TILES]
    step = 0
    while tl.min(lowest, axis=0) < NONE:
        matches = chosen == lowest[:, None]
        voters = tl.sum(tl.where(matches, bit[None, :], 0), axis=1)
        found = lowest < NONE
        here = (entry == step)[None, :] & found[:, None]
        union = tl.where(here, lowest[:, None], union)
        who = tl.where(here, voters[:, None], who)
        count += found.to(tl.int32)
        chosen = tl.where(matches, NONE, chosen)
        lowest = tl.min(chosen, axis=1)
        step += 1
    row = group * num_tiles + tile
    to = row[:, None] * (T * S) + entry[None, :]
    mask = there[:, None] & (entry < T * S)[None, :]
    tl.store(blocks + to, union, mask=mask)
    tl.store(members + to, who, mask=mask)
    tl.store(counts + row, count, mask=there)
