"""Transformer blocks on sparse tensors: the VAE's, with window attention, and the diffusion model's, with SSA.

Letters: N voxels, B samples, b of them with a condition (the first), L condition tokens, C channels, H heads,
D channels per head.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import SSAConfig
from core.nn.attention import CrossAttention
from core.nn.mlp import FeedForward
from core.nn.modulation import AdaLNModulation, Modulation
from core.nn.norm import LayerNorm32
from core.nn.ssa import SpatialSparseAttention
from core.ops.kept_blocks import KeptBlocks
from core.ops.modulated_norm import SampleRows, gated_residual, gated_residual_norm, modulated_norm
from core.ops.ssa import window_attention
from core.sparse.tensor import SparseTensor
from core.sparse.windows import window_plan


def sample_rows(x: SparseTensor) -> SampleRows | None:
    """The samples of the rows of ``x``, for ``core.ops.modulated_norm``; None for a single one."""
    return None if x.batch_size == 1 else SampleRows(x.batch_index, x.cu_seqlens)


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
        samples = sample_rows(x)
        normed = modulated_norm(x.feats, samples=samples, eps=self.norm1.eps)
        feats, normed = gated_residual_norm(
            x.feats, self.attn(x.replace(normed)).feats, samples=samples, eps=self.norm2.eps
        )
        return x.replace(feats + self.mlp(normed))


class SparseCrossAttention(CrossAttention):
    """Every voxel attends to all condition tokens of its sample."""

    def forward(self, x: SparseTensor, cond: Tensor | SparseTensor) -> Tensor:  # type: ignore[override]
        """One of two kinds of condition.

        Args:
            x: feats [N, C].
            cond: [b, L, channels] of the first b samples, the others have none; or sparse [L, channels] with the
                samples' own numbers, at least one token for each.

        Returns:
            [N, C].
        """
        if isinstance(cond, SparseTensor):
            assert min(cond.seqlens) > 0, "every sample needs a condition token"
            key, value = self._keys_and_values(cond.feats)  # each [L, H, D]
            return self._attended(x.feats, x.seqlens, key.split(cond.seqlens), value.split(cond.seqlens))
        conditioned = cond.shape[0]
        assert conditioned <= x.batch_size, f"conditions of {conditioned} samples for {x.batch_size}"
        if conditioned == 0:
            return self.without_condition().expand(x.num_voxels, -1)
        key, value = self._keys_and_values(cond)  # each [b, L, H, D]
        seqlens = x.seqlens[:conditioned]
        out = self._attended(x.feats[: sum(seqlens)], seqlens, key.unbind(0), value.unbind(0))
        if conditioned == x.batch_size:
            return out
        return torch.cat([out, self.without_condition().expand(x.num_voxels - out.shape[0], -1)])

    def _keys_and_values(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[..., L, channels] -> each [..., L, H, D]."""
        key, value = self.to_kv(tokens).unflatten(-1, (2, self.num_heads, -1)).unbind(-3)
        return key if self.k_rms_norm is None else self.k_rms_norm(key), value

    def _attended(
        self,
        feats: Tensor,  # [n, C]
        seqlens: list[int],  # of the samples in feats
        keys: Sequence[Tensor],  # each [L, H, D]
        values: Sequence[Tensor],
    ) -> Tensor:
        """The rows of samples that have a condition, [n, C]."""
        query = self.to_q(feats).unflatten(-1, (self.num_heads, -1))  # [n, H, D]
        if self.q_rms_norm is not None:
            query = self.q_rms_norm(query)
        parts = [_attend(*sample) for sample in zip(query.split(seqlens), keys, values, strict=True)]
        return self.to_out((parts[0] if len(parts) == 1 else torch.cat(parts)).flatten(1))


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

    def forward(
        self,
        x: SparseTensor,
        modulation: Tensor | Modulation,
        cond: Tensor | SparseTensor,
        kept: KeptBlocks | None = None,
        choose: bool = True,
    ) -> SparseTensor:
        """One block.

        Args:
            x: feats [N, C].
            modulation: timestep embedding [B, C], or the projected vectors with ``shared_modulation``.
            cond: [b, L, cond channels] of the first b samples, the others have none; or sparse tokens.
            kept, choose: see ``core.nn.ssa.SpatialSparseAttention``.

        Returns:
            feats [N, C].
        """
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        by, samples = modulation, sample_rows(x)
        norm1, norm2, norm3 = self.norm1, self.norm2, self.norm3
        normed = modulated_norm(x.feats, by.shift_attention, by.scale_attention, samples=samples, eps=norm1.eps)
        out = self.self_attn(x.replace(normed), kept, choose).feats
        if isinstance(cond, Tensor) and cond.shape[0] == 0:  # one vector for all: nothing to normalise for it
            feats = gated_residual(x.feats, out, by.gate_attention, samples=samples)
            out = self.cross_attn(x, cond)
        else:
            feats, normed = gated_residual_norm(
                x.feats, out, by.gate_attention,
                weight=norm2.weight, bias=norm2.bias, samples=samples, eps=norm2.eps,
            )  # fmt: skip
            out = self.cross_attn(x.replace(normed), cond)
        feats, normed = gated_residual_norm(
            feats, out, None, by.shift_mlp, by.scale_mlp, samples=samples, eps=norm3.eps
        )
        return x.replace(gated_residual(feats, self.mlp(normed), by.gate_mlp, samples=samples))
