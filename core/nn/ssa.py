"""Spatial Sparse Attention as a module (Direct3D-S2, section 3.2).

Letters: N voxels, M cells (occupied compression blocks), B samples, C channels, H query heads, G key heads,
D channels per head. A voxel attends to pooled cells of its whole sample, to the voxels of the blocks where that
attention is strongest, and to its window; three gates mix the results.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import SSAConfig
from core.ops.block_plan import BlockPlan, make_block_plan
from core.ops.kept_blocks import KeptBlocks
from core.ops.ssa import spatial_sparse_attention
from core.sparse.conv import SubmanifoldConv3d
from core.sparse.layers import SparseGroupNorm, SparseSiLU
from core.sparse.resample import SparseDownsample, pool_plan
from core.sparse.tensor import SparseTensor
from core.sparse.windows import window_plan

NORM_GROUPS = 32


def block_plan(x: SparseTensor, compression_block: int, selection_block: int) -> BlockPlan:
    """The blocks of ``x``, built (and the order of its voxels checked) once per coordinate set."""

    def build() -> BlockPlan:
        blocks, cells = pool_plan(x, selection_block), pool_plan(x, compression_block)
        return make_block_plan(x.batch_index, blocks.inverse, cells.inverse, x.batch_size)

    return x.cache.get(("attention blocks", compression_block, selection_block), build)


def position_in_cell(x: SparseTensor, side: int) -> Tensor:
    """Row-major place of every voxel inside its cell of ``side`` voxels a side. Returns [N] int64."""

    def build() -> Tensor:
        px, py, pz = (x.coords[:, 1:].long() % side).unbind(1)
        return (px * side + py) * side + pz

    return x.cache.get(("position in cell", side), build)


class PooledCompression(nn.Module):
    """Version 1: a linear map and SiLU on every voxel, then the pooled value of each cell."""

    def __init__(self, channels: int, block: int):
        super().__init__()
        self.act_layers = nn.Sequential(SubmanifoldConv3d(channels, channels, 1), SparseSiLU())
        self.pool = SparseDownsample(block)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [M, C]."""
        return self.pool(self.act_layers(x))


class ConvCompression(nn.Module):
    """Version 2: norm and SiLU, pooling, two convolutions on the cells, and the pooled input added."""

    def __init__(self, channels: int, block: int):
        super().__init__()
        self.act_layers = nn.Sequential(SparseGroupNorm(NORM_GROUPS, channels), SparseSiLU())
        self.pool = SparseDownsample(block)
        self.out_layers = nn.Sequential(
            SubmanifoldConv3d(channels, channels, 3),
            SparseGroupNorm(NORM_GROUPS, channels),
            SparseSiLU(),
            SubmanifoldConv3d(channels, channels, 3),
        )

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [M, C]."""
        cells = self.out_layers(self.pool(self.act_layers(x)))
        return cells.replace(cells.feats + self.pool(x).feats)


COMPRESSIONS = {"v1": PooledCompression, "v2": ConvCompression}


class SpatialSparseAttention(nn.Module):
    """Attention of every voxel to pooled cells, to its selected blocks and to its window.

    The voxels must be sorted into selection blocks (``core.sparse.coords.sort_into_blocks``).

    Args:
        width: channels C; a head has C / ``config.num_heads`` of them.
        config: sizes of blocks and windows, in voxels.
        shift: offset of the windows, in voxels.
    """

    def __init__(self, width: int, config: SSAConfig, shift: int = 0):
        super().__init__()
        assert width % config.num_heads == 0, f"{width} channels for {config.num_heads} heads"
        assert config.num_heads % config.num_kv_heads == 0, "num_kv_heads must divide num_heads"
        assert config.selection_block % config.compression_block == 0, "compression_block must divide selection_block"
        self.config = config
        self.shift = shift
        self.head_dim = width // config.num_heads
        kv_width, side = config.num_kv_heads * self.head_dim, config.compression_block
        compression = COMPRESSIONS[config.compression_version]
        self.proj_q = nn.Linear(width, width, bias=False)
        self.proj_k = nn.Linear(width, kv_width, bias=False)
        self.proj_v = nn.Linear(width, kv_width, bias=False)
        self.proj_o = nn.Linear(width, width, bias=False)
        self.intra_block_pe = nn.Parameter(0.02 * torch.randn(side, side, side, kv_width))
        self.compression_key = compression(kv_width, side)
        self.compression_value = compression(kv_width, side)
        self.gate = nn.Sequential(nn.Linear(width, 3, bias=False), nn.Sigmoid())

    def forward(self, x: SparseTensor, kept: KeptBlocks | None = None, choose: bool = True) -> SparseTensor:
        """feats [N, C] -> [N, C]. The choice of blocks is put into ``kept``, or with ``choose`` off taken from it."""
        config = self.config
        plan = block_plan(x, config.compression_block, config.selection_block)
        windows = window_plan(x, config.window, self.shift)
        q, k, v = (self._heads(project(x.feats)) for project in (self.proj_q, self.proj_k, self.proj_v))

        place = F.embedding(position_in_cell(x, config.compression_block), self.intra_block_pe.flatten(0, 2))
        kc = self._heads(self.compression_key(x.replace(k.flatten(1) + place.to(k.dtype))).feats)  # [M, G, D]
        vc = self._heads(self.compression_value(x.replace(v.flatten(1))).feats)  # [M, G, D]
        gate = self.gate(x.feats)  # [N, 3]
        mixed = spatial_sparse_attention(
            q, k, v, kc, vc, gate, plan, windows, config.selected_blocks, kept=kept, choose=choose
        )
        return x.replace(self.proj_o(mixed.flatten(1)))

    def _heads(self, feats: Tensor) -> Tensor:
        return feats.unflatten(-1, (-1, self.head_dim))
