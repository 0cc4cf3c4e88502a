"""Transformer blocks on sparse tensors: the VAE's, with window attention, and the diffusion model's, with SSA.

Letters: N voxels, B samples, L condition tokens, C channels, H heads, D channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import SSAConfig
from core.nn.attention import CrossAttention
from core.nn.mlp import FeedForward
from core.nn.modulation import AdaLNModulation, Modulation, modulate
from core.nn.norm import LayerNorm32
from core.nn.ssa import SpatialSparseAttention
from core.ops.ssa import window_attention
from core.sparse.tensor import SparseTensor
from core.sparse.windows import window_plan


class WindowAttention(nn.Module):
    """Every voxel attends to the voxels of its window; all heads have their own keys."""

    def __init__(self, width: int, num_heads: int, head_dim: int, window: int, shift: int = 0):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.window, self.shift = window, shift
        self.to_qkv = nn.Linear(width, 3 * num_heads * head_dim)
        self.to_out = nn.Linear(num_heads * head_dim, width)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [N, C]."""
        plan = window_plan(x, self.window, self.shift)
        q, k, v = self.to_qkv(x.feats).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(1)  # each [N, H, D]
        return x.replace(self.to_out(window_attention(q, k, v, plan).flatten(1)))


class SparseTransformerBlock(nn.Module):
    """Window attention and feed-forward, each after a norm without weights and added to its input.

    Args:
        window, shift: side of the attention cubes and their offset, in voxels.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_ratio: float, window: int, shift: int):
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.attn = WindowAttention(width, num_heads, head_dim, window, shift)
        self.norm2 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.mlp = FeedForward(width, mlp_ratio)

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, C] -> [N, C]."""
        x = x.replace(x.feats + self.attn(x.replace(self.norm1(x.feats))).feats)
        return x.replace(x.feats + self.mlp(self.norm2(x.feats)))


class SparseCrossAttention(CrossAttention):
    """Every voxel attends to all condition tokens of its sample."""

    def forward(self, x: SparseTensor, cond: Tensor | SparseTensor) -> Tensor:  # type: ignore[override]
        """feats [N, C]; cond [B, L, channels], or sparse [L, channels] with the samples' own numbers -> [N, C]."""
        query = self.to_q(x.feats).unflatten(-1, (self.num_heads, -1))  # [N, H, D]
        tokens = cond.feats if isinstance(cond, SparseTensor) else cond
        key, value = self.to_kv(tokens).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)  # each [.., L, H, D]
        if self.q_rms_norm is not None:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        if isinstance(cond, SparseTensor):
            assert min(cond.seqlens) > 0, "every sample needs a condition token"
            keys, values = key.split(cond.seqlens), value.split(cond.seqlens)
        else:
            keys, values = key.unbind(0), value.unbind(0)
        samples = zip(query.split(x.seqlens), keys, values, strict=True)
        out = torch.cat([_attend(*sample) for sample in samples])
        return self.to_out(out.flatten(1))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One sample: query [n, H, D], key and value [L, H, D] -> [n, H, D]."""
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1)


class SparseModulatedCrossBlock(nn.Module):
    """Spatial sparse self-attention, cross-attention and feed-forward, each added to its input.

    The timestep shifts, scales and gates the first and the last, as in ``core.nn.blocks``; with
    ``shared_modulation`` the block is given the projected vectors.
    """

    def __init__(
        self,
        width: int,
        cond_width: int,
        num_cross_heads: int,
        ssa: SSAConfig,
        *,
        shift: int = 0,  # of the attention windows, in voxels
        mlp_ratio: float = 4.0,
        qk_norm_cross: bool = False,
        shared_modulation: bool = False,
    ):
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=1e-6)
        self.norm3 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = SpatialSparseAttention(width, ssa, shift)
        self.cross_attn = SparseCrossAttention(width, cond_width, num_cross_heads, qk_norm=qk_norm_cross)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = None if shared_modulation else AdaLNModulation(width)

    def forward(self, x: SparseTensor, modulation: Tensor | Modulation, cond: Tensor | SparseTensor) -> SparseTensor:
        """One block.

        Args:
            x: feats [N, C].
            modulation: timestep embedding [B, C], or the projected vectors with ``shared_modulation``.
            cond: [B, L, cond channels], or sparse tokens.

        Returns:
            feats [N, C].
        """
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        by = modulation.spread(x.per_voxel)  # each [N, C]
        feats = x.feats
        normed = modulate(self.norm1(feats), by.shift_attention, by.scale_attention)
        feats = feats + by.gate_attention * self.self_attn(x.replace(normed)).feats
        feats = feats + self.cross_attn(x.replace(self.norm2(feats)), cond)
        return x.replace(feats + by.gate_mlp * self.mlp(modulate(self.norm3(feats), by.shift_mlp, by.scale_mlp)))
