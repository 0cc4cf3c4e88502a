"""Signed distances of packed solids in a narrow band: the sparse VAE's training samples.

A cell is one latent voxel; it holds ``factor`` ** 3 SDF voxels. Voxel i lies at ``i / resolution * 2 - 1`` in the
world, as in ``core.geometry.grid``.

Letters: B shapes, M occupied cells, V = factor ** 3 voxels of a cell, R cells per side.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from core.data.parts import Parts, distance, join_part
from core.data.pool import FIELD_CELLS, loaded_field


def surface_cells(field: Tensor, reach: float) -> Tensor:
    """Cells whose centre is nearer to the surface than ``reach`` cells: [M, 3] int64, ascending.

    Args:
        field: [R, R, R] int8 coarse field of one shape, as stored in a pool.
    """
    return (loaded_field(field).abs() < reach / FIELD_CELLS).nonzero()


def band_values(
    shape: Parts, voxels: Tensor, resolution: int, truncation_voxels: float, *, join: Callable = join_part
) -> Tensor:
    """Signed distances of one shape at voxels [M * V, 3], in truncation bands, clipped to [-1, 1]: [M * V]."""
    position = voxels.float() / resolution * 2 - 1
    d = distance(position[None], shape.trimmed(), join=join)[0]
    return (d * (resolution / 2 / truncation_voxels)).clamp(-1, 1)


def random_crop(cells: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """The cells [m, 3] at most ``side // 2`` away, on every axis, from a random one; coordinates unchanged."""
    center = cells[torch.randint(len(cells), (1,), generator=generator).to(cells.device)]
    return cells[((cells - center).abs() <= side // 2).all(1)]


def batched(per_shape: list[Tensor]) -> Tensor:
    """Coordinates of several shapes [n, 3] as one [N, 4] int32 with the batch index in front."""
    rows = [torch.cat([c.new_full((len(c), 1), b), c], 1) for b, c in enumerate(per_shape)]
    return torch.cat(rows).int()
