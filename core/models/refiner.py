"""Refiners of a decoded signed distance field: ``sdf`` filters its values, ``sign`` repairs inside and outside.

Both look at a dense grid, tile by tile, so that memory is bounded by one tile and the grid itself. A tile
without voxels always gives the same result, which is computed once.

Letters: N voxels, B samples, R cells per side of the grid, P cells per side of a tile, F decoder features,
C width of the refiner.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import RefinerConfig, UNet3DConfig
from core.models.refiner_tiles import OnTile, fade_weights, tile_starts, tiles
from core.models.unet3d import UNet3D
from core.sparse.tensor import SparseTensor

EMPTY = 1.0  # the value far outside of the band: outside


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
        weights = super().forward(x if guide is None else guide)  # [B, 27, R, R, R]
        least = max(1e-12, torch.finfo(weights.dtype).tiny)  # 1e-12 is 0 in float16, and all weights may be 0
        weights = F.normalize(weights, p=1, dim=1, eps=least)
        for _ in range(repeats):
            x = _filter(x, weights)
        return x


def _filter(x: Tensor, weights: Tensor) -> Tensor:
    """Sum of the 27 neighbours of each cell, zero outside. x [B, C, X, Y, Z], weights [B, 27, X, Y, Z]."""
    padded = F.pad(x, (1, 1, 1, 1, 1, 1))
    size_x, size_y, size_z = x.shape[2:]
    out = torch.zeros_like(x)
    for index in range(27):
        i, j, k = index // 9, index // 3 % 3, index % 3
        out += weights[:, index : index + 1] * padded[:, :, i : i + size_x, j : j + size_y, k : k + size_z]
    return out


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

    @torch.no_grad()
    def refine(self, sdf: SparseTensor, feats: SparseTensor | None, on_tile: OnTile | None = None) -> Tensor:
        """Refine a field given on voxels.

        Args:
            sdf: values [N, 1], positive outside, coordinates below ``config.resolution``.
            feats: decoder features [N, F] of the same voxels.
            on_tile: called after every tile with (done, total); may raise to stop.

        Returns:
            [B, 1, R, R, R] float32.
        """
        assert feats is not None and feats.num_voxels == sdf.num_voxels, "the sdf refiner needs decoder features"
        config, dtype = self.config, self.conv_in.weight.dtype
        resolution, patch = config.resolution, _tile_side(self.config.patch_size, config.resolution)
        starts = tile_starts(resolution, patch, min(config.patch_stride, patch))
        weights = fade_weights(starts, resolution, patch).to(sdf.device)  # [T, R]
        of_start = dict(zip(starts, weights, strict=True))
        background = self.latent_mlp(feats.feats.new_zeros(1, config.feature_channels, dtype=dtype))[0]  # [C]
        total, done = len(starts) ** 3 * sdf.batch_size, 0
        empty_result: Tensor | None = None
        out = torch.zeros(sdf.batch_size, 1, *(resolution,) * 3, device=sdf.device)
        for sample in range(sdf.batch_size):
            positions, values, features = _voxels(sdf, sample, feats)
            for corner in tiles(starts):
                inside, cells = _in_tile(positions, corner, patch)
                if empty_result is None or inside.numel():
                    tile = _scatter(values[inside].to(dtype), cells, patch, values.new_full((1,), EMPTY).to(dtype))
                    latent = self.latent_mlp(features[inside].to(dtype))
                    result = self(tile, _scatter(latent, cells, patch, background)).float()
                    if not inside.numel():
                        empty_result = result
                else:
                    result = empty_result
                fade = [of_start[c][c : c + patch] for c in corner]
                weight = fade[0][:, None, None] * fade[1][None, :, None] * fade[2][None, None, :]
                out[sample, 0][_slices(corner, patch)] += result[0, 0] * weight
                done += 1
                if on_tile is not None:
                    on_tile(done, total)
        return out


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

    @torch.no_grad()
    def refine(self, sdf: SparseTensor, feats: SparseTensor | None = None, on_tile: OnTile | None = None) -> Tensor:
        """Fill the empty cells of a field with -1 inside and +1 outside.

        Args:
            sdf: values [N, 1], positive outside, coordinates below ``config.resolution``.
            feats: not used; here so that both refiners are called alike.
            on_tile: called after every tile with (done, total); may raise to stop.

        Returns:
            [B, 1, R, R, R] in the dtype of ``sdf``.
        """
        config, dtype = self.config, self.conv_in.weight.dtype
        side = config.resolution // 2
        patch = _tile_side(config.patch_size, side)
        starts = tile_starts(side, patch, min(config.patch_stride, patch))
        total, done = len(starts) ** 3 * sdf.batch_size, 0
        empty_result: Tensor | None = None
        out = sdf.feats.new_empty(sdf.batch_size, 1, *(config.resolution,) * 3)
        for sample in range(sdf.batch_size):
            positions, values, _ = _voxels(sdf, sample, None)
            coarse = _pool_halves(positions, values, side)  # [R/2, R/2, R/2]
            occupied = torch.unique(positions // 2, dim=0)
            sign = torch.ones_like(coarse, dtype=sdf.dtype)
            for corner in tiles(starts):  # later tiles overwrite earlier ones
                inside, _cells = _in_tile(occupied, corner, patch)
                if empty_result is None or inside.numel():
                    logits = self(coarse[_slices(corner, patch)][None, None].to(dtype))
                    result = torch.where(logits[0, 0] >= 0, 1.0, -1.0).to(sdf.dtype)
                    if not inside.numel():
                        empty_result = result
                else:
                    result = empty_result
                sign[_slices(corner, patch)] = result
                done += 1
                if on_tile is not None:
                    on_tile(done, total)
            out[sample, 0] = sign.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
            out[sample, 0][tuple(positions.unbind(1))] = values[:, 0]
        return out


def _tile_side(patch: int, resolution: int) -> int:
    return min(patch, resolution)


def _slices(corner: tuple[int, int, int], patch: int) -> tuple[slice, slice, slice]:
    return slice(corner[0], corner[0] + patch), slice(corner[1], corner[1] + patch), slice(corner[2], corner[2] + patch)


def _voxels(sdf: SparseTensor, sample: int, feats: SparseTensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Positions [n, 3] int64, values [n, 1] and features [n, F] of one sample."""
    begin, end = sdf.cu_seqlens[sample : sample + 2].tolist()
    rows = slice(begin, end)
    return sdf.coords[rows, 1:].long(), sdf.feats[rows], None if feats is None else feats.feats[rows]


