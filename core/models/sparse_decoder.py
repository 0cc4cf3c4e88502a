"""Decoder half of the sparse SDF VAE: latents to signed distances, eight times as many voxels per level.

Letters: N latent voxels, L levels, M = N * 8^L voxels of the SDF, n latents of a chunk with its margin,
B samples, C channels, Z latent channels.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import SparseVAEConfig
from core.errors import ConfigError
from core.models.decoder_memory import ConvolutionMemory, chunks_within
from core.models.sparse_encoder import SparseTransformer
from core.ops.brick_conv import brick_conv3d, needs_no_maps
from core.ops.conv_plan import ConvPlan
from core.sparse.conv import SubmanifoldConv3d
from core.sparse.coords import parents, unique_coords
from core.sparse.layers import SparseLinear, SparseSiLU
from core.sparse.neighbors import cached_conv_plan
from core.sparse.resample import subdivide_coords
from core.sparse.tensor import CoordCache, SparseTensor

OnChunk = Callable[[int, int], None]  # (chunks done, chunks in all); may raise to cancel


class SubdivideBlock(nn.Module):
    """Convolution, then one more on the eight children of every voxel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.act_layers = nn.Sequential(SubmanifoldConv3d(in_channels, out_channels), SparseSiLU())
        self.out_layers = nn.Sequential(SubmanifoldConv3d(out_channels, out_channels), SparseSiLU())

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [8 N, C'], children of a voxel consecutive."""
        convolution, activation = self.out_layers
        return activation(convolution.forward_subdivided(self.act_layers(x)))

    def on_bricks(
        self,
        feats: Tensor,  # [n * 8^level, C]
        plan: ConvPlan,  # of the n latents
        level: int,
    ) -> Tensor:
        """The same without maps or coordinates of the voxels, [n * 8^(level + 1), C']."""
        first, second = self.act_layers[0].conv, self.out_layers[0].conv
        feats = brick_conv3d(feats, plan, first.kernel, first.bias, level=level, silu=True)
        return brick_conv3d(feats, plan, second.kernel, second.bias, level=level, subdivide=True, silu=True)


def receptive_latents(levels: int) -> int:
    """Latents that a decoded voxel depends on, to each side: one input voxel a convolution, two a level."""
    fine = sum(2 ** (levels - i) + 2 ** (levels - i - 1) for i in range(levels))  # in voxels of the output
    return -(-fine // 2**levels)


class SparseDecoder(SparseTransformer):
    """A transformer on the latent voxels, then convolutions up the ladder. Every latent gives all its children."""

    def __init__(self, config: SparseVAEConfig) -> None:
        super().__init__(
            config.latent_channels,
            config.decoder_width,
            config.decoder_blocks,
            config.decoder_heads,
            config.decoder_head_dim,
            config.mlp_ratio,
            config.window,
        )
        ladder = (config.decoder_width, *config.decoder_channels)
        self.ladder = ladder
        self.resolution = config.resolution
        self.padding = config.chunk_padding
        needed = receptive_latents(len(ladder) - 1)
        if self.padding < needed:
            raise ConfigError(f"SparseVAEConfig.chunk_padding is {self.padding}; this ladder needs at least {needed}.")
        self.upsample = nn.ModuleList(
            SubdivideBlock(coarse, fine) for coarse, fine in zip(ladder[:-1], ladder[1:], strict=True)
        )
        self.out_layer = SparseLinear(ladder[-1], config.out_channels)

    def forward(
        self,
        z: SparseTensor,  # [N, Z] raw latents
        *,
        chunk_size: int = 1,
        memory_budget: int | None = None,
        return_feats: bool = False,
        position_scale: float = 1.0,
        on_chunk: OnChunk | None = None,
    ) -> tuple[SparseTensor, SparseTensor | None]:
        """Signed distances [M, 1] in -1..1, float32, and if asked the features [M, C] they were read from.

        The transformer sees all latents; the convolutions run on ``chunk_size ** 3`` cubes of each sample's grid,
        each with a margin that covers their reach, so that the values do not depend on ``chunk_size``. With a
        ``memory_budget`` in bytes it is the smallest with which they stay inside; see core.models.decoder_memory.

        Raises:
            ConfigError: for a budget that is too small whatever the chunks are.
        """
        h = self.transform(z, position_scale)
        if memory_budget is not None:
            memory = ConvolutionMemory(self.ladder, h.feats.element_size(), h.device, self._uses_bricks(h.feats))
            chunk_size = chunks_within(memory_budget, memory, h.cache, self.resolution, self.padding)
        if chunk_size == 1 or h.num_voxels == 0:
            sdf, feats = self._upsample(h)
            if on_chunk is not None:
                on_chunk(1, 1)
        else:
            sdf, feats = self._upsample_in_chunks(h, chunk_size, return_feats, on_chunk)
        full = SparseTensor(sdf, self._voxels(h).coords, cache=self._voxels(h))
        return full, full.replace(feats) if return_feats and feats is not None else None

    def _voxels(self, z: SparseTensor) -> CoordCache:
        """Coordinates of the decoded voxels: the children of the children, as often as there are levels."""
        cache = z.cache
        for _ in self.upsample:
            cache = subdivide_coords(cache)
        return cache

    def _upsample(self, h: SparseTensor) -> tuple[Tensor, Tensor]:
        """Latents [n, C] -> distances [n * 8^L, 1] and features [n * 8^L, C']."""
        if self._uses_bricks(h.feats):
            feats, plan = h.feats, cached_conv_plan(h)
            for level, block in enumerate(self.upsample):
                feats = block.on_bricks(feats, plan, level)
        else:
            for block in self.upsample:
                h = block(h)
            feats = h.feats
        return torch.tanh(self._read_distances(feats).float()), feats

    def _uses_bricks(self, feats: Tensor) -> bool:
        return needs_no_maps(feats, *self.upsample.parameters())

    def _read_distances(
        self,
        feats: Tensor,  # [M, C]
    ) -> Tensor:
        """``out_layer``, [M, 1], by a matrix product: with a vector, rounding would depend on a row's place."""
        outputs = self.out_layer.out_features
        weight = F.pad(self.out_layer.weight, (0, 0, 0, max(8 - outputs, 0))).t().contiguous()  # [C, 8]
        return (feats.to(weight.dtype) @ weight)[:, :outputs] + self.out_layer.bias

    def _upsample_in_chunks(
        self, h: SparseTensor, chunk_size: int, return_feats: bool, on_chunk: OnChunk | None
    ) -> tuple[Tensor, Tensor | None]:
        """``_upsample``, one cube at a time; what the margin gave is dropped, so every voxel is written once."""
        children = 8 ** len(self.upsample)
        sdf = feats = None
        cubes = _Cubes(h.coords, -(-self.resolution // chunk_size), self.padding)
        for done, (rows, own) in enumerate(cubes, start=1):
            part = SparseTensor(h.feats[rows], h.coords[rows], batch_size=h.batch_size)
            part_sdf, part_feats = self._upsample(part)
            if sdf is None or feats is None:
                sdf = part_sdf.new_empty(h.num_voxels, children, part_sdf.shape[1])
                feats = part_feats.new_empty(h.num_voxels if return_feats else 0, children, part_feats.shape[1])
            sdf[rows[own]] = part_sdf.view(-1, children, sdf.shape[2])[own]
            if return_feats:
                feats[rows[own]] = part_feats.view(-1, children, feats.shape[2])[own]
            del part, part_sdf, part_feats
            if on_chunk is not None:
                on_chunk(done, len(cubes))
        assert sdf is not None and feats is not None, "no latents"
        return sdf.flatten(0, 1), feats.flatten(0, 1)


class _Cubes:
    """The occupied cubes of a latent grid, per sample, as rows to decode and which of them are the cube's own.

    Iterating gives ``(rows [n] int64, own [n] bool)``: the latents within the margin, and the mask of those inside.
    """

    def __init__(
        self,
        coords: Tensor,  # [N, 4]
        side: int,  # of a cube, in latents
        margin: int,  # latents around it
    ) -> None:
        self.coords = coords
        self.side = side
        self.margin = margin
        self.corners = unique_coords(parents(coords, side))[0].tolist()

    def __len__(self) -> int:
        return len(self.corners)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch, *cube in self.corners:
            low = self.coords.new_tensor(cube) * self.side
            offset = self.coords[:, 1:] - low  # [N, 3] from the corner of the cube
            near = ((offset >= -self.margin) & (offset < self.side + self.margin)).all(1)
            rows = (near & (self.coords[:, 0] == batch)).nonzero(as_tuple=True)[0]
            inside = ((offset[rows] >= 0) & (offset[rows] < self.side)).all(1)
            yield rows, inside
