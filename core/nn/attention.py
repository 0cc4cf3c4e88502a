"""Dense multi-head attention: of a sequence to itself, and to a condition.

Letters: B batch, N tokens, L condition tokens, C channels, H heads, D channels per head.
"""

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
    """Every token attends to all condition tokens of its sample."""

    def __init__(self, width: int, cond_width: int, num_heads: int, *, qk_norm: bool = False):
        super().__init__()
        self.num_heads = num_heads
        self.to_q = nn.Linear(width, width)
        self.to_kv = nn.Linear(cond_width, 2 * width)  # keys first
        self.to_out = nn.Linear(width, width)
        self.q_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None
        self.k_rms_norm = MultiHeadRMSNorm(num_heads, width // num_heads) if qk_norm else None

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """x [B, N, C], cond [B, L, cond channels] -> [B, N, C]."""
        query = self.to_q(x).unflatten(-1, (self.num_heads, -1))  # [B, N, H, D]
        key, value = self.to_kv(cond).unflatten(-1, (2, self.num_heads, -1)).unbind(2)  # each [B, L, H, D]
        if self.q_rms_norm is not None:
            query, key = self.q_rms_norm(query), self.k_rms_norm(key)
        return self.to_out(attend(query, key, value))
