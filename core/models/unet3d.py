"""3D U-Net inside the refiners: residual blocks with group norm on four resolutions, no attention.

Letters: B batch, C channels, R voxels per side.
"""

import torch
from torch import Tensor, nn

from core.config.models import UNet3DConfig
from core.nn.norm import GroupNorm32


class ResnetBlock(nn.Module):
    """Group norm, SiLU, 3^3 convolution, twice, added to the input (through a 1^3 convolution if channels differ)."""

    def __init__(self, in_channels: int, out_channels: int, norm_groups: int):
        super().__init__()
        self.norm1 = GroupNorm32(norm_groups, in_channels)
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm32(norm_groups, out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.nonlinearity = nn.SiLU()
        self.conv_shortcut = nn.Conv3d(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C', R, R, R]."""
        h = self.conv1(self.nonlinearity(self.norm1(x)))
        h = self.conv2(self.nonlinearity(self.norm2(h)))
        return h + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Resample(nn.Module):
    """One convolution of side 2 and stride 2: halves the resolution, or doubles it when transposed."""

    def __init__(self, channels: int, *, up: bool):
        super().__init__()
        convolution = nn.ConvTranspose3d if up else nn.Conv3d
        self.conv = convolution(channels, channels, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C, R/2, ...] or [B, C, 2R, ...]."""
        return self.conv(x)


class DownBlock(nn.Module):
    """Residual blocks, then half the resolution (but for the last level)."""

    def __init__(self, in_channels: int, out_channels: int, num_layers: int, norm_groups: int, *, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * num_layers
        self.resnets = nn.ModuleList(
            ResnetBlock(a, b, norm_groups) for a, b in zip(widths[:-1], widths[1:], strict=True)
        )
        self.downsamplers = None if last else nn.ModuleList([Resample(out_channels, up=False)])

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """x [B, C, R, R, R] -> [B, C', R/2, ...]; appends every intermediate result to ``skips``."""
        for resnet in self.resnets:
            x = resnet(x)
            skips.append(x)
        if self.downsamplers is not None:
            x = self.downsamplers[0](x)
            skips.append(x)
        return x


class MidBlock(nn.Module):
    """Residual blocks at the coarsest resolution."""

    def __init__(self, channels: int, num_layers: int, norm_groups: int):
        super().__init__()
        self.resnets = nn.Sequential(*(ResnetBlock(channels, channels, norm_groups) for _ in range(1 + num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, R, R, R] -> [B, C, R, R, R]."""
        return self.resnets(x)


class UpBlock(nn.Module):
    """Residual blocks, each with one result of the way down, then twice the resolution (but for the last level)."""

    def __init__(self, in_channels: int, out_channels: int, skip_channels: list[int], norm_groups: int, *, last: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * (len(skip_channels) - 1)
        self.resnets = nn.ModuleList(
            ResnetBlock(a + b, out_channels, norm_groups) for a, b in zip(widths, skip_channels, strict=True)
        )
        self.upsamplers = None if last else nn.ModuleList([Resample(out_channels, up=True)])

    def forward(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """x [B, C, R, R, R] -> [B, C', 2R, ...]; takes its skips from the end of ``skips``."""
        for resnet in self.resnets:
            x = resnet(torch.cat([x, skips.pop()], dim=1))
        return x if self.upsamplers is None else self.upsamplers[0](x)


class UNet3D(nn.Module):
    """The whole U-Net. It ends with norm and SiLU, or with one more convolution and 2 tanh."""

    def __init__(self, config: UNet3DConfig):
        super().__init__()
        assert config.final_conv or config.out_channels == config.block_channels[0], "no last convolution to change it"
        self.config = config
        ladder, groups, layers = config.block_channels, config.norm_groups, config.layers_per_block
        last = len(ladder) - 1
        self.conv_in = nn.Conv3d(config.in_channels, ladder[0], 3, padding=1)

        skips = [ladder[0]]  # channels of what the way down leaves behind, in order
        self.down_blocks = nn.ModuleList()
        for level, channels in enumerate(ladder):
            before = ladder[max(level - 1, 0)]
            self.down_blocks.append(DownBlock(before, channels, layers, groups, last=level == last))
            skips += [channels] * (layers + (level < last))

        self.mid_block = MidBlock(ladder[-1], config.layers_mid_block, groups)

        self.up_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            before = ladder[min(level + 1, last)]
            taken = [skips.pop() for _ in range(layers + 1)]
            self.up_blocks.append(UpBlock(before, ladder[level], taken, groups, last=level == 0))

        self.conv_norm_out = GroupNorm32(groups, ladder[0])
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv3d(ladder[0], config.out_channels, 3, padding=1) if config.final_conv else None

    @property
    def side_multiple(self) -> int:
        """The side of an input must be a multiple of this."""
        return 2 ** (len(self.config.block_channels) - 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, Ci, R, R, R] -> [B, Co, R, R, R]; R a multiple of ``side_multiple``."""
        assert all(side % self.side_multiple == 0 for side in x.shape[2:]), f"side of {tuple(x.shape)}"
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            x = block(x, skips)
        x = self.mid_block(x)
        for block in self.up_blocks:
            x = block(x, skips)
        x = self.conv_act(self.conv_norm_out(x))
        return x if self.conv_out is None else 2 * torch.tanh(self.conv_out(x))