def _in_tile(positions: Tensor, corner: tuple[int, int, int], patch: int) -> tuple[Tensor, Tensor]:
    """Rows [m] of the voxels in a tile, and their cells in it as flat indices [m]. positions [n, 3]."""
    local = positions - torch.tensor(corner, device=positions.device)
    inside = ((local >= 0) & (local < patch)).all(1).nonzero()[:, 0]
    x, y, z = local[inside].unbind(1)
    return inside, (x * patch + y) * patch + z


def _scatter(values: Tensor, cells: Tensor, patch: int, background: Tensor) -> Tensor:
    """Dense tile [1, C, P, P, P] with values [m, C] at cells [m], and background [C] elsewhere."""
    dense = background[:, None].repeat(1, patch**3)
    dense[:, cells] = values.T
    return dense.reshape(1, -1, patch, patch, patch)


def _pool_halves(positions: Tensor, values: Tensor, side: int) -> Tensor:
    """Voxels to half resolution as the released network was trained: sum / (count + 1), ``EMPTY`` where none.

    positions [n, 3] on the fine grid, values [n, 1] -> [side, side, side] float32.
    """
    x, y, z = (positions // 2).unbind(1)
    cells = (x * side + y) * side + z
    total = torch.zeros(side**3, device=values.device).index_add_(0, cells, values[:, 0].float())
    count = torch.zeros(side**3, device=values.device).index_add_(0, cells, torch.ones_like(values[:, 0]).float())
    return torch.where(count > 0, total / (count + 1), EMPTY).reshape(side, side, side)
