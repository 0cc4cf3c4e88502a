"""Neighbour map of a coordinate set: for each voxel and kernel offset, the row of the voxel found there.

Letters: N voxels, K kernel offsets. Two ways with the same result: a direct-address table over the bounding
box where it is small enough, sorted keys with binary search otherwise.
"""

import torch
from torch import Tensor

from core.errors import InputError
from core.ops.conv_plan import ConvPlan, children_map
from core.sparse.coords import bounds, check_key_range, encode_keys
from core.sparse.tensor import CoordCache, SparseTensor

# Table cells (4 bytes each) worth paying for N voxels: the map itself has 27 N cells.
TABLE_CELLS_PER_VOXEL = 32
TABLE_CELLS_FLOOR = 2**22
TABLE_CELLS_CEILING = 2**28


def kernel_offsets(
    kernel_size: int,
    device: torch.device | str | None = None,
) -> Tensor:
    """Offsets (dx, dy, dz) in the order of the authors' kernels: x fastest. Returns [K, 3] int64."""
    assert kernel_size % 2 == 1, f"a submanifold kernel has an odd side, got {kernel_size}"
    k = torch.arange(kernel_size**3, device=device)
    offsets = torch.stack([k % kernel_size, k // kernel_size % kernel_size, k // kernel_size**2], dim=1)
    return offsets - kernel_size // 2


def neighbor_map(
    coords: Tensor,  # [N, 4], no row twice
    kernel_size: int = 3,
    *,
    table_cells: int | None = None,  # largest direct-address table; 0 always searches
) -> Tensor:
    """Row of each voxel's neighbour at each kernel offset, or -1. Returns [N, K] int32.

    The result is a transposed view: the columns (one per offset) are contiguous in memory.

    Raises:
        InputError: for negative or repeated coordinates, or a grid too large to number.
    """
    n, reach = coords.shape[0], kernel_size // 2
    offsets = kernel_offsets(kernel_size).tolist()
    if n == 0:
        return coords.new_zeros((0, len(offsets)), dtype=torch.int32)
    low, high = bounds(coords)
    # A margin of `reach` on every side: no neighbour leaves the box, so none needs a bounds check.
    extent = tuple(high[i] - low[i] + 1 + 2 * reach for i in (1, 2, 3))
    check_key_range(high[0] - low[0] + 1, extent)
    origin = coords.new_tensor([low[0], *(v - reach for v in low[1:])])
    keys = encode_keys(coords - origin, extent)  # [N]
    steps = [(dx * extent[1] + dy) * extent[2] + dz for dx, dy, dz in offsets]
    cells = (high[0] - low[0] + 1) * extent[0] * extent[1] * extent[2]
    if table_cells is None:
        table_cells = largest_table(n)
    found = _by_table(keys, steps, cells) if cells <= table_cells else _by_search(keys, steps)
    return found.t()


def largest_table(n: int) -> int:
    """Cells of the largest direct-address table that ``n`` voxels are looked up in."""
    return min(max(TABLE_CELLS_PER_VOXEL * n, TABLE_CELLS_FLOOR), TABLE_CELLS_CEILING)


def cached_neighbor_map(x: SparseTensor, kernel_size: int = 3) -> Tensor:
    """The map of ``x``, built once per coordinate set. Returns [N, K] int32."""
    return _cached(x.cache, kernel_size)


def cached_conv_plan(x: SparseTensor, kernel_size: int = 3) -> ConvPlan:
    """The same with what convolutions derive from it at their first use."""
    return x.cache.get(("conv_plan", kernel_size), lambda: ConvPlan(cached_neighbor_map(x, kernel_size)))


def _cached(cache: CoordCache, kernel_size: int) -> Tensor:
    def build() -> Tensor:
        parent = None if cache.parent is None else cache.parent()
        if kernel_size != 3 or parent is None:
            return neighbor_map(cache.coords, kernel_size)
        return children_map(_cached(parent, 3))

    return cache.get(("neighbors", kernel_size), build)


def _by_table(keys: Tensor, steps: list[int], cells: int) -> Tensor:
    rows = torch.arange(keys.shape[0], dtype=torch.int32, device=keys.device)
    table = torch.full((cells,), -1, dtype=torch.int32, device=keys.device)
    table[keys] = rows
    _refuse_duplicates(bool((table[keys] == rows).all()))
    found = torch.empty((len(steps), keys.shape[0]), dtype=torch.int32, device=keys.device)
    for k, step in enumerate(steps):
        found[k] = table[keys + step]
    return found


def _by_search(keys: Tensor, steps: list[int]) -> Tensor:
    ordered, rows = torch.sort(keys)
    _refuse_duplicates(bool((ordered[1:] != ordered[:-1]).all()))
    rows = rows.to(torch.int32)
    last = keys.shape[0] - 1
    found = torch.empty((len(steps), keys.shape[0]), dtype=torch.int32, device=keys.device)
    for k, step in enumerate(steps):
        wanted = keys + step
        place = torch.searchsorted(ordered, wanted).clamp_(max=last)
        found[k] = torch.where(ordered[place] == wanted, rows[place], -1)
    return found


def _refuse_duplicates(unique: bool) -> None:
    if not unique:
        raise InputError("two voxels have the same coordinates: remove duplicates with unique_coords first.")
