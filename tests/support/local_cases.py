"""Attention of tokens to chosen blocks and to windows: inputs of any block lengths, and what it must give.

Letters: N tokens, H query heads, G key heads, D channels per head, S blocks chosen per token.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCKS = ([1, 33, 7, 70, 2], [64, 5, 32])  # tokens of the blocks of two samples


@dataclass(frozen=True)
class LocalCase:
    """Tensors of one call, and their exact (float64) meaning."""

    q: Tensor  # [N, H, D]
    k: Tensor  # [N, G, D]
    v: Tensor  # [N, G, D]
    coarse: Tensor  # [N, H, D]
    gate: Tensor  # [N, 3] float32
    index: Tensor  # [G, N, S] int32
    cu_samples: Tensor  # int32, as all that follow
    cu_blocks: Tensor
    cu_windows: Tensor
    order: Tensor  # [N]: tokens grouped by window

    def to_blocks(self) -> Tensor:
        """[G, N, N]: whether a token chose the block of a key."""
        return (self.index[:, :, None, :] == owner(self.cu_blocks)[:, None]).any(-1)

    def to_window(self) -> Tensor:
        """[G, N, N]: whether a key lies in the window of a token."""
        window = torch.empty_like(self.order, dtype=torch.long)
        window[self.order.long()] = owner(self.cu_windows)
        return (window[:, None] == window).expand(self.index.shape[0], -1, -1)


def local_case(
    heads: int,
    groups: int,
    width: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    chosen: int = 3,
    blocks: tuple[list[int], ...] = BLOCKS,
    scale: float = 1.0,
) -> LocalCase:
    """Random tensors; about a tenth of the choices is none, and the first tokens choose nothing at all."""
    samples = torch.tensor([0, *(sum(lengths) for lengths in blocks)]).cumsum(0)
    cu_blocks = torch.tensor([0, *(n for lengths in blocks for n in lengths)]).cumsum(0)
    n = int(samples[-1])
    index = torch.full((groups, n, chosen), -1)
    first = 0
    for b, lengths in enumerate(blocks):
        rows = slice(int(samples[b]), int(samples[b + 1]))
        kept = min(chosen, len(lengths))
        shape = (groups, rows.stop - rows.start, len(lengths))
        index[:, rows, :kept] = torch.rand(shape).argsort(-1)[..., :kept] + first
        first += len(lengths)
    index[torch.rand(index.shape) < 0.1] = -1
    index[:, :5] = -1
    # Windows of one token up to many, never across samples.
    cuts = torch.cat([samples, torch.randint(0, n, (12,)), torch.tensor([1, 2])]).unique()
    order = torch.cat([torch.randperm(int(b - a)) + a for a, b in zip(samples[:-1], samples[1:], strict=True)])
    q, coarse = (torch.randn(n, heads, width).to(device, dtype) for _ in range(2))
    k, v = (torch.randn(n, groups, width).to(device, dtype) for _ in range(2))
    tables = (x.to(device, torch.int32) for x in (index, samples, cu_blocks, cuts, order))
    return LocalCase(q * scale, k, v, coarse, torch.rand(n, 3).to(device), *tables)


def attend(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [L, G, D]
    v: Tensor,  # [L, G, D]
    allowed: Tensor,  # [G, N, L]
) -> tuple[Tensor, Tensor]:
    """Masked attention in float64, differentiable: [N, H, D] and log-sum-exp in base 2, [N, H]."""
    per_head = q.shape[1] // k.shape[1]
    k, v = (x.double().repeat_interleave(per_head, 1) for x in (k, v))
    allowed = allowed.repeat_interleave(per_head, 0)
    scores = torch.einsum("nhd,lhd->hnl", q.double(), k) * q.shape[2] ** -0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    lse2 = torch.logsumexp(scores.detach(), -1).t().contiguous() / math.log(2.0)
    some = allowed.any(-1, keepdim=True)
    probabilities = torch.where(some, torch.softmax(torch.where(some, scores, 0.0), -1), 0.0)
    return torch.einsum("hnl,lhd->nhd", probabilities, v), lse2


def owner(offsets: Tensor) -> Tensor:
    """Number of the range that each row lies in: [0, 2, 5] -> [0, 0, 1, 1, 1]."""
    lengths = offsets.diff().long()
    return torch.arange(lengths.shape[0], device=offsets.device).repeat_interleave(lengths)


@contextmanager
def poisoned() -> Iterator[None]:
    """What ``torch.empty`` gives inside is NaN, or the largest integer."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(2).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(before)
