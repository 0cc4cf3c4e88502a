"""Pooling of voxels into cells, written out: the specification of ``core.ops.pooling``."""

import torch
from torch import Tensor


def pool_cells(
    feats: Tensor,  # [N, C]
    order: Tensor,  # [N]
    cu_cells: Tensor,  # [M + 1]
    inverse: Tensor,  # [N]
) -> Tensor:
    """See ``core.ops.pooling.pool_cells``: [M, C]. Only ``inverse`` and the number of cells are looked at."""
    member = inverse == torch.arange(cu_cells.shape[0] - 1, device=feats.device)[:, None]  # [M, N]
    total = member.float() @ feats.float()
    return (total / (member.sum(1, keepdim=True) + 1)).to(feats.dtype)
