"""Pooling of voxels into cells: one program adds up one cell. Letters: N voxels, M cells, C channels."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch

ROWS = 32  # voxels read at a time
CHANNELS = 64  # of a program, at most


def pool_cells(
    feats: Tensor,  # [N, C] contiguous
    order: Tensor,  # [N] int64
    cu_cells: Tensor,  # [M + 1] int32
) -> Tensor:
    """Sum of a cell's voxels over their count plus one: [M, C], same dtype; sums in float32."""
    cells, channels = cu_cells.shape[0] - 1, feats.shape[1]
    out = torch.empty((cells, channels), dtype=feats.dtype, device=feats.device)
    width = min(launch.next_power_of_2(channels), CHANNELS)
    grid = (cells, launch.cdiv(channels, width))
    launch.run(_pool, grid, feats, order, cu_cells, out, channels, ROWS=ROWS, C=width, num_warps=2)
    return out


@triton.jit
def _pool(feats, order, cu_cells, out, channels, ROWS: tl.constexpr, C: tl.constexpr):
    cell = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * C + tl.arange(0, C)
    start = tl.load(cu_cells + cell)
    stop = tl.load(cu_cells + cell + 1)
    total = tl.zeros((ROWS, C), tl.float32)
    for first in tl.range(start, stop, ROWS):
        position = first + tl.arange(0, ROWS)
        row = tl.load(order + position, mask=position < stop, other=0)
        inside = (position < stop)[:, None] & (column < channels)[None, :]
        total += tl.load(feats + row[:, None] * channels + column[None, :], mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / (stop - start + 1)
    tl.store(out + cell * channels + column, mean.to(out.dtype.element_ty), mask=column < channels)
