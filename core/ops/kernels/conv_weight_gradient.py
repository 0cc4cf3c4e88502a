"""Weight gradient of a sparse convolution: split over rows, float32 partial sums added up in order.

Letters: N voxels, K kernel offsets, T taps, I input channels, O output channels, S splits, BI x BO channels and BR
rows of a tile. Tiles of rows are those of the forward pass, so that a tap skips the tiles in which no row has it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.conv_plan import ConvPlan
from core.ops.kernels import launch
from core.ops.kernels.implicit_gemm import is_wide, subdivided_column

WANTED_PROGRAMS = 1056  # eight for each multiprocessor of a large GPU
PARTIAL_BYTES = 2**27  # at most, of the partial sums
ROWS = 64  # of a tile
DEEP_PIPELINE, SHORT_PIPELINE = 9, 5  # two tiles on their way, or one: a row's address takes three loads first


def weight_gradient(
    feats: Tensor,  # [N, I]
    grad: Tensor,  # [N, O], or [8 N, O] of the children if subdivided
    plan: ConvPlan,
    *,
    subdivided: bool = False,
) -> Tensor:
    """``sum over p of feats[neighbor of p at tap t] (outer) grad[p]``. Returns [T, I, O] float32.

    Taps are the plan's K offsets; with ``subdivided`` the 64 (child, folded tap) pairs of
    :func:`core.ops.conv_plan.subdivided_columns`.
    """
    (n, inputs), outputs = feats.shape, grad.shape[1]
    taps = 64 if subdivided else plan.neighbor_map.shape[1]
    if n == 0:
        return feats.new_zeros(taps, inputs, outputs, dtype=torch.float32)
    limit = 32 if feats.dtype == torch.float32 else 128
    block_in = min(max(launch.next_power_of_2(inputs), 16), min(limit, 64))
    block_out = min(max(launch.next_power_of_2(outputs), 16), limit)
    blocks = launch.cdiv(inputs, block_in) * launch.cdiv(outputs, block_out)
    tiles = launch.cdiv(n, ROWS)
    most = max(PARTIAL_BYTES // (4 * taps * inputs * outputs), 1)
    hopper = launch.capability(feats.device)[0] == 9  # four warps multiply 64 rows at a time there
    splits = max(min(launch.cdiv(WANTED_PROGRAMS, taps * blocks), tiles, most), 1)
    partial = feats.new_empty(splits, taps, inputs, outputs, dtype=torch.float32)
    table = plan.tile_taps(ROWS)
    launch.run(
        _weight_gradient,
        (taps * splits, blocks),
        feats.contiguous(),
        grad.contiguous(),
        partial,
        plan.by_offset,
        plan.order,
        table.tiles,
        table.tile_counts,
        n,
        tiles,
        splits,
        TAPS=taps,
        IN=inputs,
        OUT=outputs,
        BI=block_in,
        BO=block_out,
        BR=ROWS,
        SUBDIVIDED=subdivided,
        WIDE=is_wide(feats.numel(), grad.numel(), plan.neighbor_map.numel(), partial.numel()),
        PRECISION=launch.precision(feats.dtype),
        num_warps=8 if block_in * block_out >= (64 * 128 if hopper else 64 * 64) else 4,
        num_stages=SHORT_PIPELINE if feats.dtype == torch.float32 else DEEP_PIPELINE,
    )
    return partial[0] if splits == 1 else partial.sum(0)


@triton.jit
def _weight_gradient(
    feats, grad, partial, neighbors, order, tiles, tile_counts, num_rows, num_tiles, num_splits,
    TAPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    BI: tl.constexpr, BO: tl.constexpr, BR: tl.constexpr,
    SUBDIVIDED: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    split = tl.program_id(0) // TAPS
    tap = tl.program_id(0) % TAPS
    offset = tap
    if SUBDIVIDED:
        offset = subdivided_column(tap)
    across: tl.constexpr = (OUT + BO - 1) // BO
    channels = (tl.program_id(1) // across) * BI + tl.arange(0, BI)
    columns = (tl.program_id(1) % across) * BO + tl.arange(0, BO)
    count = tl.load(tile_counts + offset)
    share = (count + num_splits - 1) // num_splits
    start = offset * num_rows
    if WIDE:
        start = offset.to(tl.int64) * num_rows
    acc = tl.zeros((BI, BO), tl.float32)
    for step in tl.range(split * share, tl.minimum((split + 1) * share, count)):
        place = tl.load(tiles + offset * num_tiles + step) * BR + tl.arange(0, BR)
        rows = tl.load(order + tl.minimum(place, num_rows - 1))
        found = tl.load(neighbors + start + rows)
        source = found
        target = rows
        if WIDE:
            source = found.to(tl.int64)
            target = rows.to(tl.int64)
        if SUBDIVIDED:
            target = target * 8 + tap // 8
        there = ((found >= 0) & (place < num_rows))[:, None]
        x = tl.load(feats + source[:, None] * IN + channels[None, :], mask=there & (channels < IN)[None, :], other=0.0)
        g = tl.load(grad + target[:, None] * OUT + columns[None, :], mask=there & (columns < OUT)[None, :], other=0.0)
        acc = tl.dot(tl.trans(x), g, acc, input_precision=PRECISION)
    base = (split * TAPS + tap) * IN
    if WIDE:
        base = (split.to(tl.int64) * TAPS + tap) * IN
    keep = (channels < IN)[:, None] & (columns < OUT)[None, :]
    tl.store(partial + (base + channels)[:, None] * OUT + columns[None, :], acc, mask=keep)
