"""Gradients of keys and values, of windows and of selected blocks, against float64.

Letters as in core.ops.kernels.key_gradients.
"""

from types import SimpleNamespace

import pytest
import torch

from core.ops.block_plan import WindowPlan
from core.ops.kernels import launch
from core.ops.kernels import selected_key_gradients as selected
from core.ops.kernels.selected_key_gradients import selected_key_gradients, token_lists
from core.ops.kernels.window_key_gradients import window_key_gradients
from tests.support.attention_cases import relative_error

TOLERANCE = {torch.float32: 1e-5, torch.float16: 1.5e-3}


def inputs(n: int, heads: int, groups: int, channels: int, dtype, device, scale: float = 1.0) -> list[torch.Tensor]:
    """q, k, v, grad_out and gate."""
    shapes = [(n, x, channels) for x in (heads, groups, groups, heads)]
    made = [torch.randn(shape).to(device, dtype) for shape in shapes]
    made[0] *= scale
    return [*made, torch.randn(n, 3).to(device)]


def oracle(tensors: list[torch.Tensor], allowed: torch.Tensor, column: int | None) -> SimpleNamespace:
    """In float64, given who attends to whom [G, N, N]: log-sum-exps, dots, and gradients of keys and values."""
    q, k, v, grad, gate = (x.detach().double() for x in tensors)
    k.requires_grad_(), v.requires_grad_()
    per_head, channels = q.shape[1] // k.shape[1], q.shape[2]
    scores = torch.einsum("nhd,lhd->hnl", q, k.repeat_interleave(per_head, 1)) * channels**-0.5
    scores = scores.masked_fill(~allowed.repeat_interleave(per_head, 0), float("-inf"))
    lse = scores.logsumexp(-1)  # [H, N]
    weights = torch.where(lse.isfinite()[..., None], torch.exp(scores - lse[..., None]), 0.0).nan_to_num()
    out = torch.einsum("hnl,lhd->nhd", weights, v.repeat_interleave(per_head, 1))
    dot = (out * grad).sum(-1)
    if column is not None:
        out = out * gate[:, column, None, None]
    dk, dv = torch.autograd.grad((out * grad).sum(), (k, v))
    lse2 = (lse.detach() / torch.log(torch.tensor(2.0))).t().float().contiguous()
    return SimpleNamespace(lse2=lse2, dot=dot.detach().float(), dk=dk, dv=dv)


def attend_blocks(index: torch.Tensor, block_of_token: torch.Tensor) -> torch.Tensor:
    return (index[:, :, None, :] == block_of_token[:, None]).any(-1)


def block_plan(sizes: list[int], device) -> tuple[SimpleNamespace, torch.Tensor]:
    """What the kernels need of a plan, and the block of every token."""
    from core.ops.block_plan import make_block_plan

    block = torch.arange(len(sizes), device=device).repeat_interleave(torch.tensor(sizes, device=device))
    return make_block_plan(torch.zeros_like(block), block, block, 1), block


def random_choices(groups: int, tokens: int, size: int, blocks: int, device) -> torch.Tensor:
    """Distinct blocks in any order, some of them none."""
    index = torch.rand(groups, tokens, blocks, device=device).argsort(-1)[..., :size].int()
    return torch.where(torch.rand(index.shape, device=device) < 0.2, -1, index)


def check_blocks(tensors, index, plan, block, gated=True, deterministic=True, tolerance=None):
    """Against float64, added to what was there."""
    want = oracle(tensors, attend_blocks(index, block), 1 if gated else None)
    *qkvg, gate = tensors
    before = torch.randn(2, *qkvg[1].shape, device=block.device)
    dk, dv = before.clone()
    selected_key_gradients(
        *qkvg, want.lse2, want.dot, gate if gated else None, index, plan, dk, dv, deterministic=deterministic
    )
    limit = tolerance or TOLERANCE[qkvg[0].dtype]
    assert relative_error(dk - before[0], want.dk) < limit
    assert relative_error(dv - before[1], want.dv) < limit
    return dk, dv


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("heads", "groups", "channels"), [(6, 2, 8), (16, 1, 32), (3, 3, 40)])
def test_selected_blocks(heads, groups, channels, dtype, device):
    plan, block = block_plan([1, 20, 3, 66], device)
    index = random_choices(groups, len(block), 2, 4, device)
    check_blocks(inputs(len(block), heads, groups, channels, dtype, device), index, plan, block, gated=channels != 8)


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_block_that_everybody_chose_is_cut_into_parts(deterministic, device, monkeypatch):
    monkeypatch.setattr(selected, "SHORTEST_PART", 16)
    plan, block = block_plan([5, 70, 1, 14], device)
    index = torch.full((2, len(block), 2), -1, dtype=torch.int32, device=device)
    index[:, :, 1] = 1
    index[0, ::3, 0] = 3
    index[1, 7, :] = -1  # a token that attends to nothing
    tensors = inputs(len(block), 4, 2, 16, torch.float32, device)
    first = check_blocks(tensors, index, plan, block, deterministic=deterministic)
    assert all(x.isfinite().all() for x in first)


