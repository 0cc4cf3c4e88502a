"""Layers that act on the features of a sparse tensor, voxel by voxel or sample by sample.

Letters: N voxels, B samples, C channels, G groups.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.sparse.tensor import SparseTensor


class SparseLinear(nn.Linear):
    """A linear layer on every voxel."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """feats [N, C] -> [N, C']."""
        return x.replace(super().forward(x.feats))


class SparseSiLU(nn.Module):
    """SiLU on every feature."""

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [N, C]."""
        return x.replace(F.silu(x.feats))


class SparseLayerNorm(nn.LayerNorm):
    """Layer norm of every voxel, in float32."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """feats [N, C] -> [N, C], same dtype."""
        weight = None if self.weight is None else self.weight.float()
        bias = None if self.bias is None else self.bias.float()
        out = F.layer_norm(x.feats.float(), self.normalized_shape, weight, bias, self.eps)
        return x.replace(out.to(x.dtype))


class SparseGroupNorm(nn.GroupNorm):
    """Group norm over all voxels of a sample and the channels of a group, in float32."""

    def forward(self, x: SparseTensor) -> SparseTensor:  # type: ignore[override]
        """feats [N, C] -> [N, C], same dtype."""
        parts = [self._normalize(part) for part in x.feats.split(x.seqlens)]
        return x.replace(parts[0] if len(parts) == 1 else torch.cat(parts))

    def _normalize(
        self,
        feats: Tensor,  # [n, C], one sample
    ) -> Tensor:
        if feats.shape[0] == 0:
            return feats
        weight, bias = (None, None) if self.weight is None else (self.weight.float(), self.bias.float())
        # torch.group_norm, since F.group_norm refuses a single voxel with one channel a group.
        volume = feats.float().t().unsqueeze(0)  # [1, C, n]
        out = torch.group_norm(volume, self.num_groups, weight, bias, self.eps)
        return out.squeeze(0).t().to(feats.dtype)
