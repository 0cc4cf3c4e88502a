"""Spatial sparse attention (Direct3D-S2, section 3.2) on plain tensors: the whole, and its four operations.

Letters: N tokens, M cells (occupied compression blocks), W occupied selection blocks, B samples, H query heads,
G key heads (head g serves the query heads g H / G ..), D channels per head, S selected blocks per token.
All scores are scaled by 1/sqrt(D). Arithmetic is float32 in every dtype.
"""

import importlib
from types import ModuleType

import torch
from torch import Tensor

from core.ops.attention import segment_attention
from core.ops.backend import Backend, backend_for
from core.ops.block_plan import BlockPlan, CellLayers, WindowPlan
from core.ops.kept_blocks import KeptBlocks, blocks_of
from core.ops.reference import ssa as reference

SCORES_PER_STEP = {"cpu": 2**20}  # scores of tokens against cells alive at once
SCORES_PER_STEP_ACCELERATOR = 2**27


def spatial_sparse_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    kc: Tensor,  # [M, G, D] pooled keys
    vc: Tensor,  # [M, G, D] pooled values
    gate: Tensor,  # [N, 3] weights of the three branches: cells, selected blocks, window
    plan: BlockPlan,
    windows: WindowPlan,
    num_selected: int,
    *,
    deterministic: bool = True,
    kept: KeptBlocks | None = None,
    choose: bool = True,
) -> Tensor:
    """The three branches below and their sum weighted by ``gate``. Returns [N, H, D].

    With ``deterministic`` off, kernels may add up the gradients of keys and values in any order, which is faster.
    ``kept`` receives the choice of blocks; with ``choose`` off it is what an earlier call left there, without a look at
    the scores. Both without gradients only.
    """
    assert choose or kept is not None, "without a choice of its own a layer needs a kept one"
    assert kept is None or not torch.is_grad_enabled(), "choices of blocks are kept without gradients only"
    if backend_for("spatial_sparse_attention", q.device) is Backend.TRITON:
        return _kernels().spatial_sparse_attention(
            q, k, v, kc, vc, gate, plan, windows, num_selected,
            deterministic=deterministic, kept=kept, choose=choose,
        )  # fmt: skip
    coarse, lse = compressed_attention(q, kc, vc, plan)
    chosen = blocks_of(kept, choose, lambda: select_blocks(q, kc, lse, plan, num_selected))
    fine = selected_attention(q, k, v, chosen, plan)
    local = window_attention(q, k, v, windows)
    gate = gate[:, :, None, None]  # [N, 3, 1, 1]
    return gate[:, 0] * coarse + gate[:, 1] * fine + gate[:, 2] * local


def compressed_attention(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    vc: Tensor,  # [M, G, D]
    plan: BlockPlan,
) -> tuple[Tensor, Tensor]:
    """Every token attends to all cells of its sample: output [N, H, D] and natural log-sum-exp [H, N] float32."""
    backend = backend_for("compressed_attention", q.device)
    if backend is Backend.REFERENCE:
        return reference.compressed_attention(q, kc, vc, plan)
    if backend is Backend.TRITON:
        return _kernels().compressed_attention(q, kc, vc, plan)
    samples = torch.arange(plan.cu_seqlens.shape[0] - 1, device=q.device)
    sample_of_token = samples.repeat_interleave(plan.cu_seqlens.diff().long(), output_size=q.shape[0])
    return segment_attention(q, kc, vc, sample_of_token[:, None, None], plan.cu_cells)


