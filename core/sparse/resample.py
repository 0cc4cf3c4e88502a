"""Between resolutions: pooling into cells, spreading back, and cutting every voxel into eight.

Letters: N voxels, M cells, B samples, C channels. The coordinates and maps that these need are kept in the
input's cache, and so is the cache of the output: a second call builds nothing.
"""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.sparse.coords import check_key_range, decode_keys, encode_keys, parents
from core.sparse.tensor import INT32_MAX, CoordCache, SparseTensor


@dataclass(frozen=True)
class PoolPlan:
    """Which cell every voxel falls into."""

    inverse: Tensor  # [N] int64: voxel -> cell
    counts: Tensor  # [M] int64: voxels in each cell
    order: Tensor  # [N] int64: voxels sorted by cell, stable
    cache: CoordCache  # of the cells, ascending (batch, x, y, z)


def pool_plan(x: SparseTensor, factor: int) -> PoolPlan:
    """The cells of side ``factor`` under ``x``; built once per coordinate set."""
    return x.cache.get(("pool", factor), lambda: _plan_pool(x.cache, factor))


def _plan_pool(fine: CoordCache, factor: int) -> PoolPlan:
    assert factor >= 1, f"factor {factor}"
    extent = tuple((size - 1) // factor + 1 for size in fine.extent)
    check_key_range(fine.batch_size, extent)
    keys, order = torch.sort(encode_keys(parents(fine.coords, factor), extent), stable=True)
    cells, position, counts = torch.unique_consecutive(keys, return_inverse=True, return_counts=True)
    inverse = torch.empty_like(order)
    inverse[order] = position
    return PoolPlan(inverse, counts, order, fine.derive(decode_keys(cells, extent).to(torch.int32)))


class _SumPool(torch.autograd.Function):
    """Sum of the rows of each cell, in float32 and in the same order every time."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, feats: Tensor, plan: PoolPlan) -> Tensor:
        ctx.save_for_backward(plan.inverse)
        ctx.dtype = feats.dtype
        if feats.device.type == "cuda":  # index_add would add in an order that differs from run to run
            return torch.segment_reduce(feats[plan.order].float(), "sum", lengths=plan.counts, axis=0, unsafe=True)
        total = torch.zeros(plan.counts.shape[0], feats.shape[1], device=feats.device)
        return total.index_add_(0, plan.inverse, feats.float())

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        (inverse,) = ctx.saved_tensors
        return grad.to(ctx.dtype).index_select(0, inverse), None


class SparseDownsample(nn.Module):
    """Pools cells of side ``factor``: the sum of a cell's voxels over their count *plus one*.

    The extra one is the authors' (their mean includes a zero start value), and their weights expect it.
    """

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [M, C] in ascending (batch, x, y, z), same dtype; sums in float32."""
        plan = pool_plan(x, self.factor)
        mean = _SumPool.apply(x.feats, plan) / (plan.counts + 1).to(torch.float32)[:, None]
        return SparseTensor(mean.to(x.dtype), plan.cache.coords, cache=plan.cache)


class SparseUpsample(nn.Module):
    """Gives every voxel the features of the cell it was pooled into; undoes the shape of ``SparseDownsample``."""

    def __init__(self, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: SparseTensor, fine: SparseTensor) -> SparseTensor:
        """x [M, C] on the cells of ``fine`` [N, ...] -> [N, C] on the voxels of ``fine``."""
        plan = pool_plan(fine, self.factor)
        assert plan.cache is x.cache, "x does not have the coordinates that `fine` was pooled to"
        return fine.replace(x.feats.index_select(0, plan.inverse))


def subdivide_coords(cache: CoordCache) -> CoordCache:
    """The 8 children of every voxel of ``cache``; built once per coordinate set.

    Raises:
        InputError: if the finer grid does not fit 32 bits.
    """
    return cache.get("subdivide", lambda: _plan_children(cache))


def _plan_children(coarse: CoordCache) -> CoordCache:
    if 2 * max(coarse.extent) > INT32_MAX:
        raise InputError("subdivided voxel coordinates do not fit 32 bits: use a smaller grid.")
    n = coarse.coords.shape[0]
    corners = torch.tensor([(0, c >> 2, c >> 1 & 1, c & 1) for c in range(8)], dtype=torch.int32)
    doubled = coarse.coords * coarse.coords.new_tensor([1, 2, 2, 2])
    children = coarse.derive((doubled[:, None] + corners.to(doubled.device)).view(8 * n, 4))
    children.parent = weakref.ref(coarse)
    return children


class SparseSubdivide(nn.Module):
    """Every voxel becomes its 8 children, consecutive with z fastest, each with a copy of the features."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [8 N, C]; coordinates ``2 * parent + (i, j, k)``, parents in the order they had."""
        cache = subdivide_coords(x.cache)
        return SparseTensor(x.feats.repeat_interleave(8, dim=0), cache.coords, cache=cache)
