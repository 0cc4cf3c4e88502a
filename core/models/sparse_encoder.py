"""Encoder half of the sparse SDF VAE: signed distances in a narrow band to a distribution over latents.

Letters: N voxels of the SDF, M latent voxels, C channels, Z latent channels.
"""

import torch.nn.functional as F
from torch import nn

from core.config.models import SparseVAEConfig
from core.models.posterior import DiagonalGaussian, SparsePosterior
from core.nn.embedding import AbsolutePositionEmbedder
from core.nn.sparse_blocks import SparseTransformerBlock
from core.sparse.conv import SubmanifoldConv3d
from core.sparse.layers import SparseGroupNorm, SparseLinear, SparseSiLU
from core.sparse.resample import SparseDownsample
from core.sparse.tensor import SparseTensor


class DownsampleBlock(nn.Module):
    """Residual block of two 3^3 convolutions that halves the resolution before the first."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(norm_groups, in_channels), SparseSiLU())
        self.pool = SparseDownsample(2)
        self.out_layers = nn.Sequential(
            SubmanifoldConv3d(in_channels, out_channels),
            SparseGroupNorm(norm_groups, out_channels),
            SparseSiLU(),
            SubmanifoldConv3d(out_channels, out_channels),
        )
        self.skip_connection = SubmanifoldConv3d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [N', C'] on the cells of side 2."""
        h = self.out_layers(self.pool(self.act_layers(x)))
        skip = self.skip_connection(self.pool(x))
        return h.replace(h.feats + skip.feats)


class SparseTransformer(nn.Module):
    """What encoder and decoder share: input projection, position embedding, shifted-window blocks."""

    def __init__(
        self, in_channels: int, width: int, blocks: int, heads: int, head_dim: int, mlp_ratio: float, window: int
    ) -> None:
        super().__init__()
        self.input_layer = SparseLinear(in_channels, width)
        self.position = AbsolutePositionEmbedder(width)
        self.blocks = nn.ModuleList(
            SparseTransformerBlock(width, heads, head_dim, mlp_ratio, window, shift=window // 2 * (i % 2))
            for i in range(blocks)
        )

    def transform(self, x: SparseTensor, position_scale: float) -> SparseTensor:
        """feats [M, C] -> [M, width]. The embedding is added in float32, the blocks run in the weights' dtype."""
        x = self.input_layer(x.to(dtype=self.input_layer.weight.dtype))
        position = self.position(x.coords[:, 1:].float() * position_scale)  # [M, width]
        x = x.replace((x.feats.float() + position).to(x.dtype))
        for block in self.blocks:
            x = block(x)
        return x


class SparseEncoder(SparseTransformer):
    """Convolutions down the ladder, then a transformer on the latent voxels."""

    def __init__(self, config: SparseVAEConfig) -> None:
        ladder = config.encoder_channels
        super().__init__(
            ladder[-1],
            config.encoder_width,
            config.encoder_blocks,
            config.encoder_heads,
            config.encoder_head_dim,
            config.mlp_ratio,
            config.window,
        )
        self.input_layer1 = SparseLinear(config.out_channels, ladder[0])
        self.downsample = nn.ModuleList(
            DownsampleBlock(fine, coarse, config.norm_groups)
            for fine, coarse in zip(ladder[:-1], ladder[1:], strict=True)
        )
        self.out_layer = SparseLinear(config.encoder_width, 2 * config.latent_channels)

    def forward(self, x: SparseTensor, position_scale: float = 1.0) -> SparsePosterior:
        """feats [N, C] -> posterior [M, Z], in float32 whatever the weights are."""
        h = self.input_layer1(x.to(dtype=self.input_layer1.weight.dtype))
        for block in self.downsample:
            h = block(h)
        h = self.transform(h, position_scale)
        feats = F.layer_norm(h.feats.float(), h.feats.shape[-1:])
        h = self.out_layer(h.replace(feats.to(self.out_layer.weight.dtype)))
        mean, logvar = h.feats.float().chunk(2, dim=-1)
        return SparsePosterior(DiagonalGaussian(mean, logvar), h)
