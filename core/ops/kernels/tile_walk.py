"""What the kernels of a tile of tokens share: its rows, and the walk over the keys of its tokens' chosen blocks.

Letters: N tokens, H query heads, G key heads (each serves J = H / G query heads), D channels per head, T tokens of a
tile, JP heads of a program (a power of two), R = T * JP rows of a program, BK keys of a piece, E entries of a union.

A program works for one tile and one key head; row r is token r // JP of the tile and query head r % JP of the group.
The blocks that the T tokens chose are walked in pieces of at most BK keys, two pieces a step: a step is wide enough
to be worth its fixed costs, while a block's last piece wastes half as much as one wide piece would.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch

ENTRIES = tl.constexpr(32)  # of a union, looked at together: a warp adds up as many numbers in one instruction
LARGEST_KEYS = 2**31  # values of k: their places are computed in 32 bits


class TileShape(NamedTuple):
    """What one program takes, and how it is started."""

    rows: int  # R for tiles of full size
    piece: int  # BK
    window: int  # keys of a window, or cells, at a time
    warps: int
    gradient_warps: int  # for the gradient of the queries, which holds more at once
    stages: int


def tile_shape(
    q: Tensor,  # [N, H, D]
) -> TileShape:
    """Shape for q's dtype and head size: as large as registers hold without spilling."""
    channels, warp_groups = launch.padded_channels(q.shape[2]), launch.capability(q.device)[0] == 9
    if q.dtype == torch.float32:  # no tensor cores
        return TileShape(16, 32, 32, 4, 4, 2) if channels <= 32 else TileShape(16, 16, 32, 4, 8, 2)
    if channels <= 64:
        return TileShape(64, 32, 64, 4, 4, 3 if warp_groups or channels <= 32 else 2)
    return TileShape(64, 32, 32, 4, 4, 2) if warp_groups and channels == 128 else TileShape(32, 32, 32, 4, 8, 2)


def contiguous(*tensors: Tensor | None) -> bool:
    """Whether all that are there lie in memory as their shape says: kernels look at no strides."""
    return all(x is None or x.is_contiguous() for x in tensors)


def heads_together(q: Tensor, num_key_heads: int, rows: int) -> int:
    """JP, at most ``rows``."""
    return min(rows, launch.next_power_of_2(q.shape[1] // num_key_heads))


def tile_size(
    q: Tensor,  # [N, H, D]
    num_key_heads: int,
    selected: bool,
) -> int:
    """T for tiles of ``q``; at most 32 if unions of chosen blocks are walked, whose members are bits of an int32."""
    rows = tile_shape(q).rows
    tokens = rows // heads_together(q, num_key_heads, rows)
    return min(tokens, 32) if selected else tokens


@triton.jit
def tile_rows(starts, stops, order, tile, g, j0, T: tl.constexpr, J: tl.constexpr, JP: tl.constexpr, G: tl.constexpr):
    """Of each row: its place in the tile, its token, its (token, head) number in [N, H], and whether it exists.

    The program has the heads ``j0 .. j0 + JP - 1`` of those that key head ``g`` serves. Asked again after a loop,
    it looks anew (``volatile``): nothing of this takes registers during the loop.
    """
    r = tl.arange(0, T * JP)
    place = r // JP
    j = j0 + r % JP
    position = tl.load(starts + tile, volatile=True) + place
    there = position < tl.load(stops + tile)
    token = position
    if order is not None:
        token = tl.load(order + position, mask=there, other=0)
    token = token.to(tl.int64)
    if J % JP != 0:
        there = there & (j < J)
    return place, token, token * (G * J) + (g * J + j), there


@triton.jit
def load_rows(x, rows, there, D: tl.constexpr, DP: tl.constexpr):
    """``x[rows]`` of a matrix with D columns: [rows, DP], zeros where ``there`` is not."""
    d = tl.arange(0, DP)
    mask = there[:, None] if D == DP else there[:, None] & (d < D)[None, :]
    return tl.load(x + rows[:, None] * D + d[None, :], mask=mask, other=0.0)


@triton.jit
def store_rows(x, rows, there, values, D: tl.constexpr, DP: tl.constexpr):
    """``x[rows] = values`` in the dtype of ``x``."""
    d = tl.arange(0, DP)
    mask = there[:, None] if D == DP else there[:, None] & (d < D)[None, :]
    tl.store(x + rows[:, None] * D + d[None, :], values.to(x.dtype.element_ty), mask=mask)


@triton.jit
def load_keys(x, keys, inside, G: tl.constexpr, D: tl.constexpr, DP: tl.constexpr):
    """Rows ``keys`` of one head of a [N, G, D] tensor (``x`` points at the head): [keys, DP], zeros outside."""
    d = tl.arange(0, DP)
    mask = inside[:, None] if D == DP else inside[:, None] & (d < D)[None, :]
    return tl.load(x + (keys[:, None] * (G * D) + d[None, :]), mask=mask, other=0.0)


@triton.jit
def pieces_of(blocks, members, cu_blocks, entry, count, BK: tl.constexpr):
    """The entries ``entry`` [E] of a union (those below ``count``), cut into pieces of at most BK keys.

    Returns for each entry: its first piece and the piece after its last, its first key and the key after its last,
    and who chose it.
    """
    there = entry < count
    block = tl.load(blocks + entry, mask=there, other=0)
    first = tl.load(cu_blocks + block, mask=there, other=0)
    stop = tl.load(cu_blocks + block + 1, mask=there, other=0)
    pieces = (stop - first + (BK - 1)) // BK
    ends = tl.cumsum(pieces, axis=0)
    return ends - pieces, ends, first, stop, tl.load(members + entry, mask=there, other=0)


@triton.jit
def piece(begins, ends, first, stop, who, i, BK: tl.constexpr):
    """Piece ``i``: its first key, the key after its entry's last, and who chose it; all 0 after the last piece.

    Sums with one term: nothing is carried from piece to piece, so that loads can be issued ahead.
    """
    here = (begins <= i) & (i < ends)
    key = tl.sum(tl.where(here, first + (i - begins) * BK, 0), 0)
    return key, tl.sum(tl.where(here, stop, 0), 0), tl.sum(tl.where(here, who, 0), 0)
