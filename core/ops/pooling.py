"""Pooling of voxels into cells. Letters: N voxels, M cells, C channels."""

import torch
from torch import Tensor

from core.ops.backend import Backend, backend_for
from core.ops.reference import pooling as reference


def pool_cells(
    feats: Tensor,  # [N, C]
    order: Tensor,  # [N] int64: voxels sorted by cell, stable
    cu_cells: Tensor,  # [M + 1] int32: first position in ``order`` of each cell, then N
    inverse: Tensor,  # [N] int64: the cell of each voxel
) -> Tensor:
    """The sum of a cell's voxels over their count *plus one*. Returns [M, C], same dtype; sums in float32.

    The extra one is the authors' (their mean includes a zero start value), and their weights expect it. A cell's
    voxels are added in the same order every time, forward and backward.
    """
    if backend_for("pool_cells", feats.device) is Backend.REFERENCE:
        return reference.pool_cells(feats, order, cu_cells, inverse)
    return _PoolCells.apply(feats, order, cu_cells, inverse)


class _PoolCells(torch.autograd.Function):
    @staticmethod
    def forward(ctx, feats: Tensor, order: Tensor, cu_cells: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(cu_cells, inverse)
        ctx.dtype = feats.dtype
        if backend_for("pool_cells", feats.device) is Backend.TRITON:
            from core.ops.kernels.pooling import pool_cells as pool_by_kernel

            return pool_by_kernel(feats.contiguous(), order, cu_cells)
        total = _sum(feats, order, cu_cells, inverse)
        return (total / (cu_cells.diff() + 1).to(torch.float32)[:, None]).to(feats.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        cu_cells, inverse = ctx.saved_tensors
        mean = grad.float() / (cu_cells.diff() + 1).to(torch.float32)[:, None]
        return mean.to(ctx.dtype).index_select(0, inverse), None, None, None


def _sum(feats: Tensor, order: Tensor, cu_cells: Tensor, inverse: Tensor) -> Tensor:
    """Sums of the cells, [M, C] float32."""
    if feats.device.type == "cuda":  # index_add would add in an order that differs from run to run
        lengths = cu_cells.diff().long()
        return torch.segment_reduce(feats[order].float(), "sum", lengths=lengths, axis=0, unsafe=True)
    total = torch.zeros(cu_cells.shape[0] - 1, feats.shape[1], device=feats.device)
    return total.index_add_(0, inverse, feats.float())
