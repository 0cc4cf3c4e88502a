"""Runs of consecutive positions of a segment: what one program of a kernel works on.

Letters: S segments (samples, windows or blocks), P positions, I tiles.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tiles:
    """Tile ``i`` has the positions ``start[i] .. stop[i] - 1``, all of one segment; ascending."""

    size: int  # most positions of a tile
    start: Tensor  # [I] int32
    stop: Tensor  # [I] int32
    segment: Tensor  # [I] int32

    def __len__(self) -> int:
        return self.start.shape[0]


def make_tiles(
    cu_seqlens: Tensor,  # [S + 1]: segment s has the positions cu_seqlens[s] .. cu_seqlens[s + 1] - 1
    size: int,
) -> Tiles:
    """Cut every segment into tiles of at most ``size`` positions. Reads the number of tiles back to the host."""
    cu = cu_seqlens.long()
    counts = torch.div(cu.diff() + (size - 1), size, rounding_mode="floor")
    segment = torch.arange(counts.shape[0], device=cu.device).repeat_interleave(counts)
    rank = torch.arange(segment.shape[0], device=cu.device) - (counts.cumsum(0) - counts)[segment]
    start = cu[segment] + rank * size
    stop = torch.minimum(start + size, cu[segment + 1])
    return Tiles(size, start.int(), stop.int(), segment.int())
