"""How much attention every block of a sample gets from every token, without a matrix of scores of cells.

Letters: N tokens, M cells, W blocks of one sample, H query heads, G key heads, J = H / G query heads of a key head,
D channels per head.

The blocks stand in columns, by falling number of cells; slot r of a column is the r-th cell of its block. One program
has a tile of tokens x columns in registers and adds ``exp2(q k / sqrt(D) - lse2)`` to it, slot by slot and head by
head: the sum over a block's cells and over query heads needs no regrouping, no atomics and always the same order.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.block_plan import BlockPlan
from core.ops.kernels import launch


@dataclass(frozen=True)
class CellSlots:
    """The cells of one sample by block: columns are its blocks by falling number of cells, of equals in order."""

    cells: Tensor  # [depth, W] int32: row r has the r-th cell of each column's block (running numbers), -1 if none
    counts: Tensor  # [W] int32: cells of each column's block, falling
    column_of_block: Tensor | None  # [W] int32: column of each block, counted from first_block; None: the same
    block_of_column: Tensor | None  # [W] int32: the inverse
    num_blocks: int  # W
    first_block: int  # running number of the sample's first block


def cell_slots(plan: BlockPlan, sample: int) -> CellSlots:
    """The slot table of ``sample``, kept with the plan."""
    return plan.memo.get(("cell_slots", sample), lambda: _make_slots(plan, sample))


def _make_slots(plan: BlockPlan, sample: int) -> CellSlots:
    layers = plan.layers[sample]
    first, end = plan.sample_blocks[sample : sample + 2]
    cells = plan.cu_cells.new_full((len(layers.cells), end - first), -1)
    for r, layer in enumerate(layers.cells):
        cells[r, : layer.shape[0]] = layer
    column, block = layers.column, None
    if column is not None:
        block = torch.empty_like(column)
        block[column] = torch.arange(end - first, device=column.device)
        column, block = column.int(), block.int()
    return CellSlots(cells, (cells >= 0).sum(0, dtype=torch.int32), column, block, end - first, first)


class ScoreShape(NamedTuple):
    """What one program takes, and how it is started."""

    tokens: int
    columns: int
    warps: int
    stages: int


def score_shape(q: Tensor, num_blocks: int) -> ScoreShape:
    """Tile of q's dtype and head size: half precision has tensor cores, float32 must do without."""
    channels = launch.padded_channels(q.shape[2])
    if q.dtype == torch.float32:
        return ScoreShape(32, 32, 4, 2) if channels <= 64 else ScoreShape(16, 32, 8, 1)
    if channels <= 32:
        wide = launch.cdiv(num_blocks, 128) * 128 * 7 <= launch.cdiv(num_blocks, 64) * 64 * 8  # at most 1/7 for nothing
        return ScoreShape(64, 128 if wide else 64, 4, 3)
    if channels <= 128:
        return ScoreShape(64, 64, 4, 3 if channels == 64 else 2)
    return ScoreShape(64, 64, 8, 2)


