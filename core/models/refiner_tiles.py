"""Cutting a cubic grid into overlapping tiles, filling them from voxels, and putting the results together again.

Letters: T tiles per axis, R cells per side of the grid, P cells per side of a tile, n voxels of a sample, m of a tile,
C channels.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from core.config.models import RefinerConfig
from core.errors import NoSurfaceError
from core.models.slabs import SLAB_BYTES
from core.sparse.tensor import SparseTensor

EMPTY = 1.0  # the value far outside of the band: outside
ROWS = 1 << 20  # voxels looked at at once
_LEAST_SLAB = 64 << 20  # less saves little beside what is kept, and takes much longer

OnTile = Callable[[int, int], None]  # (tiles done, tiles in all); may raise to stop the work


def tile_starts(resolution: int, patch: int, stride: int) -> list[int]:
    """Where tiles of side ``patch`` start so that they cover ``resolution`` cells; the last one ends at the border."""
    assert 0 < stride <= patch, "tiles must not leave gaps"
    starts = list(range(0, max(resolution - patch, 0), stride))
    return [*starts, max(resolution - patch, 0)]


def tiles(starts: list[int]) -> Iterator[tuple[int, int, int]]:
    """Corners of all tiles, x slowest."""
    for x in starts:
        for y in starts:
            for z in starts:
                yield x, y, z


def fade_weights(starts: list[int], resolution: int, patch: int) -> Tensor:
    """Weights of every tile along one axis, for a linear cross-fade over each overlap.

    Returns:
        [T, R] float32. Each column sums to 1; over the overlap of two tiles of n cells the earlier tile has
        1 - i / (n - 1) at cell i.
    """
    weights = torch.zeros(len(starts), resolution)
    for index, start in enumerate(starts):
        weights[index, start : start + patch] = 1.0
    for index in range(len(starts) - 1):
        first, end = starts[index + 1], starts[index] + patch
        if end > first:
            ramp = torch.linspace(0.0, 1.0, end - first)
            weights[index, first:end] *= 1 - ramp
            weights[index + 1, first:end] *= ramp
    return weights / weights.sum(0, keepdim=True)


class TileReport:
    """Counts tiles, and keeps the result of those without voxels while a field is refined."""

    def __init__(self, on_tile: OnTile | None, total: int) -> None:
        self.on_tile, self.total, self.done = on_tile, total, 0
        self.empty_result: Tensor | None = None  # [P, P, P]

    def tile_done(self) -> None:
        """One more; the callback may raise."""
        self.done += 1
        if self.on_tile is not None:
            self.on_tile(self.done, self.total)


def kept_bytes(config: RefinerConfig, dtype: torch.dtype) -> int:
    """What a refiner holds at its peak beside weights, arguments and the slab in work.

    That is where the U-Net comes back to full resolution: its skips there, the output of a convolution and its sum with
    the residual, and what is being doubled. For ``sdf`` also the field of one tile's thickness and a tile's result in
    float32, for ``sign`` a bit (a byte) of each cell of half the grid, and the tile that voxels are pooled into.
    """
    widths, patch = config.block_channels, min(config.patch_size, config.resolution)
    cells = patch**3
    channels = (1 + config.layers_per_block + 2) * widths[0] + (widths[1] / 8 if len(widths) > 1 else 0)
    total = cells * channels * torch.finfo(dtype).bits / 8
    if config.kind == "sdf":
        return int(total + 5 * patch * config.resolution**2 + 8 * cells)
    return int(total + (config.resolution // 2) ** 3 + 6 * cells)


def slab_budget(config: RefinerConfig, memory_budget: int | None, dtype: torch.dtype) -> int:
    """Bytes for a slab, where ``memory_budget`` bytes are for all that a refiner computes; None: a fixed number."""
    if memory_budget is None:
        return SLAB_BYTES
    return max(memory_budget - kept_bytes(config, dtype), _LEAST_SLAB)


def sample_rows(x: SparseTensor, sample: int) -> tuple[Tensor, Tensor]:
    """Positions [n, 3] int32 and values [n, C] of one sample, as views.

    Raises:
        NoSurfaceError: for values that are not finite; one of them would spread over its whole tile.
    """
    begin, end = x.cu_seqlens[sample : sample + 2].tolist()
    if not all(bool(torch.isfinite(part).all()) for part in x.feats[begin:end].split(ROWS)):
        raise NoSurfaceError(
            "the decoded field has values that are not finite. Try another seed, or a dtype with a larger range: "
            "bfloat16 or float32."
        )
    return x.coords[begin:end, 1:], x.feats[begin:end]


def rows_in_tile(positions: Tensor, corner: tuple[int, int, int], patch: int) -> tuple[Tensor, Tensor]:
    """Rows [m] of the voxels in a tile, and their cells in it as flat indices [m]. positions [n, 3]."""
    low = torch.tensor(corner, device=positions.device, dtype=positions.dtype)
    rows, cells = [], []
    for start in range(0, len(positions), ROWS):
        local = positions[start : start + ROWS] - low
        inside = ((local >= 0) & (local < patch)).all(1).nonzero()[:, 0]
        x, y, z = local[inside].long().unbind(1)
        rows.append(inside + start)
        cells.append((x * patch + y) * patch + z)
    if not rows:
        return torch.zeros(2, 0, dtype=torch.int64, device=positions.device).unbind(0)
    return torch.cat(rows), torch.cat(cells)


def scatter_tile(values: Tensor, cells: Tensor, patch: int, background: Tensor) -> Tensor:
    """Dense tile [1, C, P, P, P] with values [m, C] at cells [m], and background [C] elsewhere."""
    dense = background.to(values.dtype)[:, None].repeat(1, patch**3)
    for channel, row in enumerate(dense):
        row[cells] = values[:, channel]
    return dense.reshape(1, -1, patch, patch, patch)


def pooled_tile(positions: Tensor, values: Tensor, corner: tuple[int, int, int], patch: int) -> tuple[Tensor, bool]:
    """A tile of the grid of half the resolution, as the released network was trained: sum / (count + 1).

    Args:
        positions: [n, 3] on the fine grid.
        values: [n, 1].
        corner: of the tile, on the coarse grid.

    Returns:
        [1, 1, P, P, P] float32, ``EMPTY`` where no voxel is, and whether there is any.
    """
    total = torch.zeros(patch**3, device=values.device)
    count = torch.zeros(patch**3, device=values.device)
    fine_corner = (2 * corner[0], 2 * corner[1], 2 * corner[2])
    some = False
    for start in range(0, len(positions), ROWS):
        rows, cells = rows_in_tile(positions[start : start + ROWS], fine_corner, 2 * patch)
        if not len(rows):
            continue
        some = True
        x, rest = cells // (4 * patch**2), cells % (4 * patch**2)
        cells = (x // 2 * patch + rest // (2 * patch) // 2) * patch + rest % (2 * patch) // 2
        total.index_add_(0, cells, values[start : start + ROWS][rows, 0].float())
        count.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float32))
    empty = count == 0
    tile = total.div_(count.add_(1)).masked_fill_(empty, EMPTY)
    return tile.view(1, 1, patch, patch, patch), some
