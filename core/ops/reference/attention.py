"""Attention under a mask, written out: the specification of ``core.ops.attention``.

Letters: N queries, L keys, H query heads, G key heads, D channels per head, W key segments, S slots.
"""

import torch
from torch import Tensor


def masked_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [L, G, D], key head g serves the query heads g * H / G ...
    v: Tensor,  # [L, G, D]
    allowed: Tensor,  # [G, N, L] bool: which keys a query may see
) -> tuple[Tensor, Tensor]:
    """Softmax attention scaled by 1/sqrt(D): output [N, H, D] in the dtype of ``q``, log-sum-exp [H, N] float32.

    A query that may see no key gets zeros and -inf.
    """
    heads, groups = q.shape[1], k.shape[1]
    k, v, allowed = (
        x.repeat_interleave(heads // groups, dim) for x, dim in ((k.float(), 1), (v.float(), 1), (allowed, 0))
    )  # one key head for each query head
    scores = torch.einsum("nhd,lhd->hnl", q.float(), k) * q.shape[2] ** -0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    lse = torch.logsumexp(scores, dim=-1)  # [H, N]
    probabilities = torch.exp(scores - lse.clamp(min=torch.finfo(lse.dtype).min)[:, :, None])
    return torch.einsum("hnl,lhd->nhd", probabilities, v).to(q.dtype), lse


def segment_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [L, G, D]
    v: Tensor,  # [L, G, D]
    segments: Tensor,  # [N, G, S] or [N, 1, S], -1 is none
    cu_keys: Tensor,  # [W + 1]
    key_order: Tensor | None = None,  # [L] key position -> row of k and v
) -> tuple[Tensor, Tensor]:
    """See ``core.ops.attention.segment_attention``."""
    num_keys, groups = k.shape[:2]
    position = torch.arange(num_keys, device=q.device)
    segment_of_position = torch.searchsorted(cu_keys.long(), position, right=True) - 1
    segment_of_key = segment_of_position
    if key_order is not None:
        segment_of_key = torch.empty_like(segment_of_position)
        segment_of_key[key_order] = segment_of_position
    chosen = segments.expand(-1, groups, -1).transpose(0, 1)  # [G, N, S]
    allowed = (chosen[:, :, None, :] == segment_of_key[:, None]).any(-1)  # [G, N, L]
    return masked_attention(q, k, v, allowed)
