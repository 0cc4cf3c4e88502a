"""Attention of every token to all pooled cells of its sample, forward.

Letters: N tokens, M cells, B samples, H query heads, G key heads, J = H / G query heads of a key head, D channels per
head, I tiles of at most T tokens.

The J query heads of a key head see the same keys, so the rows of a program's tile are T tokens x J heads: one load of
a key tile serves them all. Scores stay in base 2 (``exp2`` of ``score * log2(e) / sqrt(D)``). Only the last, partly
filled key tile is masked; it stands after the loop.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch
from core.ops.tiles import Tiles


class ForwardShape(NamedTuple):
    """What one program takes, and how it is started."""

    rows: int
    keys: int
    warps: int
    stages: int


def forward_shape(q: Tensor) -> ForwardShape:
    """Tile for q's dtype, head size and device: as large as registers hold without spilling."""
    channels, warp_groups = launch.padded_channels(q.shape[2]), has_warp_group_products(q.device)
    if q.dtype == torch.float32:  # no tensor cores
        if channels <= 64:
            return ForwardShape(32, 32, 4 if channels <= 32 else 8, 2)
        return ForwardShape(16, 32, 8, 2 if channels == 128 else 1)
    if channels <= 32:
        return ForwardShape(128, 64, 4, 3)
    if channels == 64:
        return ForwardShape(128, 64, 8, 3) if warp_groups else ForwardShape(64, 64, 4, 3)
    if channels == 128:
        return ForwardShape(128 if warp_groups else 64, 64, 8, 2)
    return ForwardShape(64, 32, 8, 2)


def has_warp_group_products(device: torch.device) -> bool:
    """Whether tensor cores take operands from shared memory for four warps at once: Hopper, data-center Blackwell."""
    return 9 <= launch.capability(device)[0] < 12


def compressed_tile_size(
    q: Tensor,  # [N, H, D]
    num_key_heads: int,
) -> int:
    """T: the tokens of a tile for ``compressed_forward``."""
    rows = forward_shape(q).rows
    return rows // min(rows, launch.next_power_of_2(q.shape[1] // num_key_heads))


