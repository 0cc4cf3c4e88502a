"""Attention of every query to a few segments of keys: the walk that all branches of spatial sparse attention share.

Letters: N queries, L keys, H query heads, G key heads (each serves J = H / G query heads), D channels per head,
W key segments, S slots (segments per query and key head), P = N G S pairs of a query and a slot, T queries per item.

The walk goes by key segment, not by query: the pairs are sorted by segment and cut into *items* of at most T pairs
that share one segment, so that the work of many queries is one matrix product and no [N, L] matrix exists. A pair's
result is normalised within its segment; log-sum-exps then merge the S results of a query (online softmax).
Everything is computed in float32, whatever the dtype of the tensors.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ROWS_PER_ITEM = 192  # T * J: enough for an efficient product, few enough to fill
SCORES_PER_STEP = {"cpu": 2**19}  # attention scores alive at once; on a CPU they should stay in its cache
SCORES_PER_STEP_ACCELERATOR = 2**25
PAIR_VALUES_PER_CHUNK = 2**25  # float32 values of unmerged results alive at once (P * J * D)


def segment_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [L, G, D]
    v: Tensor,  # [L, G, D]
    segments: Tensor,  # [N, G, S] or [N, 1, S]: segments each query attends to, none twice; -1 is none
    cu_keys: Tensor,  # [W + 1]: segment w has the key positions cu_keys[w] .. cu_keys[w + 1] - 1
    key_order: Tensor | None = None,  # [L] key position -> row of k and v; None: the same
) -> tuple[Tensor, Tensor]:
    """Softmax attention, scaled by 1/sqrt(D), over the keys of all chosen segments together.

    Differentiable in q, k and v, through both results. A query without any key gets zeros and -inf.

    Returns:
        output [N, H, D] in the dtype of ``q``; natural log-sum-exp [H, N] float32.
    """
    groups = k.shape[1]
    assert q.shape[1] % groups == 0 and k.shape == v.shape and q.shape[2] == k.shape[2], (q.shape, k.shape, v.shape)
    assert segments.shape[0] == q.shape[0] and segments.shape[1] in (1, groups), tuple(segments.shape)
    segments = segments.expand(-1, groups, -1)
    out, lse = _SegmentAttention.apply(q, k, v, segments, cu_keys.long(), key_order)
    return out, lse.t()


class _Item(NamedTuple):
    """A step's worth of items: I of them, with keys padded to length L'."""

    pairs: Tensor  # [I * T] pair of each row, P where there is none
    queries: Tensor  # [I * T] row of the [N G, J D] query matrix, N G where there is none
    keys: Tensor  # [I * L'] row of the [L G, D] key matrix, L G where there is none
    bias: Tensor | None  # [I, 1, L'] -inf where there is no key; None if all are there


@dataclass(frozen=True)
class _Schedule:
    """The items of a range of queries, longest key segments first."""

    pairs: Tensor  # [I, T] int64
    key_head: Tensor  # [I] int64
    key_start: Tensor  # [I] int64
    key_length: Tensor  # [I] int64
    lengths: list[int]  # key_length, on the host

    def steps(self, slots: int, num_pairs: int, groups: int, num_keys: int, order: Tensor | None, rows: int):
        """Cut into steps of bounded scratch memory; ``rows`` is T * J."""
        device = self.pairs.device
        budget = SCORES_PER_STEP.get(device.type, SCORES_PER_STEP_ACCELERATOR)
        i, total = 0, sum(length > 0 for length in self.lengths)  # a segment without keys adds nothing
        while i < total:
            longest = self.lengths[i]
            j = min(total, i + max(1, budget // (rows * longest)))
            pairs = self.pairs[i:j].flatten()
            offsets = torch.arange(longest, device=device)
            keys = self.key_start[i:j, None] + offsets  # [I, L'] key positions
            missing = offsets >= self.key_length[i:j, None] if self.lengths[j - 1] < longest else None
            if order is not None:
                keys = order[keys.clamp_(max=num_keys - 1)]
            keys = keys * groups + self.key_head[i:j, None]
            bias = None
            if missing is not None:
                keys = keys.masked_fill_(missing, num_keys * groups)
                bias = torch.zeros(missing.shape, device=device).masked_fill_(missing, float("-inf"))[:, None]
            yield _Item(pairs, torch.div(pairs, slots, rounding_mode="floor"), keys.flatten(), bias)
            i = j


def _schedule(segments: Tensor, cu_keys: Tensor, queries_per_item: int) -> _Schedule:
    """Sort the pairs of ``segments`` [N, G, S] by key head and segment and cut them into items."""
    groups, num_segments, num_pairs = segments.shape[1], cu_keys.shape[0] - 1, segments.numel()
    device = segments.device
    head = torch.arange(groups, device=device)[:, None]
    family = torch.where(segments >= 0, segments.long() + head * num_segments, groups * num_segments).flatten()
    order = torch.argsort(family, stable=True)
    counts = torch.bincount(family, minlength=groups * num_segments + 1)[: groups * num_segments]
    starts = counts.cumsum(0) - counts
    lengths = cu_keys.diff().repeat(groups)
    by_length = torch.argsort(lengths, descending=True, stable=True)
    num_items = torch.div(counts + (queries_per_item - 1), queries_per_item, rounding_mode="floor")[by_length]
    item = by_length.repeat_interleave(num_items)  # [I] family of each item
    rank = torch.arange(item.shape[0], device=device) - (num_items.cumsum(0) - num_items).repeat_interleave(num_items)
    position = (starts[item] + rank * queries_per_item)[:, None] + torch.arange(queries_per_item, device=device)
    inside = position < (starts + counts)[item][:, None]
    pairs = torch.where(inside, order[position.clamp_(max=max(num_pairs - 1, 0))], num_pairs)
    start = cu_keys[:-1].repeat(groups)[item]
    length = lengths[item]
    return _Schedule(pairs, torch.div(item, num_segments, rounding_mode="floor"), start, length, length.tolist())


def _chunks(num_queries: int, values_per_query: int) -> Iterator[tuple[int, int]]:
    size = max(1, PAIR_VALUES_PER_CHUNK // max(values_per_query, 1))
    for start in range(0, num_queries, size):
        yield start, min(start + size, num_queries)


def _rows(x: Tensor, width: int) -> Tensor:
    """``x`` as a float32 matrix of rows of ``width`` values, with a row of zeros at the end."""
    flat = x.reshape(-1, width)
    out = torch.empty((flat.shape[0] + 1, width), dtype=torch.float32, device=x.device)
    out[:-1] = flat
    out[-1] = 0
    return out


class _SegmentAttention(torch.autograd.Function):
    """Forward keeps q, k, v, the output and its log-sum-exp; backward recomputes the scores."""

    @staticmethod
    def forward(ctx, q, k, v, segments, cu_keys, key_order):
        (n, h, d), (num_keys, groups, _) = q.shape, k.shape
        per_head, slots = h // groups, segments.shape[2]
        queries_per_item = max(1, ROWS_PER_ITEM // per_head)
        out = torch.empty((n, groups, per_head, d), dtype=torch.float32, device=q.device)
        lse = torch.empty((n, groups, per_head), dtype=torch.float32, device=q.device)
        schedules = []
        with torch.autocast(q.device.type, enabled=False):
            key_rows, value_rows = _rows(k, d), _rows(v, d)
            for a, b in _chunks(n, slots * h * d):
                schedule = _schedule(segments[a:b], cu_keys, queries_per_item)
                schedules.append(schedule)
                num_pairs = (b - a) * groups * slots
                query_rows = _rows(q[a:b], per_head * d).mul_(d**-0.5)
                pair_out = torch.zeros((num_pairs + 1, per_head * d), dtype=torch.float32, device=q.device)
                pair_lse = torch.full((num_pairs + 1, per_head), float("-inf"), device=q.device)
                rows = queries_per_item * per_head
                for item in schedule.steps(slots, num_pairs, groups, num_keys, key_order, rows):
                    scores = _scores(item, query_rows, key_rows, rows, d)  # [I, T J, L']
                    probabilities = torch.softmax(scores, dim=-1)
                    part_lse = scores.amax(-1) - probabilities.amax(-1).log_()  # the largest term is never tiny
                    values = value_rows.index_select(0, item.keys).view(scores.shape[0], -1, d)
                    part = torch.bmm(probabilities, values)
                    pair_out.index_copy_(0, item.pairs, part.view(-1, per_head * d))
                    pair_lse.index_copy_(0, item.pairs, part_lse.view(-1, per_head))
                out[a:b], lse[a:b] = _merge(
                    pair_out[:-1].view(b - a, groups, slots, per_head, d),
                    pair_lse[:-1].view(b - a, groups, slots, per_head),
                )
        out = out.view(n, h, d).to(q.dtype)
        lse = lse.view(n, h)
        ctx.save_for_backward(q, k, v, out, lse, key_order)
        ctx.schedules, ctx.slots = schedules, slots
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_lse):
        q, k, v, out, lse, key_order = ctx.saved_tensors
        (n, h, d), (num_keys, groups, _), slots = q.shape, k.shape, ctx.slots
        per_head = h // groups
        rows = max(1, ROWS_PER_ITEM // per_head) * per_head
        dq = torch.empty((n * groups, per_head * d), dtype=torch.float32, device=q.device)
        with torch.autocast(q.device.type, enabled=False):
            # d(score) = probability * (d(probability) - delta)
            delta = (grad_out.float() * out.float()).sum(-1) - grad_lse  # [N, H]
            lse = torch.where(lse.isfinite(), lse, 0.0)
            key_rows, value_rows = _rows(k, d), _rows(v, d)
            dk, dv = torch.zeros_like(key_rows), torch.zeros_like(value_rows)
            for (a, b), schedule in zip(_chunks(n, slots * h * d), ctx.schedules, strict=True):
                num_pairs = (b - a) * groups * slots
                query_rows = _rows(q[a:b], per_head * d).mul_(d**-0.5)
                grad_rows = _rows(grad_out[a:b], per_head * d)
                lse_rows, delta_rows = _rows(lse[a:b], per_head), _rows(delta[a:b], per_head)
                pair_dq = torch.zeros((num_pairs + 1, per_head * d), dtype=torch.float32, device=q.device)
                for item in schedule.steps(slots, num_pairs, groups, num_keys, key_order, rows):
                    query = query_rows.index_select(0, item.queries).view(-1, rows, d)
                    grad = grad_rows.index_select(0, item.queries).view(-1, rows, d)
                    key = key_rows.index_select(0, item.keys).view(query.shape[0], -1, d)
                    value = value_rows.index_select(0, item.keys).view(query.shape[0], -1, d)
                    minus_lse = lse_rows.index_select(0, item.queries).view(-1, rows, 1).neg_()
                    minus_delta = delta_rows.index_select(0, item.queries).view(-1, rows, 1).neg_()
                    p = torch.baddbmm(minus_lse, query, key.mT)
                    if item.bias is not None:
                        p += item.bias
                    p.exp_()
                    dv.index_add_(0, item.keys, torch.bmm(p.mT, grad).view(-1, d))
                    ds = torch.baddbmm(minus_delta, grad, value.mT).mul_(p)
                    dk.index_add_(0, item.keys, torch.bmm(ds.mT, query).view(-1, d))
                    pair_dq.index_copy_(0, item.pairs, torch.bmm(ds, key).view(-1, per_head * d))
                dq[a * groups : b * groups] = pair_dq[:-1].view(-1, slots, per_head * d).sum(1)
            dq *= d**-0.5
        dk, dv = (x[:-1].view(num_keys, groups, d) for x in (dk, dv))
        return dq.view(n, h, d).to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None


def _scores(item: _Item, query_rows: Tensor, key_rows: Tensor, rows: int, d: int) -> Tensor:
    """Scaled scores of a step's items [I, T J, L'], -inf where there is no key."""
    query = query_rows.index_select(0, item.queries).view(-1, rows, d)
    key = key_rows.index_select(0, item.keys).view(query.shape[0], -1, d)
    if item.bias is None:
        return torch.bmm(query, key.mT)
    return torch.baddbmm(item.bias, query, key.mT)


def _merge(pair_out: Tensor, pair_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge S partial results: [N, G, S, J, D] and [N, G, S, J] -> [N, G, J, D] and [N, G, J]."""
    if pair_lse.shape[2] == 1:
        return pair_out[:, :, 0], pair_lse[:, :, 0]
    lse = torch.logsumexp(pair_lse, dim=2)
    floor = lse.clamp(min=torch.finfo(lse.dtype).min)  # -inf - -inf would be NaN
    weight = torch.exp(pair_lse - floor[:, :, None])
    return (pair_out.mul_(weight[..., None])).sum(2), lse
