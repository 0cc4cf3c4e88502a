"""A coarse signed distance field, seen from the fine voxels of a narrow band.

Cells have their value at their centre, voxel i of a grid of side R at ``i / R * 2 - 1`` (see ``grid``).

Letters: R cells per side, M cells of the band, f voxels of a cell per side, V = f ** 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_voxels(cells: Tensor, factor: int) -> Tensor:
    """All voxels of cells [M, 3] in cell-major order, in-cell z fastest: [M * V, 3] int64."""
    axis = torch.arange(factor, device=cells.device)
    inside = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(1, -1, 3)
    return (cells.long()[:, None] * factor + inside).reshape(-1, 3)


def refined_field(
    field: Tensor,  # [R, R, R] distance in cells, divided by clip_cells, in -1..1
    clip_cells: float,  # cells
    voxels: Tensor,  # [N, 3]
    factor: int,
    truncation_voxels: float,
) -> Tensor:
    """Distances at ``voxels`` by trilinear interpolation, in truncation bands, clipped to [-1, 1]: [N] float32."""
    side = field.shape[0]
    index = voxels.to(field.device, torch.float32) / factor - 0.5  # in cells, 0 at the first cell's centre
    position = index / (side - 1) * 2 - 1
    grid = position.flip(-1).view(1, 1, 1, -1, 3)  # the last axis of the field is grid_sample's x
    value = F.grid_sample(field.float()[None, None], grid, padding_mode="border", align_corners=True).view(-1)
    return (value * (clip_cells * factor / truncation_voxels)).clamp(-1, 1)
