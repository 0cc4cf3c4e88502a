"""A U-Net over one large volume, computed slab by slab along x: the same values in a fraction of the memory.

At 256 cells a side one channel in half precision has 34 MB, and the last block of the refiners' U-Net reads 40 of
them. What is kept here are the outputs of convolutions at 8 channels; everything wider (joined inputs, their norms in
float32, doubled resolutions, the 27 weights of adaptive filters) exists only for the layers along x that are being
worked on, and is made again where it is needed again. A group norm looks at the whole volume: its moments are summed
over slabs first. So nothing is approximated, and results differ from the modules' own ``forward`` by rounding alone.

Letters: B samples, C channels, X layers along x, Y and Z cells along the other axes.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models.unet3d import ResnetBlock, UNet3D
from core.nn.norm import GroupNorm32

SLAB_BYTES = 256 << 20  # what a slab may take where no budget is given: enough to keep a GPU busy
_FEWEST_LAYERS = 2

Affine = tuple[Tensor, Tensor]  # [B, C, 1, 1, 1] float32 each: what a group norm multiplies with and adds


class Volume:
    """Channels joined from several tensors, each at full resolution or doubled by a transposed convolution."""

    def __init__(self, *parts: Tensor | tuple[Tensor, nn.ConvTranspose3d]) -> None:
        """parts: [B, C, X, Y, Z], or [B, C, X/2, Y/2, Z/2] with the convolution of side 2 that doubles it."""
        self.parts = [part if isinstance(part, tuple) else (part, None) for part in parts]
        first, doubling = self.parts[0]
        self.shape = [side * (1 if doubling is None else 2) for side in first.shape[2:]]  # (X, Y, Z)
        self.batch_size, self.itemsize = first.shape[0], first.element_size()
        self.channels = sum(x.shape[1] if up is None else up.out_channels for x, up in self.parts)

    def rows(self, low: int, high: int) -> Tensor:
        """[B, C, high - low, Y, Z]; a view where that is possible."""
        found = []
        for x, doubling in self.parts:
            if doubling is None:
                found.append(x[:, :, low:high])
            else:
                start = low // 2
                found.append(doubling(x[:, :, start : -(-high // 2)])[:, :, low - 2 * start : high - 2 * start])
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def slabs(self, bytes_per_cell: int, slab_bytes: int, halo: int = 0) -> Iterator[tuple[int, int]]:
        """(first, end) of layers that take about ``slab_bytes`` together with ``halo`` layers on both sides."""
        plane = self.batch_size * self.shape[1] * self.shape[2]
        step = max(slab_bytes // (plane * bytes_per_cell) - 2 * halo, _FEWEST_LAYERS)
        for low in range(0, self.shape[0], step):
            yield low, min(low + step, self.shape[0])


def group_affine(volume: Volume, norm: nn.GroupNorm, slab_bytes: int) -> Affine:
    """The group norm of a volume as a factor and a summand of each channel."""
    batch, groups = volume.batch_size, norm.num_groups
    wide = torch.float32 if norm.weight.device.type == "mps" else torch.float64  # mps has no float64
    count, mean, spread = 0, 0.0, 0.0  # of the layers so far; [B, groups]: mean, sum of squared deviations
    for low, high in volume.slabs(volume.channels * (volume.itemsize + 4), slab_bytes):
        part = volume.rows(low, high).float().reshape(batch, groups, -1)
        number = part.shape[2]
        variance, own = torch.var_mean(part, dim=2, correction=0)
        variance, own = variance.to(wide), own.to(wide)
        difference, count = own - mean, count + number
        mean = mean + difference * (number / count)
        spread = spread + variance * number + difference**2 * ((count - number) * number / count)
    scale = (spread / count + norm.eps).rsqrt()  # [B, groups]
    each = volume.channels // groups
    factor = scale.repeat_interleave(each, 1) * norm.weight.to(wide)
    summand = norm.bias.to(wide) - mean.repeat_interleave(each, 1) * factor
    return factor.float()[:, :, None, None, None], summand.float()[:, :, None, None, None]


def normalised(
    x: Tensor,  # [B, C, X, Y, Z]
    affine: Affine,
) -> Tensor:  # [B, C, X, Y, Z]
    """Group norm in float32, cast back, then SiLU."""
    wide = x.float()
    wide = wide * affine[0] if wide is x else wide.mul_(affine[0])
    return F.silu(wide.add_(affine[1]).to(x.dtype), inplace=True)


def conv_rows(
    conv: nn.Conv3d,  # 3^3
    x: Tensor,  # [B, C, X, Y, Z], with a layer more at each end that is not an end of the volume
    at_start: bool,
    at_end: bool,
) -> Tensor:  # [B, C', X, Y, Z] without those layers
    """The layers of a zero-padded convolution; only ends of the volume are padded."""
    if not at_start and not at_end:
        return F.conv3d(x, conv.weight, conv.bias, padding=(0, 1, 1))
    out = F.conv3d(x, conv.weight, conv.bias, padding=1)
    return out[:, :, 0 if at_start else 1 : None if at_end else -1]


def conv3(
    volume: Volume,
    conv: nn.Conv3d,
    slab_bytes: int,
    *,
    norm: GroupNorm32 | None = None,
    residual: Volume | None = None,
    shortcut: nn.Conv3d | None = None,
) -> Tensor:
    """A 3^3 convolution of a volume, normalised before if asked, plus the residual through its shortcut.

    Returns:
        [B, C', X, Y, Z].
    """
    affine = None if norm is None else group_affine(volume, norm, slab_bytes)
    size = volume.itemsize
    per_cell = volume.channels * (2 * size + (0 if norm is None else 4)) + 2 * conv.out_channels * size
    per_cell += 0 if residual is None else residual.channels * size
    out, end = None, volume.shape[0]
    for low, high in volume.slabs(per_cell, slab_bytes, halo=1):
        x = volume.rows(max(low - 1, 0), min(high + 1, end))
        x = conv_rows(conv, x if affine is None else normalised(x, affine), low == 0, high == end)
        if residual is not None:
            old = residual.rows(low, high)
            x = x + (old if shortcut is None else shortcut(old))
        if (low, high) == (0, end):
            return x
        if out is None:
            out = x.new_empty(*x.shape[:2], *volume.shape)
        out[:, :, low:high] = x
    assert out is not None, "a volume has layers"
    return out


def _resnet(block: ResnetBlock, x: Volume, slab_bytes: int) -> Tensor:
    """[B, C', X, Y, Z]."""
    h = Volume(conv3(x, block.conv1, slab_bytes, norm=block.norm1))
    return conv3(h, block.conv2, slab_bytes, norm=block.norm2, residual=x, shortcut=block.conv_shortcut)


def _halved(x: Tensor, conv: nn.Conv3d, slab_bytes: int) -> Tensor:
    """[B, C, X/2, Y/2, Z/2]."""
    volume = Volume(x)
    layers = [
        conv(x[:, :, low:high].contiguous())
        for low, high in _even(volume.slabs(3 * volume.channels * volume.itemsize, slab_bytes), x.shape[2])
    ]
    return layers[0] if len(layers) == 1 else torch.cat(layers, dim=2)


def _even(slabs: Iterator[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """The same cuts, rounded down to even layers."""
    for low, high in slabs:
        low, high = low // 2 * 2, high if high == end else high // 2 * 2
        if low < high:
            yield low, high


def unet_in_slabs(unet: UNet3D, x: Volume, slab_bytes: int) -> Tensor:
    """What ``unet(x)`` gives, for a U-Net without a last convolution.

    Args:
        x: [B, C, X, Y, Z], sides multiples of ``unet.side_multiple``; used up, so that its memory serves what follows.
        slab_bytes: about what may be used beyond the outputs of convolutions that are kept.

    Returns:
        [B, C', X, Y, Z].
    """
    assert unet.conv_out is None and all(side % unet.side_multiple == 0 for side in x.shape), x.shape
    h = conv3(x, unet.conv_in, slab_bytes)
    x.parts.clear()
    skips = [h]
    for block in unet.down_blocks:
        for resnet in block.resnets:
            h = _resnet(resnet, Volume(h), slab_bytes)
            skips.append(h)
        if block.downsamplers is not None:
            h = _halved(h, block.downsamplers[0].conv, slab_bytes)
            skips.append(h)
    for resnet in unet.mid_block.resnets:
        h = _resnet(resnet, Volume(h), slab_bytes)
    doubling = None
    for block in unet.up_blocks:
        for resnet in block.resnets:
            h = _resnet(resnet, Volume(_doubled(h, doubling, slab_bytes), skips.pop()), slab_bytes)
            doubling = None
        doubling = None if block.upsamplers is None else block.upsamplers[0].conv
    affine = group_affine(Volume(h), unet.conv_norm_out, slab_bytes)
    for low, high in Volume(h).slabs(h.shape[1] * (4 + h.element_size()), slab_bytes):
        h[:, :, low:high] = normalised(h[:, :, low:high], affine)
    return h


def _doubled(x: Tensor, conv: nn.ConvTranspose3d | None, slab_bytes: int) -> Tensor | tuple[Tensor, nn.ConvTranspose3d]:
    """At double resolution: at once where that is small, else as a part that is doubled whenever it is read."""
    if conv is None:
        return x
    cells = 8 * x.numel() // x.shape[1]
    return conv(x) if cells * conv.out_channels * x.element_size() <= slab_bytes // 4 else (x, conv)


def adaptive_filter(
    filter_conv: nn.Sequential,  # convolution, ReLU, convolution to 27 weights
    x: Tensor,  # [B, C', X, Y, Z]
    guide: Tensor,  # [B, C, X, Y, Z], what the weights are predicted from
    slab_bytes: int,
    repeats: int,
) -> Tensor:
    """Each cell becomes the sum of its 27 neighbours by its own weights, ``repeats`` times; zero outside.

    The weights of a cell are divided by the sum of their absolute values.

    Returns:
        [B, C', X, Y, Z].
    """
    first, _, second = filter_conv
    volume, end = Volume(x), x.shape[2]
    per_cell = (27 + 2 * guide.shape[1] + 3 * x.shape[1]) * x.element_size()
    out = None
    for low, high in volume.slabs(per_cell, slab_bytes, halo=repeats + 1):
        start, stop = max(low - repeats + 1, 0), min(high + repeats - 1, end)  # layers whose weights are needed
        weights = guide[:, :, max(start - 2, 0) : min(stop + 2, end)]
        # The halo of each convolution ends at the volume, or is there: it is cut where it is not an end.
        weights = F.relu(conv_rows(first, weights, start <= 1, stop >= end - 1), inplace=True)
        weights = conv_rows(second, weights, start == 0, stop == end)
        weights = normalised_weights(weights)
        source, y = max(low - repeats, 0), x[:, :, max(low - repeats, 0) : min(high + repeats, end)]
        for left in range(repeats - 1, -1, -1):  # passes that follow
            to, until = max(low - left, 0), min(high + left, end)
            y = F.pad(y, (1, 1, 1, 1, int(source == to), int(source + y.shape[2] == until)))
            y = filter_neighbours(y, weights[:, :, to - start : until - start])
            source = to
        if (low, high) == (0, end):
            return y
        if out is None:
            out = torch.empty_like(x)
        out[:, :, low:high] = y
    assert out is not None, "a volume has layers"
    return out


def normalised_weights(weights: Tensor) -> Tensor:
    """[B, 27, X, Y, Z], each cell's divided by the sum of their absolute values; changed in place."""
    least = max(1e-12, torch.finfo(weights.dtype).tiny)  # 1e-12 is 0 in float16, and all weights may be 0
    return weights.div_(torch.linalg.vector_norm(weights, ord=1, dim=1, keepdim=True).clamp_min_(least))


def filter_neighbours(
    padded: Tensor,  # [B, C, X + 2, Y + 2, Z + 2]
    weights: Tensor,  # [B, 27, X, Y, Z], offset (i - 1, j - 1, k - 1) on (x, y, z) at 9 i + 3 j + k
) -> Tensor:  # [B, C, X, Y, Z]
    """Sum of the 27 neighbours of each cell."""
    size_x, size_y, size_z = weights.shape[2:]
    out = torch.zeros_like(padded[:, :, 1:-1, 1:-1, 1:-1], memory_format=torch.contiguous_format)
    for index in range(27):
        i, j, k = index // 9, index // 3 % 3, index % 3
        out.addcmul_(weights[:, index : index + 1], padded[:, :, i : i + size_x, j : j + size_y, k : k + size_z])
    return out
