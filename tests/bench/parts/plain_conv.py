"""Sparse convolution as one writes it without thought for memory: what the kernels are held against.

Letters: N voxels, K offsets, I input channels, O output channels.
"""

from collections.abc import Callable

import torch
from torch import Tensor

GATHERED = 2**28  # numbers gathered side by side at a time, where no gradient is wanted


def im2col(
    feats: Tensor,  # [N, I]
    neighbor_map: Tensor,  # [N, K]
    weight: Tensor,  # [K, I, O]
    bias: Tensor,  # [O]
) -> Tensor:
    """All neighbors of a voxel side by side, then one product. Returns [N, O]."""
    padded = torch.cat([feats.new_zeros(1, feats.shape[1]), feats])
    stacked = weight.flatten(0, 1)
    wanted = torch.is_grad_enabled()
    step = neighbor_map.shape[0] if wanted else max(1, GATHERED // stacked.shape[0])
    parts = []
    for rows in neighbor_map.split(step):
        parts.append(torch.addmm(bias, padded[rows + 1].flatten(1), stacked))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def gather_scatter(
    neighbor_map: Tensor,  # [N, K]
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """(feats, weight, bias) -> [N, O]: for each offset, gather, multiply, add; the pairs are found before."""
    pairs = []
    for rows in neighbor_map.unbind(1):
        there = (rows >= 0).nonzero()[:, 0]
        pairs.append((there, rows[there].long()))

    def call(feats: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = bias.expand(len(neighbor_map), -1).clone()
        for (target, source), matrix in zip(pairs, weight, strict=True):
            out = out.index_add(0, target, feats[source] @ matrix)
        return out

    return call
