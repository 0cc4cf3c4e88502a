"""Cutting a cubic grid into overlapping tiles, and putting the results together again.

Letters: T tiles per axis, R cells per side of the grid, P cells per side of a tile.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

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