def select_blocks(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    lse: Tensor,  # [H, N] float32, of compressed_attention
    plan: BlockPlan,
    num_selected: int,
) -> Tensor:
    """The blocks that each token attends to most, summed over a block's cells and the query heads of a key head.

    Exact; of equal blocks the one with the lower number wins. No gradient.

    Returns:
        [G, N, S] int32 block numbers (running through the batch), ascending, then -1 where a sample has fewer.
    """
    q, kc, lse = q.detach(), kc.detach(), lse.detach()
    backend = backend_for("select_blocks", q.device)
    if backend is Backend.REFERENCE:
        return reference.select_blocks(q, kc, lse, plan, num_selected)
    if backend is Backend.TRITON:
        return _kernels().select_blocks(q, kc, lse, plan, num_selected)
    groups = kc.shape[1]
    out = torch.full((groups, q.shape[0], num_selected), -1, dtype=torch.int32, device=q.device)
    with torch.no_grad(), torch.autocast(q.device.type, enabled=False):
        for b, layers in enumerate(plan.layers):
            first, end = plan.sample_blocks[b : b + 2]
            start, stop = plan.sample_tokens[b : b + 2]
            kept = min(num_selected, end - first)
            if kept == end - first:  # no choice to make
                out[:, start:stop, :kept] = torch.arange(first, end, dtype=torch.int32, device=q.device)
                continue
            budget = SCORES_PER_STEP.get(q.device.type, SCORES_PER_STEP_ACCELERATOR)
            size = max(1, budget // (q.shape[1] * (end - first)))
            keys = [kc[cells].float().permute(1, 2, 0) for cells in layers.cells]  # each [G, D, blocks]
            for a in range(start, stop, size):
                z = min(a + size, stop)
                scores = _block_scores(q[a:z], keys, lse[:, a:z], layers)
                out[:, a:z, :kept] = top_blocks(scores, kept).to(torch.int32) + first
    return out


def selected_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    block_index: Tensor,  # [G, N, S] int, -1 is none
    plan: BlockPlan,
) -> Tensor:
    """Every token attends to all tokens of its selected blocks together. Returns [N, H, D]."""
    backend = backend_for("selected_attention", q.device)
    if backend is Backend.REFERENCE:
        return reference.selected_attention(q, k, v, block_index, plan)
    if backend is Backend.TRITON:
        return _kernels().selected_attention(q, k, v, block_index, plan)
    return segment_attention(q, k, v, block_index.transpose(0, 1), plan.cu_blocks)[0]


def window_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    windows: WindowPlan,
) -> Tensor:
    """Every token attends to the tokens of its window. Returns [N, H, D]."""
    backend = backend_for("window_attention", q.device)
    if backend is Backend.REFERENCE:
        return reference.window_attention(q, k, v, windows)
    if backend is Backend.TRITON:
        return _kernels().window_attention(q, k, v, windows)
    lengths = windows.cu_seqlens.diff().long()
    number = torch.arange(windows.num_windows, device=q.device)
    window_of_token = torch.empty_like(windows.order)
    window_of_token[windows.order] = number.repeat_interleave(lengths, output_size=len(window_of_token))
    return segment_attention(q, k, v, window_of_token[:, None, None], windows.cu_seqlens, windows.order)[0]


def _kernels() -> ModuleType:
    """The Triton side, imported where it runs: Triton need not be installed."""
    return importlib.import_module("core.ops.kernels.ssa")


def _block_scores(q: Tensor, keys: list[Tensor], lse: Tensor, layers: CellLayers) -> Tensor:
    """Probability mass of every block: q [n, H, D] of one sample, lse [H, n] -> [G, n, blocks] float32."""
    (n, heads, d), groups = q.shape, keys[0].shape[0]
    per_head = heads // groups
    query = (q.float() * d**-0.5).view(n, groups, per_head, d).permute(1, 2, 0, 3).reshape(groups, per_head * n, d)
    minus_lse = -lse.reshape(groups, per_head * n, 1)
    mass = torch.zeros((groups, n, keys[0].shape[2]), device=q.device)
    for key in keys:
        probabilities = torch.baddbmm(minus_lse, query, key).exp_()  # at most 1: no overflow
        mass[:, :, : key.shape[2]] += probabilities.view(groups, per_head, n, -1).sum(1)
    return mass if layers.column is None else mass.index_select(2, layers.column)


def top_blocks(
    scores: Tensor,  # [..., W], at least ``count`` columns
    count: int,
) -> Tensor:
    """Columns of the ``count`` highest scores, ascending; of equals the lower one. Returns [..., count] int64."""
    flat = torch.nan_to_num(scores.reshape(-1, scores.shape[-1]))
    threshold = flat.topk(count, dim=-1).values.amin(-1, keepdim=True)  # the last that gets in
    chosen = flat >= threshold
    crowded = (chosen.sum(-1) > count).nonzero()[:, 0]  # ties at the threshold
    if crowded.numel():
        above = flat[crowded] > threshold[crowded]
        tied = flat[crowded] == threshold[crowded]
        room = count - above.sum(-1, keepdim=True)
        chosen[crowded] = above | (tied & (tied.cumsum(-1) <= room))
    return chosen.nonzero()[:, 1].view(*scores.shape[:-1], count)
