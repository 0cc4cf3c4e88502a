"""Spatial sparse attention written out with one mask for all tokens: the specification of ``core.ops.ssa``.

Quadratic in the number of tokens. Letters as in ``core.ops.ssa``; so are the arguments.
"""

import torch
from torch import Tensor

from core.ops.block_plan import BlockPlan, WindowPlan
from core.ops.reference.attention import masked_attention


def compressed_attention(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    vc: Tensor,  # [M, G, D]
    plan: BlockPlan,
) -> tuple[Tensor, Tensor]:
    """Attention to every cell of the same sample: [N, H, D] and log-sum-exp [H, N]."""
    same_sample = _owner(plan.cu_seqlens)[:, None] == _owner(plan.cu_cells)  # [N, M]
    return masked_attention(q, kc, vc, same_sample.expand(kc.shape[1], -1, -1))


def select_blocks(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    lse: Tensor,  # [H, N]
    plan: BlockPlan,
    num_selected: int,
) -> Tensor:
    """Blocks with the largest probability mass, lower number first among equals: [G, N, S] int32, -1 padded."""
    groups, per_head = kc.shape[1], q.shape[1] // kc.shape[1]
    keys = kc.float().repeat_interleave(per_head, dim=1)
    scores = torch.einsum("nhd,mhd->hnm", q.float(), keys) * q.shape[2] ** -0.5
    probabilities = torch.exp(scores - lse[:, :, None])  # [H, N, M]
    per_group = probabilities.unflatten(0, (groups, per_head)).sum(1)  # [G, N, M]
    num_blocks = plan.cu_blocks.shape[0] - 1
    mass = torch.zeros((*per_group.shape[:2], num_blocks), device=q.device)
    mass.index_add_(2, plan.block_of_cell, per_group)
    same_sample = _owner(plan.cu_seqlens)[:, None] == _owner(plan.cu_sample_blocks)  # [N, W]
    mass = mass.masked_fill(~same_sample, -1.0)
    best = torch.sort(mass, dim=-1, descending=True, stable=True)
    kept = torch.where(best.values >= 0, best.indices, num_blocks)[:, :, :num_selected].sort(-1).values
    index = torch.full((*per_group.shape[:2], num_selected), -1, dtype=torch.int32, device=q.device)
    index[:, :, : kept.shape[2]] = torch.where(kept < num_blocks, kept, -1).to(torch.int32)
    return index


def selected_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    block_index: Tensor,  # [G, N, S]
    plan: BlockPlan,
) -> Tensor:
    """Attention to every token of the selected blocks: [N, H, D]."""
    block = _owner(plan.cu_blocks)  # [N]
    allowed = (block_index[:, :, None, :] == block[:, None]).any(-1)  # [G, N, N]
    return masked_attention(q, k, v, allowed)[0]


def window_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    windows: WindowPlan,
) -> Tensor:
    """Attention to every token of the same window: [N, H, D]."""
    window = torch.empty_like(windows.order)
    window[windows.order] = _owner(windows.cu_seqlens)
    same_window = window[:, None] == window
    return masked_attention(q, k, v, same_window.expand(k.shape[1], -1, -1))[0]


def _owner(offsets: Tensor) -> Tensor:
    """Index of the range that each row lies in: [0, 2, 5] -> [0, 0, 1, 1, 1], int64."""
    lengths = offsets.diff().long()
    return torch.arange(lengths.shape[0], device=offsets.device).repeat_interleave(lengths)
