"""Masked implicit matrix product: a sparse convolution that gathers its operand row by row and skips absent taps.

Letters: N voxels, K kernel offsets, T taps, I input channels, O output channels, BM rows, BN outputs and BK inputs of
a tile. Sums are float32, in the order of the taps and of the input channels whatever the tile is.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.conv_plan import ConvPlan
from core.ops.kernels import launch

FEW_PROGRAMS = 264  # two for each multiprocessor of a large GPU: below it, tiles get smaller
# A row's address takes two loads before its own. Triton spreads the stages over the three: 7 let two tiles be on
# their way, 4 one.
DEEP_PIPELINE, SHORT_PIPELINE = 7, 4
SMALL_MEMORY = ((8, 6), (8, 9), (12, 0), (12, 1))  # capabilities with 99 kB of shared memory for a program
NARROW_ELEMENTS = 2**31  # tensors with fewer are addressed in 32 bits


class Tile(NamedTuple):
    """Sizes of a program's part of the product, and how it is run."""

    rows: int
    outputs: int
    inputs: int
    num_warps: int
    num_stages: int


def tile_for(rows: int, inputs: int, outputs: int, dtype: torch.dtype, capability: tuple[int, int]) -> Tile:
    """The tile for [rows, .. inputs] x [.. inputs, outputs]."""
    columns = min(max(launch.next_power_of_2(outputs), 16), 128)
    depth = min(max(launch.next_power_of_2(inputs), 16), 64)
    if dtype == torch.float32:  # multiplied without tensor cores, from registers
        return Tile(64, min(columns, 64), min(depth, 32), 8 if columns >= 64 else 4, 2)
    tall = 128 if launch.cdiv(rows, 128) * launch.cdiv(outputs, columns) >= FEW_PROGRAMS else 64
    warps = 8 if tall * columns >= 128 * 128 else 4
    return Tile(tall, columns, depth, warps, SHORT_PIPELINE if capability in SMALL_MEMORY else DEEP_PIPELINE)


def is_wide(*elements: int) -> bool:
    """Whether a tensor of so many elements needs addresses of 64 bits."""
    return max(elements) >= NARROW_ELEMENTS


def implicit_gemm(
    feats: Tensor,  # [N, I], or [8 N, I] of the children if subdivided
    weight: Tensor,  # [T, I, O]
    plan: ConvPlan,
    bias: Tensor | None = None,  # [O]
    *,
    silu: bool = False,
    subdivided: bool = False,
) -> Tensor:
    """``out[p] = sum over t of feats[neighbor of p at tap t] @ weight[t]``, plus bias, through SiLU. Returns [N, O].

    Taps are the plan's K offsets. With ``subdivided`` they are the 64 of :func:`core.ops.conv_plan.subdivided_columns`
    and p takes what its neighbour's child at the mirrored offset has: the input gradient of a subdivided convolution.
    """
    taps, inputs, outputs = weight.shape
    n = plan.neighbor_map.shape[0]
    out = feats.new_empty(n, outputs)
    tile = tile_for(n, inputs, outputs, feats.dtype, launch.capability(feats.device))
    table = plan.tile_taps(tile.rows, subdivided=subdivided)
    neighbors = plan.by_offset
    launch.run(
        _implicit_gemm,
        (launch.cdiv(n, tile.rows), launch.cdiv(outputs, tile.outputs)),
        feats.contiguous(),
        weight.contiguous(),
        bias,
        out,
        neighbors,
        plan.order,
        table.taps,
        table.counts,
        n,
        TAPS=taps,
        IN=inputs,
        OUT=outputs,
        BM=tile.rows,
        BN=tile.outputs,
        BK=tile.inputs,
        SUBDIVIDED=subdivided,
        SILU=silu,
        WIDE=is_wide(feats.numel(), out.numel(), neighbors.numel()),
        PRECISION=launch.precision(feats.dtype),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )
    return out


@triton.jit
def subdivided_column(tap):
    """Offset of the parent (of 27) that folded tap ``tap`` of 64 reads; see core.ops.conv_plan."""
    child = tap // 8
    x = (child // 4) % 2 + (tap // 4) % 2
    y = (child // 2) % 2 + (tap // 2) % 2
    return x + 3 * y + 9 * (child % 2 + tap % 2)


@triton.jit
def _implicit_gemm(
    feats, weight, bias, out, neighbors, order, taps, counts, num_rows,
    TAPS: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SUBDIVIDED: tl.constexpr, SILU: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    place = tile * BM + tl.arange(0, BM)
    rows = tl.load(order + tl.minimum(place, num_rows - 1))  # what is past the end repeats the last and is not kept
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    chunks: tl.constexpr = (IN + BK - 1) // BK
    acc = tl.zeros((BM, BN), tl.float32)
    for step in tl.range(0, tl.load(counts + tile) * chunks):
        tap = tl.load(taps + tile * TAPS + step // chunks)
        channels = (step % chunks) * BK + inner
        offset = tap
        if SUBDIVIDED:
            offset = 26 - subdivided_column(tap)
        start = offset * num_rows
        if WIDE:
            start = offset.to(tl.int64) * num_rows
        found = tl.load(neighbors + start + rows)
        source = found
        if WIDE:
            source = found.to(tl.int64)
        if SUBDIVIDED:
            source = source * 8 + tap // 8
        acc = add_product(
            acc, feats, weight, found >= 0, source, tap, channels, columns, IN, OUT, BN, BK, PRECISION
        )  # fmt: skip
    acc = finish(acc, bias, columns, OUT, SILU)
    target = rows
    if WIDE:
        target = rows.to(tl.int64)
    keep = (place < num_rows)[:, None] & (columns < OUT)[None, :]
    tl.store(out + target[:, None] * OUT + columns[None, :], acc.to(out.dtype.element_ty), mask=keep)


@triton.jit
def add_product(
    acc,  # [BM, BN]
    feats, weight,
    there,  # [BM] whether a row has this neighbor
    source,  # [BM] its row of feats
    tap,
    channels,  # [BK]
    columns,  # [BN]
    IN: tl.constexpr, OUT: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """``acc`` plus the product of some channels of one neighbor with their weights."""
    there = there[:, None]
    if IN % BK != 0:
        there = there & (channels < IN)[None, :]
    a = tl.load(feats + source[:, None] * IN + channels[None, :], mask=there, other=0.0)
    b_pointers = weight + (tap * IN + channels)[:, None] * OUT + columns[None, :]
    if IN % BK == 0 and OUT % BN == 0:
        b = tl.load(b_pointers)
    else:
        b = tl.load(b_pointers, mask=(channels < IN)[:, None] & (columns < OUT)[None, :], other=0.0)
    return tl.dot(a, b, acc, input_precision=PRECISION)


@triton.jit
def finish(acc, bias, columns, OUT: tl.constexpr, SILU: tl.constexpr):
    """Bias and activation on float32 sums [BM, BN]."""
    if bias is not None:
        acc += tl.load(bias + columns, mask=columns < OUT, other=0.0).to(tl.float32)[None, :]
    if SILU:
        acc = acc / (1.0 + tl.exp(-acc))
    return acc