def block_scores(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    lse2: Tensor,  # [N, H] float32, base 2, of compressed_forward
    slots: CellSlots,
    first: int,
    last: int,
    out: Tensor,  # [G, last - first, W] float32, rows contiguous; written
) -> None:
    """Probability mass of the blocks of one sample for its tokens ``first .. last - 1``, summed over J query heads.

    ``out[g, n, w]`` belongs to token ``first + n`` and to the block of column w. Masses of a token sum to at most J.
    """
    (heads, channels), groups = q.shape[1:], kc.shape[1]
    count, columns = last - first, slots.num_blocks
    assert out.shape == (groups, count, columns) and out.stride(2) == 1, "one contiguous row per token is written"
    shape = score_shape(q, columns)
    launch.run(
        _block_scores,
        (launch.cdiv(count, shape.tokens), launch.cdiv(columns, shape.columns), groups),
        q[first:last],
        kc,
        lse2[first:last],
        slots.cells,
        slots.counts,
        out,
        channels**-0.5 * math.log2(math.e),
        count,
        columns,
        out.stride(0),
        out.stride(1),
        HEADS=heads,
        GROUPS=groups,
        CHANNELS=channels,
        PADDED=launch.padded_channels(channels),
        TOKENS=shape.tokens,
        COLUMNS=shape.columns,
        PRECISION=launch.precision(q.dtype),
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


@triton.jit(do_not_specialize=["num_tokens"])
def _block_scores(
    q,  # [num_tokens, HEADS, CHANNELS]
    kc,  # [M, GROUPS, CHANNELS]
    lse2,  # [num_tokens, HEADS]
    cells,  # [depth, num_columns]
    counts,  # [num_columns]
    out,
    scale2,
    num_tokens,
    num_columns,
    group_stride,
    row_stride,
    HEADS: tl.constexpr,
    GROUPS: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    TOKENS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    PER_GROUP: tl.constexpr = HEADS // GROUPS
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    group = tl.program_id(2)
    channel = tl.arange(0, PADDED)
    there = token < num_tokens
    row = tl.minimum(token, num_tokens - 1).to(tl.int64)
    q_rows = q + row[:, None] * (HEADS * CHANNELS) + group * (PER_GROUP * CHANNELS) + channel[None, :]
    lse_rows = lse2 + row * HEADS + group * PER_GROUP
    kc += group * CHANNELS
    most = tl.load(counts + tl.program_id(1) * COLUMNS)
    last = tl.program_id(1) * COLUMNS + COLUMNS - 1
    least = tl.load(counts + last, mask=last < num_columns, other=0)
    mass = tl.zeros((TOKENS, COLUMNS), tl.float32)
    cell_at = cells + column
    for _ in range(0, least):  # slots that all columns have
        cell = tl.load(cell_at)
        k = _load_keys(kc, cell, channel, GROUPS, CHANNELS, PADDED)
        mass = _add_heads(mass, q_rows, lse_rows, k, cell, channel, scale2, PER_GROUP, CHANNELS, PADDED, PRECISION, 0)
        cell_at += num_columns
    for _ in range(least, most):
        cell = tl.load(cell_at, mask=column < num_columns, other=-1)
        k = _load_keys(kc, cell, channel, GROUPS, CHANNELS, PADDED)
        mass = _add_heads(mass, q_rows, lse_rows, k, cell, channel, scale2, PER_GROUP, CHANNELS, PADDED, PRECISION, 1)
        cell_at += num_columns
    to = out + group.to(tl.int64) * group_stride + row[:, None] * row_stride + column[None, :]
    tl.store(to, mass, mask=there[:, None] & (column < num_columns)[None, :])


@triton.jit
def _load_keys(kc, cell, channel, GROUPS: tl.constexpr, CHANNELS: tl.constexpr, PADDED: tl.constexpr):
    at = kc + tl.maximum(cell, 0).to(tl.int64)[:, None] * (GROUPS * CHANNELS) + channel[None, :]
    if PADDED == CHANNELS:
        return tl.load(at)
    return tl.load(at, mask=(channel < CHANNELS)[None, :], other=0.0)


@triton.jit
def _add_heads(
    mass,  # [TOKENS, COLUMNS]
    q_rows,  # [TOKENS, PADDED] pointers to the first query head
    lse_rows,  # [TOKENS] pointers to the same
    k,  # [COLUMNS, PADDED]
    cell,  # [COLUMNS], -1 where the slot is empty
    channel,
    scale2,
    PER_GROUP: tl.constexpr,
    CHANNELS: tl.constexpr,
    PADDED: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """``mass`` plus the probabilities of the cells of one slot, over the query heads."""
    for _ in tl.range(0, PER_GROUP):
        if PADDED == CHANNELS:
            query = tl.load(q_rows)
        else:
            query = tl.load(q_rows, mask=(channel < CHANNELS)[None, :], other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision=PRECISION)
        exponent = scores * scale2 - tl.load(lse_rows)[:, None]  # at most about 0
        if MASKED:
            exponent = tl.where((cell >= 0)[None, :], exponent, float("-inf"))
        mass += tl.exp2(exponent)
        q_rows += CHANNELS
        lse_rows += 1
    return mass
