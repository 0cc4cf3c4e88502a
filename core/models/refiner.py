"""Refiners of a decoded signed distance field: ``sdf`` filters its values, ``sign`` repairs inside and outside.

Both look at dense tiles of a grid, one at a time, and keep of the whole grid only what its surface needs; a tile is
computed slab by slab (see ``slabs``). Group norms look at a whole tile, so that tiles are as large as the released
weights saw them. A tile without voxels always gives the same result, which is computed once.

Letters: N voxels, B samples, R cells per side of the grid, P cells per side of a tile, F decoder features,
C width of the refiner.
"""

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import RefinerConfig, UNet3DConfig
from core.models.refiner_tiles import (
    EMPTY,
    ROWS,
    OnTile,
    TileReport,
    fade_weights,
    pooled_tile,
    rows_in_tile,
    sample_rows,
    scatter_tile,
    slab_budget,
    tile_starts,
    tiles,
)
from core.models.slabs import Volume, adaptive_filter, conv3, filter_neighbours, normalised_weights, unet_in_slabs
from core.models.unet3d import UNet3D
from core.sparse.refined_field import CrossingVoxels, FarField, RefinedField
from core.sparse.tensor import SparseTensor

_FADED_AT_ONCE = 16  # layers of a tile


class FeatureMLP(nn.Module):
    """Decoder features of a voxel to channels of the refiner: linear layers with ReLU between them."""

    def __init__(self, in_channels: int, out_channels: int = 8, *, hidden: int = 32, num_layers: int = 4):
        super().__init__()
        layers: list[nn.Module] = []
        for width in [in_channels] + [hidden] * (num_layers - 2):
            layers += [nn.Linear(width, hidden), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """x [..., F] -> [..., C]."""
        return self.net(x)


class AdaptiveFilter(nn.Sequential):
    """Predicts a 3^3 filter for every cell from its surroundings, and applies it three times.

    The 27 weights of a cell are divided by the sum of their absolute values and shared by all channels.
    """

    def __init__(self, channels: int):
        super().__init__(
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv3d(channels, 27, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor, guide: Tensor | None = None, repeats: int = 3) -> Tensor:
        """Filter ``x``.

        Args:
            x: [B, C', R, R, R].
            guide: [B, C, R, R, R], what the weights are predicted from; ``x`` itself if not given.
            repeats: how often the filter is applied.

        Returns:
            [B, C', R, R, R].
        """
        weights = normalised_weights(super().forward(x if guide is None else guide))  # [B, 27, R, R, R]
        for _ in range(repeats):
            x = filter_neighbours(F.pad(x, (1,) * 6), weights)
        return x


def _unet(config: RefinerConfig, in_channels: int) -> UNet3D:
    return UNet3D(
        UNet3DConfig(
            in_channels=in_channels,
            out_channels=config.block_channels[0],
            block_channels=config.block_channels,
            layers_per_block=config.layers_per_block,
            layers_mid_block=config.layers_mid_block,
        )
    )


class SDFRefiner(nn.Module):
    """Filters the values of a field with a U-Net and three adaptive filters; tiles are cross-faded."""

    def __init__(self, config: RefinerConfig):
        super().__init__()
        assert config.kind == "sdf"
        self.config = config
        width = config.block_channels[0]
        self.conv_in = nn.Conv3d(1, width, 3, padding=1)
        self.latent_mlp = FeatureMLP(config.feature_channels, width)
        self.unet3d1 = _unet(config, 2 * width)
        self.adaptive_conv1 = AdaptiveFilter(width)
        self.mid_conv = nn.Conv3d(width, width, 3, padding=1)
        self.adaptive_conv2 = AdaptiveFilter(width)
        self.adaptive_conv3 = AdaptiveFilter(width)
        self.conv_out = nn.Conv3d(width, 1, 3, padding=1)

    def forward(self, sdf: Tensor, latent: Tensor) -> Tensor:
        """One tile.

        Args:
            sdf: [B, 1, P, P, P], 1 where there is no voxel.
            latent: [B, C, P, P, P], features through ``latent_mlp``, those of empty cells included.

        Returns:
            Refined field [B, 1, P, P, P] in -1..1.
        """
        h = self.unet3d1(torch.cat([self.conv_in(sdf), latent], dim=1))
        h = self.adaptive_conv1(h)
        h = self.adaptive_conv2(self.mid_conv(h))
        return torch.tanh(self.adaptive_conv3(self.conv_out(h), guide=h))

    def forward_in_slabs(self, sdf: Tensor, latent: Tensor, slab_bytes: int) -> Tensor:
        """``forward`` in bounded memory, for evaluation; ``slab_bytes`` is for what is in work."""
        joined = Volume(conv3(Volume(sdf), self.conv_in, slab_bytes), latent)
        del latent
        h = unet_in_slabs(self.unet3d1, joined, slab_bytes)
        h = adaptive_filter(self.adaptive_conv1, h, h, slab_bytes, 3)
        h = conv3(Volume(h), self.mid_conv, slab_bytes)
        h = adaptive_filter(self.adaptive_conv2, h, h, slab_bytes, 3)
        values = conv3(Volume(h), self.conv_out, slab_bytes)
        return torch.tanh(adaptive_filter(self.adaptive_conv3, values, h, slab_bytes, 3))

    @torch.no_grad()
    def refine(
        self,
        sdf: SparseTensor,
        feats: SparseTensor | None,
        on_tile: OnTile | None = None,
        memory_budget: int | None = None,
    ) -> Tensor:
        """The whole refined field. Arguments as for :meth:`refine_at`, which needs far less memory.

        Returns:
            [B, 1, R, R, R] float32.
        """
        report = TileReport(on_tile, len(self._starts()) ** 3 * sdf.batch_size)
        out = []
        for sample in range(sdf.batch_size):
            layers = self._layers(sdf, feats, sample, report, memory_budget)
            out.append(torch.cat([part.clone() for part in layers]))
        return torch.stack(out)[:, None]

    @torch.no_grad()
    def refine_at(
        self,
        level: float,
        sdf: SparseTensor,
        feats: SparseTensor | None,
        on_tile: OnTile | None = None,
        memory_budget: int | None = None,
    ) -> list[RefinedField]:
        """Refine a field given on voxels, and keep what its surface at one level needs.

        The field is finished layer by layer along x; no more than one tile's thickness of it exists at a time.

        Args:
            level: of the surface, in truncation bands.
            sdf: values [N, 1], positive outside, coordinates below ``config.resolution``.
            feats: decoder features [N, F] of the same voxels.
            on_tile: called after every tile with (done, total); may raise to stop.
            memory_budget: bytes to use beside weights and arguments; more is faster up to a point, and what cannot be
                done without is used in any case.

        Returns:
            A field for each sample, without a far field.

        Raises:
            NoSurfaceError: for values that are not finite.
        """
        report = TileReport(on_tile, len(self._starts()) ** 3 * sdf.batch_size)
        fields = []
        for sample in range(sdf.batch_size):
            found = CrossingVoxels(level)
            for layers in self._layers(sdf, feats, sample, report, memory_budget):
                found.add(layers)
            fields.append(RefinedField(*found.finish(), self.config.resolution))
        return fields

    def _starts(self) -> list[int]:
        patch = min(self.config.patch_size, self.config.resolution)
        return tile_starts(self.config.resolution, patch, min(self.config.patch_stride, patch))

    def _layers(
        self,
        sdf: SparseTensor,
        feats: SparseTensor | None,
        sample: int,
        report: TileReport,
        memory_budget: int | None,
    ) -> Iterator[Tensor]:
        """Yields the refined field of a sample from x = 0 on, as [X, R, R] float32; read each before the next."""
        assert feats is not None and feats.num_voxels == sdf.num_voxels, "the sdf refiner needs decoder features"
        side, patch = self.config.resolution, min(self.config.patch_size, self.config.resolution)
        starts, dtype = self._starts(), self.conv_in.weight.dtype
        fade = dict(zip(starts, fade_weights(starts, side, patch).to(sdf.device), strict=True))  # start to [R]
        slab_bytes = slab_budget(self.config, memory_budget, dtype)
        positions, values = sample_rows(sdf, sample)
        latents = self._latents(sample_rows(feats, sample)[1], dtype)  # [n, C]
        background = self.latent_mlp(latents.new_zeros(1, self.config.feature_channels))[0]  # [C]
        window = torch.zeros(patch, side, side, device=sdf.device)
        for x, next_x in zip(starts, [*starts[1:], side], strict=True):
            for y, z in itertools.product(starts, starts):
                inside, cells = rows_in_tile(positions, (x, y, z), patch)
                if report.empty_result is None or inside.numel():
                    result = self.forward_in_slabs(
                        scatter_tile(values[inside].to(dtype), cells, patch, values.new_full((1,), EMPTY)),
                        scatter_tile(latents[inside], cells, patch, background),
                        slab_bytes,
                    )[0, 0].float()
                    if not inside.numel():
                        report.empty_result = result
                else:
                    result = report.empty_result
                weight_yz = fade[y][y : y + patch, None] * fade[z][None, z : z + patch]
                for low in range(0, patch, _FADED_AT_ONCE):
                    high = min(low + _FADED_AT_ONCE, patch)
                    weight = fade[x][x + low : x + high, None, None] * weight_yz
                    window[low:high, y : y + patch, z : z + patch].addcmul_(result[low:high], weight)
                report.tile_done()
            yield window[: next_x - x]
            carried = window[next_x - x :].clone()
            window.zero_()[: len(carried)] = carried

    def _latents(self, feats: Tensor, dtype: torch.dtype) -> Tensor:
        """feats [n, F] -> [n, C], some rows at a time."""
        return torch.cat([self.latent_mlp(part.to(dtype)) for part in feats.split(ROWS)])


class SignRefiner(nn.Module):
    """Decides for the cells without voxels whether they are inside; values at voxels stay as they are.

    It works at half the resolution of the field.
    """

    def __init__(self, config: RefinerConfig):
        super().__init__()
        assert config.kind == "sign" and config.resolution % 2 == 0
        self.config = config
        width = config.block_channels[0]
        self.conv_in = nn.Conv3d(1, width, 3, padding=1)
        self.unet3d1 = _unet(config, width)
        self.conv_out = nn.Conv3d(width, 1, 3, padding=1)

    def forward(self, sdf: Tensor) -> Tensor:
        """One tile. sdf [B, 1, P, P, P], 1 where empty -> logits of being outside [B, 1, P, P, P]."""
        return self.conv_out(self.unet3d1(self.conv_in(sdf)))

    def forward_in_slabs(self, sdf: Tensor, slab_bytes: int) -> Tensor:
        """``forward`` in bounded memory, for evaluation; ``slab_bytes`` is for what is in work."""
        h = unet_in_slabs(self.unet3d1, Volume(conv3(Volume(sdf), self.conv_in, slab_bytes)), slab_bytes)
        return conv3(Volume(h), self.conv_out, slab_bytes)

    @torch.no_grad()
    def refine(
        self,
        sdf: SparseTensor,
        feats: SparseTensor | None = None,
        on_tile: OnTile | None = None,
        memory_budget: int | None = None,
    ) -> Tensor:
        """The whole field. Arguments as for :meth:`refine_at`, which needs far less memory.

        Returns:
            [B, 1, R, R, R] in the dtype of ``sdf``.
        """
        fields = self.refine_at(0.0, sdf, feats, on_tile, memory_budget)
        return torch.stack([field.dense().to(sdf.dtype) for field in fields])[:, None]

    @torch.no_grad()
    def refine_at(
        self,
        level: float,
        sdf: SparseTensor,
        feats: SparseTensor | None = None,
        on_tile: OnTile | None = None,
        memory_budget: int | None = None,
    ) -> list[RefinedField]:
        """Decide for the empty cells of a field: -1 inside and +1 outside.

        Args:
            level: not used, nor is ``feats``; here so that both refiners are called alike.
            sdf: values [N, 1], positive outside, coordinates below ``config.resolution``.
            on_tile: called after every tile with (done, total); may raise to stop.
            memory_budget: bytes to use beside weights and arguments; more is faster up to a point, and what cannot be
                done without is used in any case.

        Returns:
            A field for each sample: its voxels as they are, and a far field of half the resolution.

        Raises:
            NoSurfaceError: for values that are not finite.
        """
        config, dtype = self.config, self.conv_in.weight.dtype
        side = config.resolution // 2
        patch = min(config.patch_size, side)
        starts = tile_starts(side, patch, min(config.patch_stride, patch))
        slab_bytes = slab_budget(config, memory_budget, dtype)
        report = TileReport(on_tile, len(starts) ** 3 * sdf.batch_size)
        fields = []
        for sample in range(sdf.batch_size):
            positions, values = sample_rows(sdf, sample)
            outside = torch.ones((side,) * 3, dtype=torch.bool, device=sdf.device)
            for corner in tiles(starts):  # later tiles overwrite earlier ones
                tile, some = pooled_tile(positions, values, corner, patch)
                if report.empty_result is None or some:
                    result = self.forward_in_slabs(tile.to(dtype), slab_bytes)[0, 0] >= 0
                    if not some:
                        report.empty_result = result
                else:
                    result = report.empty_result
                outside[tuple(slice(start, start + patch) for start in corner)] = result
                report.tile_done()
            fields.append(RefinedField(positions, values[:, 0], config.resolution, FarField(outside, 2)))
        return fields
