"""How much memory the decoder's convolutions take, and into how many cubes to cut a grid to stay within a budget.

Letters: n latents convolved at a time, L levels, m = n * 8^l voxels at level l, C and D channels before and after a
block, N latents in all, B samples.

What is alive at the worst moments, in elements of the features unless bytes are said:

=============================  ==========================  ====================================================
moment of the block at level l  with maps                   on bricks (kernels, no gradient)
=============================  ==========================  ====================================================
first convolution              m (2 C + D) + gathered      m (C + D)
its activation                 m (C + 2 D)                 in the kernel
convolution of the children    m (C + 10 D) + gathered     m (C + D + 8 D)
the children put in order      m (C + D + 16 D)            in the kernel
kept until the chunk is done   108 m + 128 m bytes         108 n bytes
=============================  ==========================  ====================================================

Kept are the map of 27 neighbors and the coordinates of the children. Before the first block the map of the latents is
built through a table of 4 bytes a cell of their bounding box, or by search; after the last the distances are read,
8 columns wide. Weights are folded in float32. The decoded result itself comes on top of all this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import ConfigError
from core.ops.submanifold_conv import gathered_elements
from core.sparse.coords import encode_keys
from core.sparse.neighbors import largest_table
from core.sparse.tensor import CoordCache


@dataclass(frozen=True)
class ConvolutionMemory:
    """The table above for one decoder."""

    ladder: Sequence[int]  # channels of the latents, then after each block
    element_size: int  # bytes
    device: torch.device
    bricks: bool  # convolved by kernels that need no maps

    def peak(self, latents: int, cells: int) -> int:
        """Bytes for ``latents`` at a time in a bounding box of ``cells``, without the result."""
        e, n = self.element_size, latents
        kept = n * (4 * 4 + 8 + 1)  # coordinates, rows, the mask of the chunk's own
        table = 48 * n + (4 * cells if cells <= largest_table(n) else 0)
        peak = kept + n * (108 + self.ladder[0] * e) + table
        if self.bricks:
            kept += n * 140  # the map, the order of rows and tables of tiles
        for level, (before, after) in enumerate(zip(self.ladder[:-1], self.ladder[1:], strict=True)):
            m = n << (3 * level)
            weights = 4 * after**2  # bytes of float32 at one offset
            moments = [m * (before + 9 * after) * e + 160 * weights]
            if not self.bricks:
                kept += 108 * m
                moments = [
                    m * (2 * before + after) * e + self._gathered(m, 27, before),
                    m * (before + 10 * after) * e + self._gathered(m, 8, after) + (16 if e == 4 else 43) * weights,
                    m * (before + 17 * after) * e + 16 * weights,
                    m * (before + 16 * after) * e + 128 * m,
                ]
            peak = max(peak, kept + max(moments))
            if not self.bricks:
                kept += 128 * m
            if level == 0:
                kept += n * before * e  # held by the caller
        m = n << (3 * (len(self.ladder) - 1))
        return max(peak, kept + m * ((self.ladder[-1] + 8 + 1) * e + 8))

    def _gathered(self, voxels: int, offsets: int, channels: int) -> int:
        """Bytes of neighbors side by side, at most two portions of them at once, and of one's row numbers."""
        whole = voxels * offsets * channels
        portion = min(whole, max(gathered_elements(self.device), 64 * offsets * channels))
        return (1 if portion == whole else 2) * portion * self.element_size + 8 * portion // channels


def chunks_within(
    budget: int,  # bytes
    memory: ConvolutionMemory,
    latents: CoordCache,  # of the N latents
    resolution: int,
    margin: int,
) -> int:
    """The fewest cubes a side of a grid of ``resolution`` with which the convolutions stay within ``budget``.

    Raises:
        ConfigError: if no number of cubes does.
    """
    total = latents.coords.shape[0]
    least = memory.peak(total, _cells(latents.batch_size, latents.extent))
    if least <= budget or total == 0:
        return 1
    sums = _prefix_sums(latents)
    tried = set()
    for chunks in range(2, resolution + 1):
        side = -(-resolution // chunks)
        if side in tried:
            continue
        tried.add(side)
        around = tuple(min(side + 2 * margin, size) for size in latents.extent)
        needed = memory.peak(_most_latents(sums, side, margin), _cells(1, around))
        if needed <= budget:
            return chunks
        least = min(least, needed)
    raise ConfigError(f"memory_budget is {budget} bytes; decoding these {total} latents needs at least {least}.")


def _cells(batch_size: int, extent: tuple[int, ...]) -> int:
    """Of a bounding box with one empty cell around."""
    x, y, z = (size + 2 for size in extent)
    return batch_size * x * y * z


def _prefix_sums(latents: CoordCache) -> Tensor:
    """Latents below each corner of the grid, [B, X + 1, Y + 1, Z + 1] int32."""
    shape = (latents.batch_size, *(size + 1 for size in latents.extent))
    sums = torch.zeros(shape, dtype=torch.int32, device=latents.coords.device)
    corner = latents.coords + latents.coords.new_tensor([0, 1, 1, 1])
    sums.view(-1)[encode_keys(corner, shape[1:])] = 1
    for axis in (1, 2, 3):
        sums = sums.cumsum(axis, dtype=torch.int32)
    return sums


def _most_latents(sums: Tensor, side: int, margin: int) -> int:
    """Latents of the fullest cube with its margin; cubes without a latent of their own are not decoded."""
    with_margin, own = _per_cube(sums, side, margin), _per_cube(sums, side, 0)
    return int(torch.where(own > 0, with_margin, 0).max())


def _per_cube(sums: Tensor, side: int, margin: int) -> Tensor:
    """Latents of every cube, [B, x, y, z]."""
    for axis in (1, 2, 3):
        size = sums.shape[axis] - 1
        low = torch.arange(0, size, side, device=sums.device)
        above, below = (low + side + margin).clamp(max=size), (low - margin).clamp(min=0)
        sums = sums.index_select(axis, above) - sums.index_select(axis, below)
    return sums
