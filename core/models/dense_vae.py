"""Convolutional VAE between an occupancy grid and the dense structure latent.

Letters: B batch, Ci input channels, Co output channels, Z latent channels, R cells per side,
r = R / 2^levels latent voxels per side, C channels.
"""

import torch
from torch import Tensor, nn

from core.config.models import DenseVAEConfig, PerChannel
from core.models.posterior import DiagonalGaussian
from core.nn.norm import ChannelLayerNorm32


def pixel_shuffle_3d(x: Tensor) -> Tensor:
    """x [B, 8 C, R, R, R] -> [B, C, 2 R, 2 R, 2 R]; channel 8 c + 4 dx + 2 dy + dz goes to offset (dx, dy, dz)."""
    batch, channels, depth, height, width = x.shape
    split = x.reshape(batch, channels // 8, 2, 2, 2, depth, height, width)
    return split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, channels // 8, 2 * depth, 2 * height, 2 * width)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3^3 convolution, twice, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = ChannelLayerNorm32(channels)
        self.norm2 = ChannelLayerNorm32(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)
        self.activation = nn.SiLU()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C, R, R, R]."""
        h = self.conv1(self.activation(self.norm1(x)))
        return x + self.conv2(self.activation(self.norm2(h)))


class Downsample(nn.Module):
    """Halves the resolution with a convolution of stride 2."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C', R/2, R/2, R/2]."""
        return self.conv(x)


class Upsample(nn.Module):
    """Doubles the resolution: a 3^3 convolution to eight times the channels, then a pixel shuffle."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv3d(in_channels, 8 * out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C', 2R, 2R, 2R]."""
        return pixel_shuffle_3d(self.conv(x))


def _residual_blocks(count: int, channels: int) -> list[nn.Module]:
    return [ResidualBlock(channels) for _ in range(count)]


def _head(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(ChannelLayerNorm32(channels), nn.SiLU(), nn.Conv3d(channels, out_channels, 3, padding=1))


class DenseEncoder(nn.Module):
    """Grid to mean and log variance of the latent."""

    def __init__(self, config: DenseVAEConfig):
        super().__init__()
        ladder = config.encoder_channels
        self.input_layer = nn.Conv3d(config.in_channels, ladder[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for level, channels in enumerate(ladder):
            blocks += _residual_blocks(config.encoder_res_blocks, channels)
            if level + 1 < len(ladder):
                blocks.append(Downsample(channels, ladder[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.middle_block = nn.Sequential(*_residual_blocks(config.encoder_middle_blocks, ladder[-1]))
        self.out_layer = _head(ladder[-1], 2 * config.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, Ci, R, R, R] in -1..1 -> [B, 2 Z, r, r, r], means first, float32."""
        h = self.input_layer(x.to(self.input_layer.weight.dtype)).to(_trunk_dtype(self))
        for block in self.blocks:
            h = block(h)
        h = self.middle_block(h)
        return self.out_layer(h.to(self.out_layer[2].weight.dtype)).float()


class DenseDecoder(nn.Module):
    """Latent to occupancy logits."""

    def __init__(self, config: DenseVAEConfig):
        super().__init__()
        ladder = config.decoder_channels
        self.input_layer = nn.Conv3d(config.latent_channels, ladder[0], 3, padding=1)
        self.middle_block = nn.Sequential(*_residual_blocks(config.decoder_middle_blocks, ladder[0]))
        blocks: list[nn.Module] = []
        for level, channels in enumerate(ladder):
            blocks += _residual_blocks(config.decoder_res_blocks, channels)
            if level + 1 < len(ladder):
                blocks.append(Upsample(channels, ladder[level + 1]))
        self.blocks = nn.ModuleList(blocks)
        self.out_layer = _head(ladder[-1], config.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        """z [B, Z, r, r, r] -> logits [B, Co, R, R, R], float32."""
        h = self.middle_block(self.input_layer(z.to(self.input_layer.weight.dtype)).to(_trunk_dtype(self)))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(self.out_layer[2].weight.dtype)).float()


def _trunk_dtype(half: DenseEncoder | DenseDecoder) -> torch.dtype:
    """The dtype of the convolutions between the first and the last layer; those two may stay in float32."""
    convolutions = (m for m in half.blocks.modules() if isinstance(m, nn.Conv3d))
    return next(convolutions, half.input_layer).weight.dtype


class DenseShapeVAE(nn.Module):
    """Occupancy grid <-> latent. Latents leave and enter normalised, ``(raw - shift) * scale``."""

    def __init__(self, config: DenseVAEConfig):
        super().__init__()
        self.config = config
        self.encoder = DenseEncoder(config)
        self.decoder = DenseDecoder(config)

    def encode(
        self, occupancy: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
    ) -> DiagonalGaussian | Tensor:
        """The posterior of an occupancy grid, or with ``sample`` a draw from it.

        Args:
            occupancy: [B, Ci, R, R, R] in 0..1; R a multiple of 2^levels.
            sample: draw and return raw latents [B, Z, r, r, r] instead of the posterior.
            generator: source of the draw's noise.

        Returns:
            The posterior of the raw (not normalised) latent, [B, Z, r, r, r].
        """
        mean, logvar = self.encoder(2 * occupancy - 1).chunk(2, dim=1)
        posterior = DiagonalGaussian(mean, logvar)
        return posterior.sample(generator) if sample else posterior

    def decode(self, z: Tensor) -> Tensor:
        """Logits of occupancy. z [B, Z, r, r, r] normalised -> [B, Co, R, R, R] float32."""
        return self.decoder(self.denormalize(z))

    def normalize(self, z: Tensor) -> Tensor:
        """Raw latents [B, Z, r, r, r] to normalised ones."""
        return (z - _per_channel(self.config.latent_shift, z)) * _per_channel(self.config.latent_scale, z)

    def denormalize(self, z: Tensor) -> Tensor:
        """Normalised latents [B, Z, r, r, r] to raw ones."""
        return z / _per_channel(self.config.latent_scale, z) + _per_channel(self.config.latent_shift, z)

    def forward(self, occupancy: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, DiagonalGaussian]:
        """Encode, draw, decode. occupancy [B, Ci, R, R, R] -> logits [B, Co, R, R, R] and the posterior."""
        posterior = self.encode(occupancy)
        return self.decoder(posterior.sample(generator)), posterior


def _per_channel(value: PerChannel, like: Tensor) -> Tensor:
    """[Z, 1, 1, 1] (or [1, 1, 1, 1] for a single number), to broadcast over the volume ``like`` [B, Z, r, r, r]."""
    return like.new_tensor(value).reshape(-1, 1, 1, 1)
