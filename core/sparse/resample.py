"""Between resolutions: pooling into cells, spreading back, and cutting every voxel into eight.

Letters: N voxels, M cells, B samples, C channels. The coordinates and maps that these need are kept in the
input's cache, and so is the cache of the output: a second call builds nothing.
"""

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.errors import InputError
from core.ops.pooling import pool_cells
from core.sparse.coords import check_key_range, decode_keys, encode_keys, parents
from core.sparse.tensor import INT32_MAX, CoordCache, SparseTensor


@dataclass(frozen=True)
class PoolPlan:
    """Which cell every voxel falls into."""

    inverse: Tensor  # [N] int64: voxel -> cell
    cu_cells: Tensor  # [M + 1] int32: first position in ``order`` of each cell, then N
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
    cu_cells = torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32)
    return PoolPlan(inverse, cu_cells, order, fine.derive(decode_keys(cells, extent).to(torch.int32)))


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
        feats = pool_cells(x.feats, plan.order, plan.cu_cells, plan.inverse)
        return SparseTensor(feats, plan.cache.coords, cache=plan.cache)


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
