"""The dense transformer block of the diffusion transformer.

Letters: B batch, N tokens, L condition tokens, C channels.
"""

from torch import Tensor, nn

from core.nn.attention import CrossAttention, SelfAttention
from core.nn.mlp import FeedForward
from core.nn.modulation import AdaLNModulation, Modulation, modulate
from core.nn.norm import LayerNorm32


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
            cond: [B, L, cond channels].

        Returns:
            [B, N, C].
        """
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        by = modulation.spread(lambda vector: vector[:, None])  # [B, 1, C]
        x = x + by.gate_attention * self.self_attn(modulate(self.norm1(x), by.shift_attention, by.scale_attention))
        x = x + self.cross_attn(self.norm2(x), cond)
        return x + by.gate_mlp * self.mlp(modulate(self.norm3(x), by.shift_mlp, by.scale_mlp))
