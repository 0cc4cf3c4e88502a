"""Gradients of pooled keys and values: the kernel against autograd in float64.

Letters as in core.ops.kernels.compressed_backward.
"""

import math

import pytest
import torch

from core.ops.block_plan import make_block_plan
from core.ops.kernels import compressed_backward
from core.ops.kernels.compressed_backward import compressed_key_gradients

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3}


def plan_of(device, *samples):
    """Samples of (tokens, cells), one block each cell; tokens spread over the cells."""
    parts = [(b, torch.arange(n) * m // n) for b, (n, m) in enumerate(samples)]
    sample = torch.cat([torch.full_like(cell, b) for b, cell in parts])
    base = torch.tensor([0, *[m for _, m in samples]]).cumsum(0)
    cell = torch.cat([base[b] + cell for b, cell in parts])
    return make_block_plan(sample.to(device), cell.to(device), cell.to(device), len(samples))


def in_float64(q, kc, vc, grad_out, gate, plan):
    """(lse2, row_dot, dkc, dvc) of the attention times its gate; grad_out is of that product."""
    per_head = q.shape[1] // kc.shape[1]
    leaves = [x.double().requires_grad_() for x in (kc, vc)]
    q, k, v = q.double(), *(x.repeat_interleave(per_head, 1) for x in leaves)
    tokens, cells = plan.cu_seqlens.tolist(), plan.cu_cells.tolist()
    outputs, lse2 = [], []
    for b in range(len(tokens) - 1):
        rows, keys = slice(*tokens[b : b + 2]), slice(*cells[b : b + 2])
        scores = torch.einsum("nhd,mhd->nhm", q[rows], k[keys]) * q.shape[2] ** -0.5
        outputs.append(torch.einsum("nhm,mhd->nhd", scores.softmax(-1), v[keys]))
        lse2.append(scores.logsumexp(-1) / math.log(2))
    out, grad_out = torch.cat(outputs), grad_out.double()
    weight = 1.0 if gate is None else gate[:, 0].double()[:, None, None]
    grads = torch.autograd.grad((weight * out * grad_out).sum(), leaves)
    return torch.cat(lse2).detach().float(), (out * grad_out).sum(-1).detach().float(), *grads


def run(device, dtype, heads, groups, channels, samples, gated, deterministic=True):
    """Gradients of the kernel and exact ones."""
    plan = plan_of(device, *samples)
    tokens, cells = plan.sample_tokens[-1], int(plan.cu_cells[-1])
    q, grad_out = (torch.randn(tokens, heads, channels, device=device).to(dtype) for _ in range(2))
    kc, vc = (torch.randn(cells, groups, channels, device=device).to(dtype) for _ in range(2))
    gate = torch.randn(tokens, 3, device=device) if gated else None
    lse2, row_dot, *exact = in_float64(q, kc, vc, grad_out, gate, plan)
    ours = compressed_key_gradients(q, kc, vc, grad_out, lse2, row_dot, gate, plan, deterministic)
    return ours, exact


def assert_close(ours, exact, tolerance):
    for mine, theirs in zip(ours, exact, strict=True):
        assert mine.dtype == torch.float32 and mine.shape == theirs.shape and not mine.isnan().any()
        error = (mine.double() - theirs).norm() / theirs.norm()
        assert error < tolerance, f"{error:.2e}"


@pytest.fixture(params=["one chunk", "many chunks"])
def chunks(request, monkeypatch):
    """Chunks of tokens as they are, and so short that every tile has several."""
    if request.param == "many chunks":
        monkeypatch.setattr(compressed_backward, "LEAST_TOKENS", 1)
        monkeypatch.setattr(compressed_backward, "PROGRAMS", 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "heads, groups, channels, gated",
    [(32, 2, 32, True), (6, 2, 8, False), (3, 1, 40, True), (2, 2, 64, False)],
    ids=["shipped", "3 heads a key head", "40 channels", "no grouping"],
)
def test_gradients_in_float64(device, chunks, dtype, heads, groups, channels, gated):
    ours, exact = run(device, dtype, heads, groups, channels, [(37, 33), (1, 1), (30, 7)], gated)
    assert_close(ours, exact, TOLERANCE[dtype])


def test_atomic_mode(device, chunks):
    ours, exact = run(device, torch.float32, 6, 2, 16, [(37, 33), (30, 7)], True, deterministic=False)
    assert_close(ours, exact, 2e-6)


def test_more_heads_than_rows_of_a_tile(device, monkeypatch):
    small = compressed_backward.BackwardShape(16, 16, 4, 1)
    monkeypatch.setattr(compressed_backward, "backward_shape", lambda q: small)
    ours, exact = run(device, torch.float32, 40, 2, 16, [(5, 20)], True)  # 20 heads a key head: two parts
    assert_close(ours, exact, 2e-6)


def test_bitwise_the_same_twice(device, monkeypatch):
    monkeypatch.setattr(compressed_backward, "LEAST_TOKENS", 1)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(run(device, torch.float16, 4, 2, 16, [(70, 20)], True)[0])
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_items_cover_every_meeting_of_cells_and_tokens_once(device, monkeypatch):
    monkeypatch.setattr(compressed_backward, "LEAST_TOKENS", 4)
    monkeypatch.setattr(compressed_backward, "PROGRAMS", 20)
    samples = [(50, 40), (3, 3), (90, 17)]
    plan = plan_of(device, *samples)
    items = compressed_backward.key_items(plan, keys=16, tokens=4, groups=2)
    met = torch.zeros(60, 143, dtype=torch.int32)
    for tile, first, last in zip(
        items.tile.tolist(), items.first_token.tolist(), items.last_token.tolist(), strict=True
    ):
        assert first < last and (first - plan.sample_tokens[int(items.tiles.segment[tile])]) % 4 == 0
        met[int(items.tiles.start[tile]) : int(items.tiles.stop[tile]), first:last] += 1
    same = torch.arange(3).repeat_interleave(torch.tensor([40, 3, 17]))[:, None] == torch.arange(3).repeat_interleave(
        torch.tensor([50, 3, 90])
    )
    assert torch.equal(met, same.int())
    counts = torch.bincount(items.tile.cpu(), minlength=len(items.tiles))
    assert torch.equal(items.cu_items.diff().cpu().long(), counts) and bool((items.tile.diff() >= 0).all())
    assert 10 <= len(items) <= 20  # about PROGRAMS / groups
    assert compressed_backward.key_items(plan, keys=16, tokens=4, groups=2) is items
