"""Dense multi-head attention: of a sequence to itself, and to a condition.

Letters: B batch, b samples that have a condition (the first of the batch), N tokens, L condition tokens, C channels,
H heads, D channels per head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.norm import MultiHeadRMSNorm


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention scaled by 1/sqrt(D). query [B, N, H, D], key and value [B, L, H, D] -> [B, N, H * D]."""
    heads_first = (x.transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(*heads_first).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Every token attends to all tokens of its sample."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.to_qkv = nn.Linear(width, 3 * width)
        self.to_out = nn.Linear(width, width)
        self.q_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None
        self.k_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None

    def forward(self, x: Tensor) -> Tensor:
        """x [B, N, C] -> [B, N, C]."""
        query, key, value = self.to_qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(2)  # each [B, N, H, D]
        if self.q_rms_norm is not None:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        return self.to_out(attend(query, key, value))


class CrossAttention(nn.Module):
    """Every token attends to all condition tokens of its sample.

    A sample without a condition counts as one whose tokens are all zero (the unconditional branch of guidance). All
    its keys are then equal and all its values are the bias, so that every token gets the same vector.
    """

    def __init__(self, width: int, cond_width: int, num_heads: int, *, qk_norm: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(cond_width, 2 * width)  # keys first
        self.to_out = nn.Linear(width, width)
        self.q_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None
        self.k_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x [B, N, C], cond [b, L, cond channels] of the first b samples -> [B, N, C]."""
        conditioned = cond.shape[0]
        assert conditioned <= x.shape[0], f"conditions of {conditioned} samples for {x.shape[0]}"
        if conditioned == 0:
            return self.without_condition().expand(*x.shape[:-1], -1)
        query = self.to_q(x[:conditioned]).unflatten(-1, (self.num_heads, -1))  # [b, N, H, D]
        key, value = self.to_kv(cond).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each [b, L, H, D]
        if self.q_rms_norm is not None:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        out = self.to_out(attend(query, key, value))
        if conditioned == x.shape[0]:
            return out
        return torch.cat([out, self.without_condition().expand(x.shape[0] - conditioned, *out.shape[1:])])

    def without_condition(self) -> Tensor:
        """What every token of a sample without a condition gets, [C]: attention to zeros, which are the bias alone."""
        return self.to_out(self.to_kv.bias.chunk(2)[1])
