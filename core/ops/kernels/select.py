"""The blocks that every token attends to most: exact, without a sort, in an order that only scores and numbers decide.

Letters: N tokens, n of them at a time, M cells, W blocks of one sample (columns), H query heads, G key heads,
D channels per head, S selected blocks per token.

One warp has one row of scores. They are at least 0, so that their bits order as integers do. The S highest of 256
column classes' maxima bound the S-th highest score from below; the bound then climbs from score to score until fewer
than S are above it, which takes a step or two. Rows are read several times, from the cache that they were written to:
the scores of all tokens never exist at once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.block_plan import BlockPlan
from core.ops.kernels import launch
from core.ops.kernels.block_scores import CellSlots, block_scores, cell_slots

SCRATCH_BYTES = 48 * 2**20  # scores alive at once: what second level caches hold
FEWEST_CLASSES = 256  # 8 a lane
MOST_MAXIMA = 16  # S up to which the bound is found by taking maxima one after the other


def select_blocks(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    lse2: Tensor,  # [N, H] float32, base 2, of compressed_forward
    plan: BlockPlan,
    num_selected: int,
) -> Tensor:
    """The blocks with the most probability mass; of equal ones those with lower numbers.

    Returns:
        [G, N, S] int32 block numbers (running through the batch), ascending, then -1 where a sample has fewer.
    """
    groups = kc.shape[1]
    out = torch.empty((groups, q.shape[0], num_selected), dtype=torch.int32, device=q.device)
    for b in range(len(plan.layers)):
        first, end = plan.sample_blocks[b : b + 2]
        start, stop = plan.sample_tokens[b : b + 2]
        if end - first <= num_selected:  # no choice to make
            out[:, start:stop, : end - first] = torch.arange(first, end, dtype=torch.int32, device=q.device)
            out[:, start:stop, end - first :] = -1
            continue
        slots = cell_slots(plan, b)
        stride = launch.cdiv(slots.num_blocks, 16) * 16  # rows begin where wide loads can
        size = min(stop - start, max(64, SCRATCH_BYTES // (4 * groups * stride) // 64 * 64))
        scratch = torch.empty((groups, size, stride), dtype=torch.float32, device=q.device)
        for a in range(start, stop, size):
            z = min(a + size, stop)
            scores = scratch[:, : z - a, : slots.num_blocks]
            block_scores(q, kc, lse2, slots, a, z, scores)
            top_blocks(scores, slots, out[:, a:z])
    return out


def top_blocks(
    scores: Tensor,  # [G, n, W] float32; rows of memory are padded if their stride is a multiple of 16
    slots: CellSlots,  # which block stands in which column
    index: Tensor,  # [G, n, S] int32, contiguous but for the first axis; written
) -> None:
    """Block numbers of the S highest scores of every row, ascending, then -1 if W < S. NaN and negatives count as 0."""
    groups, count, columns = scores.shape
    size = index.shape[2]
    assert index.shape[:2] == scores.shape[:2] and index.stride()[1:] == (size, 1) and scores.stride(2) == 1
    stride = scores.stride(1)
    launch.run(
        _top_blocks,
        (count, groups),
        scores,
        slots.block_of_column,
        index,
        scores.stride(0),
        stride,
        columns if stride % 16 else launch.cdiv(columns, 16) * 16,
        columns,
        launch.next_power_of_2(columns),
        slots.first_block,
        index.stride(0),
        S=size,
        SP=launch.next_power_of_2(size),
        CLASSES=max(FEWEST_CLASSES, launch.next_power_of_2(4 * size)),
        BY_MAXIMA=size <= MOST_MAXIMA,
        num_warps=1,
    )
    if slots.block_of_column is not None:
        padded = launch.next_power_of_2(size)
        rows = max(1, 128 // padded)
        launch.run(
            _sort_rows,
            (launch.cdiv(count, rows), groups),
            index,
            count,
            index.stride(0),
            S=size,
            SP=padded,
            ROWS=rows,
            num_warps=1,
        )


@triton.jit(do_not_specialize=["group_stride", "num_columns", "top_bit", "first_block", "index_stride"])
def _top_blocks(
    scores,
    block_of_column,  # [num_columns] or None
    index,
    group_stride,
    row_stride,
    readable,  # columns that exist in memory
    num_columns,
    top_bit,
    first_block,
    index_stride,
    S: tl.constexpr,
    SP: tl.constexpr,
    CLASSES: tl.constexpr,
    BY_MAXIMA: tl.constexpr,
):
    row, group = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    scores += group * group_stride + row * row_stride
    index += group * index_stride + row * S
    kept = tl.minimum(num_columns, S)
    best = tl.full((CLASSES,), -1, tl.int32)
    for first in range(0, num_columns, CLASSES):
        best = tl.maximum(best, _bits(scores, first, readable, num_columns, CLASSES))
    bound = 0
    if BY_MAXIMA:
        bound = tl.max(best, axis=0)
        for _ in range(1, kept):
            best = tl.where(best < bound, best, -1)
            bound = tl.max(best, axis=0)
        bound = tl.maximum(bound, 0)  # below 0 if there are fewer different maxima
    else:
        for bit in range(30, -1, -1):
            higher = bound | (1 << bit)
            bound = tl.where(tl.sum((best >= higher).to(tl.int32), axis=0) >= kept, higher, bound)

    above, equal, following = _survey(scores, bound, readable, num_columns, CLASSES)
    while above >= kept:
        bound = following
        above, equal, following = _survey(scores, bound, readable, num_columns, CLASSES)

    ties_below = num_columns  # of those equal to the bound, the blocks below this number are taken
    if equal > kept - above:
        ties_below = 0
        step = top_bit
        while step > 0:
            ties = _count_ties(
                scores, block_of_column, bound, ties_below + step, readable, num_columns, CLASSES=CLASSES
            )
            ties_below = tl.where(ties <= kept - above, ties_below + step, ties_below)
            step = step // 2

    written = 0
    for first in range(0, num_columns, CLASSES):
        bits = _bits(scores, first, readable, num_columns, CLASSES)
        taken = tl.sum((bits >= bound).to(tl.int32), axis=0)
        if taken > 0:
            block = _blocks(block_of_column, first, num_columns, CLASSES)
            chosen = (bits > bound) | ((bits == bound) & (block < ties_below))
            place = written + tl.cumsum(chosen.to(tl.int32), axis=0) - 1
            tl.store(index + place, block + first_block, mask=chosen)
            written += tl.sum(chosen.to(tl.int32), axis=0)
    slot = tl.arange(0, SP)
    tl.store(index + slot, tl.full((SP,), -1, tl.int32), mask=(slot >= kept) & (slot < S))


@triton.jit
def _bits(scores, first, readable, num_columns, CLASSES: tl.constexpr):
    """Scores of the columns from ``first`` on, as integers of the same order; -1 past the end."""
    column = first + tl.arange(0, CLASSES)
    score = tl.load(scores + column, mask=column < readable, other=0.0)
    score = tl.where(score > 0, score, 0.0)  # NaN and negative zero too
    return tl.where(column < num_columns, score.to(tl.int32, bitcast=True), -1)


@triton.jit
def _blocks(block_of_column, first, num_columns, CLASSES: tl.constexpr):
    column = first + tl.arange(0, CLASSES)
    if block_of_column is not None:
        column = tl.load(block_of_column + column, mask=column < num_columns, other=0)
    return column


@triton.jit
def _survey(scores, bound, readable, num_columns, CLASSES: tl.constexpr):
    """How many scores are above ``bound``, how many are equal to it, and the lowest of those above."""
    above = tl.zeros((CLASSES,), tl.int32)
    equal = tl.zeros((CLASSES,), tl.int32)
    following = tl.full((CLASSES,), 2147483647, tl.int32)
    for first in range(0, num_columns, CLASSES):
        bits = _bits(scores, first, readable, num_columns, CLASSES)
        above += (bits > bound).to(tl.int32)
        equal += (bits == bound).to(tl.int32)
        following = tl.minimum(following, tl.where(bits > bound, bits, 2147483647))
    return tl.sum(above, axis=0), tl.sum(equal, axis=0), tl.min(following, axis=0)


@triton.jit
def _count_ties(scores, block_of_column, bound, below, readable, num_columns, CLASSES: tl.constexpr):
    """How many blocks with a number under ``below`` have a score equal to ``bound``."""
    ties = tl.zeros((CLASSES,), tl.int32)
    for first in range(0, num_columns, CLASSES):
        bits = _bits(scores, first, readable, num_columns, CLASSES)
        block = _blocks(block_of_column, first, num_columns, CLASSES)
        ties += ((bits == bound) & (block < below)).to(tl.int32)
    return tl.sum(ties, axis=0)


@triton.jit(do_not_specialize=["count", "index_stride"])
def _sort_rows(index, count, index_stride, S: tl.constexpr, SP: tl.constexpr, ROWS: tl.constexpr):
    """Sort the numbers of every row, -1 last: columns did not stand in the order of their blocks."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    slot = tl.arange(0, SP)
    there = (row < count)[:, None] & (slot < S)[None, :]
    at = index + tl.program_id(1).to(tl.int64) * index_stride + row.to(tl.int64)[:, None] * S + slot[None, :]
    block = tl.load(at, mask=there, other=-1)
    block = tl.sort(tl.where(block >= 0, block, 2147483647))
    tl.store(at, tl.where(block < 2147483647, block, -1), mask=there)
