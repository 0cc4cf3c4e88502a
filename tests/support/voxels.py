"""Random voxels for tests. Letters: N voxels, C channels."""

import torch
from torch import Tensor

from core.sparse.coords import unique_coords
from core.sparse.tensor import SparseTensor


def random_coords(n: int, side: int, batch: int = 2) -> Tensor:
    """[n, 4] int32 rows (batch, x, y, z) in a grid of ``side``; unsorted, some twice."""
    return torch.cat([torch.randint(batch, (n, 1)), torch.randint(side, (n, 3))], dim=1).to(torch.int32)


def random_tensor(n: int, side: int, channels: int = 3, batch: int = 2) -> SparseTensor:
    """At most ``n`` distinct voxels in ascending order with normal features [N, channels]."""
    coords = unique_coords(random_coords(n, side, batch))[0]
    return SparseTensor(torch.randn(len(coords), channels), coords, batch_size=batch)
