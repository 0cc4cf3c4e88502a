"""Submanifold convolution, slow and obvious: the definition that the fast versions are held to.

Letters: N voxels, K kernel offsets, I input channels, O output channels.
"""

import torch
from torch import Tensor


def submanifold_conv3d(
    feats: Tensor,  # [N, I]
    neighbor_map: Tensor,  # [N, K] row of the neighbour at each offset, or -1
    weight: Tensor,  # [K, I, O]
    bias: Tensor | None = None,  # [O]
) -> Tensor:
    """``out[p] = sum over k of feats[neighbor_map[p, k]] @ weight[k], plus bias``. Returns [N, O]."""
    out = feats.new_zeros(feats.shape[0], weight.shape[2], dtype=torch.float32)
    for k in range(weight.shape[0]):
        rows = neighbor_map[:, k].long()
        present = (rows >= 0).nonzero(as_tuple=True)[0]
        contribution = feats[rows[present]].float() @ weight[k].float()
        out = out.index_add(0, present, contribution)
    if bias is not None:
        out = out + bias.float()
    return out.to(feats.dtype)


def subdivided_conv3d(
    feats: Tensor,  # [N, I] of the parents
    neighbor_map: Tensor,  # [N, 27] of the parents
    weight: Tensor,  # [27, I, O]
    bias: Tensor | None = None,  # [O]
) -> Tensor:
    """Every voxel copied to its 8 children, then a 3^3 convolution among the children. Returns [8 N, O].

    Children of a voxel follow each other, z fastest.
    """
    n = feats.shape[0]
    child_map = torch.full((n, 8, 27), -1, dtype=torch.long, device=feats.device)
    for child in range(8):
        corner = (child >> 2, child >> 1 & 1, child & 1)  # x, y, z
        for k in range(27):
            step = (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)
            target = [c + d for c, d in zip(corner, step, strict=True)]
            px, py, pz = (v // 2 for v in target)
            inside = 4 * (target[0] % 2) + 2 * (target[1] % 2) + target[2] % 2
            rows = neighbor_map[:, (px + 1) + 3 * (py + 1) + 9 * (pz + 1)].long()
            child_map[:, child, k] = torch.where(rows >= 0, 8 * rows + inside, -1)
    return submanifold_conv3d(feats.repeat_interleave(8, dim=0), child_map.view(8 * n, 27), weight, bias)
