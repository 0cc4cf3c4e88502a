"""Convolution on the dense bricks that subdivided voxels are: neighbors by bit arithmetic, without a map of them.

Letters: N latent voxels, L level, M = N * 8^L voxels, I input channels, O output channels, T taps, BM rows, BN outputs
and BK inputs of a tile.

After L subdivisions every latent is a brick of (2^L)^3 voxels. The row of a voxel is its latent's row followed by L
octal digits, the coarsest first; a digit is 4 x + 2 y + z of one subdivision, so that x is every third bit from bit 2
on, y from bit 1, z from bit 0. A step along an axis is an addition on those bits alone, and where it leaves the brick
it goes on in the next latent: only the map of the latents is read, [27, N].
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch
from core.ops.kernels.implicit_gemm import add_product, finish, is_wide

MAX_LEVEL = 10  # 30 bits
STAGES = 5  # two tiles on their way: a row's address takes one load before its own


def brick_conv(
    feats: Tensor,  # [M, I]
    by_offset: Tensor,  # [27, N] int32: row of each latent's neighbor at an offset, or -1
    weight: Tensor,  # [27, I, O], or [64, I, O] folded
    bias: Tensor | None,  # [O]
    level: int,
    *,
    silu: bool = False,
) -> Tensor:
    """A 3^3 convolution of the bricks, [M, O]; with folded weights that of their 8 children each, [8 M, O].

    Folded weights are those of :func:`core.ops.conv_plan.fold_subdivided`.
    """
    taps, inputs, outputs = weight.shape
    rows = feats.shape[0]
    children = 8 if taps == 64 else 1
    assert 0 <= level <= MAX_LEVEL and rows == by_offset.shape[1] << (3 * level), f"{rows} rows at level {level}"
    out = feats.new_empty(rows * children, outputs)
    columns = min(max(launch.next_power_of_2(outputs), 16), 128)
    depth = min(max(launch.next_power_of_2(inputs), 16), 64)
    tall, warps, stages = 128, 8 if columns == 128 else 4, STAGES
    if feats.dtype == torch.float32:  # multiplied without tensor cores, from registers
        tall, columns, depth, stages = 64, min(columns, 64), min(depth, 32), 2
        warps = 8 if columns == 64 else 4
    blocks = launch.cdiv(outputs, columns)
    launch.run(
        _brick_conv,
        (launch.cdiv(rows, tall) * children * blocks,),
        feats.contiguous(),
        weight.contiguous(),
        bias,
        out,
        by_offset,
        by_offset.shape[1],
        rows,
        LEVEL=level,
        CHILDREN=children,
        IN=inputs,
        OUT=outputs,
        BM=tall,
        BN=columns,
        BK=depth,
        SILU=silu,
        WIDE=is_wide(feats.numel(), out.numel()),
        PRECISION=launch.precision(feats.dtype),
        num_warps=warps,
        num_stages=stages,
    )
    return out


@triton.jit
def _move(inside, bits, step, unit: tl.constexpr):
    """``inside`` after ``step`` (-1, 0 or 1) along the axis that has ``bits``, and the step among the latents."""
    own = inside & bits
    up = ((own | ~bits) + unit) & bits
    down = (own - unit) & bits
    moved = tl.where(step == 0, own, tl.where(step > 0, up, down))
    leaves = tl.where(step > 0, own == bits, own == 0) & (step != 0)
    return moved, tl.where(leaves, step, 0)


@triton.jit
def _brick_conv(
    feats, weight, bias, out, neighbors, num_latents, num_rows,
    LEVEL: tl.constexpr, CHILDREN: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    SILU: tl.constexpr, WIDE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # Programs that read the same rows run next to each other: children, then blocks of outputs, then tiles of rows.
    blocks: tl.constexpr = (OUT + BN - 1) // BN
    child = tl.program_id(0) % CHILDREN
    columns = (tl.program_id(0) // CHILDREN % blocks) * BN + tl.arange(0, BN)
    rows = (tl.program_id(0) // (CHILDREN * blocks)) * BM + tl.arange(0, BM)
    row = tl.minimum(rows, num_rows - 1)  # what is past the end repeats the last and is not kept
    latent = row >> (3 * LEVEL)
    inside = row & ((1 << (3 * LEVEL)) - 1)
    x_bits: tl.constexpr = 4 * ((1 << (3 * LEVEL)) - 1) // 7
    y_bits: tl.constexpr = 2 * ((1 << (3 * LEVEL)) - 1) // 7
    z_bits: tl.constexpr = ((1 << (3 * LEVEL)) - 1) // 7
    inner = tl.arange(0, BK)
    chunks: tl.constexpr = (IN + BK - 1) // BK
    taps: tl.constexpr = 27 if CHILDREN == 1 else 8
    acc = tl.zeros((BM, BN), tl.float32)
    for step in tl.range(0, taps * chunks):
        tap = step // chunks
        channels = (step % chunks) * BK + inner
        if CHILDREN == 1:
            dx = tap % 3 - 1
            dy = tap // 3 % 3 - 1
            dz = tap // 9 - 1
        else:  # the low child sees the voxels at -1 and 0, the high child those at 0 and +1
            dx = (child // 4) + (tap // 4) - 1
            dy = (child // 2) % 2 + (tap // 2) % 2 - 1
            dz = child % 2 + tap % 2 - 1
            tap += 8 * child
        x, across_x = _move(inside, x_bits, dx, 4)
        y, across_y = _move(inside, y_bits, dy, 2)
        z, across_z = _move(inside, z_bits, dz, 1)
        offset = 13 + across_x + 3 * across_y + 9 * across_z
        found = tl.load(neighbors + offset * num_latents + latent)
        source = found
        if WIDE:
            source = found.to(tl.int64)
        source = (source << (3 * LEVEL)) + (x | y | z)
        acc = add_product(
            acc, feats, weight, found >= 0, source, tap, channels, columns, IN, OUT, BN, BK, PRECISION
        )  # fmt: skip
    acc = finish(acc, bias, columns, OUT, SILU)
    target = rows
    if WIDE:
        target = rows.to(tl.int64)
    target = target * CHILDREN + child
    keep = (rows < num_rows)[:, None] & (columns < OUT)[None, :]
    tl.store(out + target[:, None] * OUT + columns[None, :], acc.to(out.dtype.element_ty), mask=keep)