def compressed_forward(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    vc: Tensor,  # [M, G, D]
    tiles: Tiles,  # of token rows; segments are samples; size is compressed_tile_size(q, G)
    cu_cells: Tensor,  # [B + 1] int32
) -> tuple[Tensor, Tensor]:
    """Output [N, H, D] in q's dtype, and log-sum-exp in base 2, [N, H] float32.

    Tokens of a sample without cells get zeros and ``-inf``. Tokens that no tile covers stay unwritten.
    """
    (tokens, heads, channels), groups = q.shape, kc.shape[1]
    shape = forward_shape(q)
    assert tiles.size == compressed_tile_size(q, groups), "these tiles were made for another kernel"
    out, lse2 = torch.empty_like(q), q.new_empty(tokens, heads, dtype=torch.float32)
    heads_per_tile = shape.rows // tiles.size
    launch.run(
        _compressed_forward,
        (len(tiles), groups, launch.cdiv(heads // groups, heads_per_tile)),
        q,
        kc,
        vc,
        tiles.start,
        tiles.stop,
        tiles.segment,
        cu_cells,
        out,
        lse2,
        channels**-0.5 * math.log2(math.e),
        HEADS=heads,
        GROUPS=groups,
        CHANNELS=channels,
        PADDED=launch.padded_channels(channels),
        ROWS=shape.rows,
        HEADS_PER_TILE=heads_per_tile,
        KEYS=shape.keys,
        PRECISION=launch.precision(q.dtype),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )
    return out, lse2


@triton.jit
def _compressed_forward(
    q,  # [N, HEADS, CHANNELS]
    kc,  # [M, GROUPS, CHANNELS]
    vc,
    starts,  # [I]
    stops,
    samples,
    cu_cells,
    out,  # [N, HEADS, CHANNELS]
    lse2,  # [N, HEADS]
    scale2,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    HEADS_PER_TILE: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    PER_GROUP: tl.constexpr = HEADS // GROUPS
    STRIDE: tl.constexpr = GROUPS * CHANNELS
    start, sample, group = tl.load(starts + tl.program_id(0)), tl.load(samples + tl.program_id(0)), tl.program_id(1)
    length = tl.load(stops + tl.program_id(0)) - start
    first_cell = tl.load(cu_cells + sample)
    left = tl.load(cu_cells + sample + 1) - first_cell

    row, channel, key = tl.arange(0, ROWS), tl.arange(0, PADDED), tl.arange(0, KEYS)
    token = row // HEADS_PER_TILE
    head = tl.program_id(2) * HEADS_PER_TILE + row % HEADS_PER_TILE  # of the group
    real = token < length
    if PER_GROUP % HEADS_PER_TILE != 0:
        real = real & (head < PER_GROUP)
    real_values = real[:, None]
    if PADDED != CHANNELS:
        real_values = real_values & (channel < CHANNELS)[None, :]
    first_row = start.to(tl.int64) * HEADS + group * PER_GROUP
    row = token * HEADS + head  # from first_row on
    values = row[:, None] * CHANNELS + channel[None, :]
    query = tl.load(q + first_row * CHANNELS + values, mask=real_values, other=0.0)

    at = first_cell.to(tl.int64) * STRIDE + group * CHANNELS
    k_at, v_at = kc + at, vc + at
    key_values = key[:, None] * STRIDE + channel[None, :]
    summed = tl.zeros((ROWS, PADDED), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    whole = left // KEYS
    for _ in tl.range(0, whole):
        if PADDED == CHANNELS:
            k = tl.load(k_at + key_values)
            v = tl.load(v_at + key_values)
        else:
            k = tl.load(k_at + key_values, mask=(channel < CHANNELS)[None, :], other=0.0)
            v = tl.load(v_at + key_values, mask=(channel < CHANNELS)[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        summed, total, top = _attend(scores, v, summed, total, top, scale2, PRECISION)
        k_at += KEYS * STRIDE
        v_at += KEYS * STRIDE
    left -= whole * KEYS
    for _ in tl.range(0, tl.cdiv(left, KEYS)):  # a loop, so that it reads its operands anew: fewer registers
        real_keys = (key < left)[:, None]
        if PADDED != CHANNELS:
            real_keys = real_keys & (channel < CHANNELS)[None, :]
        k = tl.load(k_at + key_values, mask=real_keys, other=0.0)
        v = tl.load(v_at + key_values, mask=real_keys, other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        scores = tl.where((key < left)[None, :], scores, float("-inf"))
        summed, total, top = _attend(scores, v, summed, total, top, scale2, PRECISION)
        k_at += KEYS * STRIDE
        v_at += KEYS * STRIDE
        left -= KEYS

    total = tl.where(total == 0.0, 1.0, total)  # no cell: 0 / 1, and top is -inf
    tl.store(out + first_row * CHANNELS + values, (summed / total[:, None]).to(out.dtype.element_ty), mask=real_values)
    tl.store(lse2 + first_row + row, top + tl.log2(total), mask=real)


@triton.jit
def _attend(
    scores,  # [ROWS, KEYS], before scaling; at least one key is real
    v,  # [KEYS, PADDED]
    summed,  # [ROWS, PADDED] values weighted by exp2(score - top)
    total,  # [ROWS] sum of the weights
    top,  # [ROWS] highest scaled score so far
    scale2,
    PRECISION: tl.constexpr,
):
    """The running sums after one more tile of keys."""
    new_top = tl.maximum(top, tl.max(scores, 1) * scale2)
    weight = tl.exp2(scores * scale2 - new_top[:, None])
    shrink = tl.exp2(top - new_top)
    total = total * shrink + tl.sum(weight, 1)
    summed = tl.dot(weight.to(v.dtype), v, summed * shrink[:, None], input_precision=PRECISION)
    return summed, total, new_top
