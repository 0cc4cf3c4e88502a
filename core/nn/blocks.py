"""The dense transformer block of the diffusion transformer.

Letters: B batch, b samples that have a condition (the first of the batch), N tokens, L condition tokens, C channels.
"""

from torch import Tensor, nn

from core.nn.attention import CrossAttention, SelfAttention
from core.nn.mlp import FeedForward
from core.nn.modulation import AdaLNModulation, Modulation
from core.nn.norm import LayerNorm32
from core.ops.modulated_norm import gated_residual, gated_residual_norm, modulated_norm


class ModulatedCrossBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each added to its input.

    The timestep shifts, scales and gates the first and the last (adaLN-Zero of DiT); the cross-attention
    in between has a learned norm and is left alone. With ``shared_modulation`` the block has no projection
    of its own and is given the projected values.
    """

    def __init__(
        self,
        width: int,
        cond_width: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qk_norm: bool = False,
        qk_norm_cross: bool = False,
        shared_modulation: bool = False,
    ):
        super().__init__()
        self.norm1 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.norm2 = LayerNorm32(width, eps=1e-6)
        self.norm3 = LayerNorm32(width, eps=1e-6, elementwise_affine=False)
        self.self_attn = SelfAttention(width, num_heads, qk_norm=qk_norm)
        self.cross_attn = CrossAttention(width, cond_width, num_heads, qk_norm=qk_norm_cross)
        self.mlp = FeedForward(width, mlp_ratio)
        self.adaLN_modulation = None if shared_modulation else AdaLNModulation(width)

    def forward(self, x: Tensor, modulation: Tensor | Modulation, cond: Tensor) -> Tensor:
        """One block.

        Args:
            x: [B, N, C].
            modulation: timestep embedding [B, C], or the projected vectors with ``shared_modulation``.
            cond: [b, L, cond channels] of the first b samples; the others have none, which counts as zeros.

        Returns:
            [B, N, C].
        """
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        by, (norm1, norm2, norm3) = modulation, (self.norm1, self.norm2, self.norm3)
        out = self.self_attn(modulated_norm(x, by.shift_attention, by.scale_attention, eps=norm1.eps))
        if cond.shape[0] == 0:  # one vector for all: there is nothing to normalise for it
            x = gated_residual(x, out, by.gate_attention)
            out = self.cross_attn(x, cond)
        else:
            x, normed = gated_residual_norm(
                x, out, by.gate_attention, weight=norm2.weight, bias=norm2.bias, eps=norm2.eps
            )
            out = self.cross_attn(normed, cond)
        x, normed = gated_residual_norm(x, out, None, by.shift_mlp, by.scale_mlp, eps=norm3.eps)
        return gated_residual(x, self.mlp(normed), by.gate_mlp)
