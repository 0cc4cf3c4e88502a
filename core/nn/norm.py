"""Normalisation layers that compute in float32 and return the dtype they were given.

Letters: B batch, C channels, R voxels per side, H heads, D channels per head, N tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _float(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.float()


class LayerNorm32(nn.LayerNorm):
    """Layer norm over the last axis, in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C], same dtype."""
        out = F.layer_norm(x.float(), self.normalized_shape, _float(self.weight), _float(self.bias), self.eps)
        return out.to(x.dtype)


class ChannelLayerNorm32(LayerNorm32):
    """Layer norm over the channel axis of a volume, each voxel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> [B, C, ...], same dtype."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1).contiguous()


class GroupNorm32(nn.GroupNorm):
    """Group norm in float32."""

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, ...] -> [B, C, ...], same dtype."""
        out = F.group_norm(x.float(), self.num_groups, _float(self.weight), _float(self.bias), self.eps)
        return out.to(x.dtype)


class MultiHeadRMSNorm(nn.Module):
    """Brings every head's vector to length sqrt(D), then scales its channels by a learned ``gamma``."""

    def __init__(self, num_heads: int, head_dim: int):
        super().__init__()
        self.scale = head_dim**0.5
        self.gamma = nn.Parameter(torch.ones(num_heads, head_dim))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., H, D] -> [..., H, D], same dtype."""
        return (F.normalize(x.float(), dim=-1) * self.gamma.float() * self.scale).to(x.dtype)