def test_parts_are_longer_where_their_sums_would_take_too_much_memory(device, monkeypatch):
    taken = []
    run = launch.run
    monkeypatch.setattr(selected, "SHORTEST_PART", 16)
    monkeypatch.setattr(selected, "PARTIAL_BYTES", 2**16)
    monkeypatch.setattr(launch, "run", lambda *args, **options: (taken.append(args), run(*args, **options)))
    plan, block = block_plan([30, 66], device)
    index = torch.tensor([0, 1], dtype=torch.int32, device=device).expand(1, len(block), 2).contiguous()
    check_blocks(inputs(len(block), 2, 1, 16, torch.float32, device), index, plan, block)
    partial = next(x for x in taken[0] if isinstance(x, torch.Tensor) and x.dim() == 3 and x.shape[1:] == (2, 16))
    assert 0 < partial.numel() * 4 <= 2**16


def test_logits_near_a_hundred(device):
    plan, block = block_plan([20, 12], device)
    index = torch.tensor([0, 1], dtype=torch.int32, device=device).expand(1, 32, 2).contiguous()
    tensors = inputs(32, 2, 1, 16, torch.float32, device, scale=30.0)
    check_blocks(tensors, index, plan, block, tolerance=1e-4)  # rounding of the scores themselves, about 100 ulp


def test_lists_hold_every_choice_once_and_in_order(device):
    plan, block = block_plan([4, 1, 9, 6], device)
    index = random_choices(3, 20, 3, 4, device)
    lists = token_lists(index, plan, 2)
    first = lists.first_token.tolist()
    tokens = lists.tokens.tolist()
    parts, rows, seen = [], 0, 0
    for u in range(12):
        chosen = (index[u // 4] == u % 4).any(-1).nonzero()[:, 0].tolist()
        assert tokens[first[u] : first[u + 1]] == chosen
        count = -(-len(chosen) // 2)
        assert lists.first_part[u] == len(parts) and lists.first_row[u] == rows
        parts += [u] * count
        rows += count * [4, 1, 9, 6][u % 4] if count > 1 else 0
        seen += len(chosen)
    bound = lists.list_of_part.shape[0]
    assert lists.list_of_part.tolist() == parts + [12] * (bound - len(parts)) and lists.first_part[12] == len(parts)
    assert seen == int((index >= 0).sum())


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("heads", "groups", "channels", "dtype"),
    [(6, 2, 8, torch.float32), (16, 1, 32, torch.float16), (2, 2, 64, torch.float16), (2, 2, 64, torch.float32)],
)
def test_windows(heads, groups, channels, dtype, shuffled, device):
    window = torch.arange(4).repeat_interleave(torch.tensor([1, 35, 3, 66])).to(device)
    n = len(window)
    order = torch.randperm(n, device=device) if shuffled else torch.arange(n, device=device)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(n, device=device)
    cu = torch.tensor([0, 1, 36, 39, n], dtype=torch.int32, device=device)
    tensors = inputs(n, heads, groups, channels, dtype, device)
    gated = heads != 6
    own = window[inverse]
    want = oracle(tensors, (own[:, None] == own).expand(groups, -1, -1), 2 if gated else None)
    *qkvg, gate = tensors
    dk, dv = torch.full((2, n, groups, channels), torch.nan, device=device)
    plan = WindowPlan(order, inverse, cu, 66)
    window_key_gradients(*qkvg, want.lse2, want.dot, gate if gated else None, plan, dk, dv)
    assert relative_error(dk, want.dk) < TOLERANCE[dtype]
    assert relative_error(dv, want.dv) < TOLERANCE[dtype]


def test_nothing_to_do(device):
    plan, block = block_plan([2], device)
    tensors = inputs(2, 2, 1, 8, torch.float32, device)
    index = torch.full((1, 2, 3), -1, dtype=torch.int32, device=device)
    sums = torch.full((2, 2), -torch.inf, device=device), torch.zeros(2, 2, device=device)
    dk, dv = torch.ones(2, 2, 1, 8, device=device)
    selected_key_gradients(*tensors[:4], *sums, None, index, plan, dk, dv)
    selected_key_gradients(*tensors[:4], *sums, None, index[:, :, :0], plan, dk, dv)
    assert (dk == 1).all() and (dv == 1).all()
    none = [x[:0] for x in (*tensors[:4], *sums)]
    windows = WindowPlan(block[:0], block[:0], torch.zeros(1, dtype=torch.int32, device=device), 0)
    window_key_gradients(*none, None, windows, dk[:0], dv[:0])
