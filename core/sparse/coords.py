"""Arithmetic on voxel coordinates: keys, unique sets, parents and the block order of attention.

Letters: N voxels, M unique voxels. A coordinate row is (batch, x, y, z), int32, never negative.
"""

import torch
from torch import Tensor

from core.errors import InputError

MAX_KEY = 2**62  # keys stay below this, so that adding one neighbour offset cannot overflow int64

Extent = int | tuple[int, int, int]


def bounds(
    coords: Tensor,  # [N, 4]
) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Smallest and largest value of each column, on the host (one transfer). Zeros where N = 0.

    Raises:
        InputError: for a negative coordinate.
    """
    assert coords.ndim == 2 and coords.shape[1] == 4, f"coords must be [N, 4], got {tuple(coords.shape)}"
    if coords.shape[0] == 0:
        return (0, 0, 0, 0), (0, 0, 0, 0)
    low, high = torch.stack([coords.amin(0), coords.amax(0)]).tolist()
    if min(low) < 0:
        raise InputError(f"voxel coordinates must not be negative, the smallest are {low}: shift them to start at 0.")
    return tuple(low), tuple(high)


def encode_keys(
    coords: Tensor,  # [N, 4]
    extent: Extent,  # upper bound (exclusive) of x, y, z
) -> Tensor:
    """One int64 per voxel, ordered as (batch, x, y, z) rows are. Returns [N].

    Coordinates must lie in ``[0, extent)``; outside it two voxels may share a key.
    """
    ex, ey, ez = (extent,) * 3 if isinstance(extent, int) else extent
    b, x, y, z = coords.long().unbind(1)
    return ((b * ex + x) * ey + y) * ez + z


def check_key_range(batch_size: int, extent: tuple[int, int, int]) -> None:
    """Refuse a grid whose voxels cannot be numbered in int64.

    Raises:
        InputError: if it has 2 ** 62 voxels or more.
    """
    cells = batch_size * extent[0] * extent[1] * extent[2]
    if cells >= MAX_KEY:
        raise InputError(f"voxel coordinates span {extent} cells, too many to number: use a smaller grid.")


def unique_coords(
    coords: Tensor,  # [N, 4]
) -> tuple[Tensor, Tensor, Tensor]:
    """Distinct rows in ascending order.

    Returns:
        ``(coords [M, 4], inverse [N] int64, counts [M] int64)`` with ``unique[inverse] == coords``.
    """
    _, high = bounds(coords)
    extent = (high[1] + 1, high[2] + 1, high[3] + 1)
    check_key_range(high[0] + 1, extent)
    keys, inverse, counts = torch.unique(encode_keys(coords, extent), return_inverse=True, return_counts=True)
    return decode_keys(keys, extent).to(coords.dtype), inverse, counts


def decode_keys(
    keys: Tensor,  # [N] int64
    extent: tuple[int, int, int],
) -> Tensor:
    """Inverse of :func:`encode_keys`: rows (batch, x, y, z) as int64 [N, 4]."""
    columns = []
    for size in reversed(extent):
        columns.append(keys % size)
        keys = keys // size
    return torch.stack([keys, *reversed(columns)], dim=1)


def parents(
    coords: Tensor,  # [N, 4]
    factor: int,
) -> Tensor:
    """Coordinates of the cells of side ``factor`` that hold the voxels, one row per voxel. Returns [N, 4]."""
    spatial = torch.div(coords[:, 1:], factor, rounding_mode="floor")
    return torch.cat([coords[:, :1], spatial], dim=1)


def block_order(
    coords: Tensor,  # [N, 4]
    block_size: int,
) -> Tensor:
    """Permutation that puts voxels of one block next to each other, as selected attention needs them.

    Order: batch, then block x, y, z, then x, y, z inside the block; stable. Returns [N] int64.
    """
    _, high = bounds(coords)
    blocks = tuple(h // block_size + 1 for h in high[1:])
    check_key_range(high[0] + 1, tuple(n * block_size for n in blocks))
    block = parents(coords, block_size)
    inside = coords.clone()
    inside[:, 1:] -= block[:, 1:] * block_size
    inside[:, 0] = 0
    keys = encode_keys(block, blocks) * block_size**3 + encode_keys(inside, block_size)
    return torch.argsort(keys, stable=True)


def sort_into_blocks(
    coords: Tensor,  # [N, 4]
    block_size: int,
) -> Tensor:
    """``coords`` in the order of :func:`block_order`. Returns a new [N, 4]."""
    return coords[block_order(coords, block_size)]
