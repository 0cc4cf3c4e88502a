"""Attention to pooled cells: the kernel against attention in float64.

Letters as in core.ops.kernels.compressed.
"""

import pytest
import torch

from core.ops.kernels import compressed
from core.ops.kernels.compressed import compressed_forward, compressed_tile_size
from core.ops.tiles import make_tiles

TOLERANCE = {torch.float32: 1e-6, torch.float16: 1.5e-3}


def forward(q, kc, vc, cu_seqlens, cu_cells):
    tiles = make_tiles(cu_seqlens, compressed_tile_size(q, kc.shape[1]))
    return compressed_forward(q, kc, vc, tiles, cu_cells)


def in_float64(q, kc, vc, cu_seqlens, cu_cells):
    """Output and log-sum-exp in base 2, sample by sample."""
    per_head = q.shape[1] // kc.shape[1]
    q, kc, vc = q.double(), *(x.double().repeat_interleave(per_head, 1) for x in (kc, vc))
    out, lse2 = torch.zeros_like(q), q.new_full(q.shape[:2], -torch.inf)
    for b in range(len(cu_cells) - 1):
        rows, cells = slice(*cu_seqlens[b : b + 2].tolist()), slice(*cu_cells[b : b + 2].tolist())
        if cells.start == cells.stop:
            continue
        scores = torch.einsum("nhd,mhd->nhm", q[rows], kc[cells]) * q.shape[2] ** -0.5
        out[rows] = torch.einsum("nhm,mhd->nhd", scores.softmax(-1), vc[cells])
        lse2[rows] = scores.logsumexp(-1) / torch.log(torch.tensor(2.0, dtype=torch.float64))
    return out, lse2


def assert_close(ours, exact, tolerance):
    assert not ours.isnan().any()
    finite = exact.isfinite()
    assert torch.equal(finite, ours.isfinite())
    error = (ours.double() - exact)[finite].norm() / exact[finite].norm()
    assert error < tolerance, f"{error:.2e}"


def random_heads(device, dtype, *shape):
    return torch.randn(*shape, device=device).to(dtype)


def offsets(device, *values):
    return torch.tensor(values, dtype=torch.int32, device=device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "heads, groups, channels",
    [(32, 2, 32), (6, 2, 8), (3, 1, 40), (2, 2, 64)],
    ids=["shipped", "3 heads a key head", "40 channels", "no grouping"],
)
def test_forward_in_float64(device, dtype, heads, groups, channels):
    cu_seqlens, cu_cells = offsets(device, 0, 13, 14, 20, 23), offsets(device, 0, 66, 67, 67, 131)
    q = random_heads(device, dtype, 23, heads, channels)
    kc, vc = (random_heads(device, dtype, 131, groups, channels) for _ in range(2))
    out, lse2 = forward(q, kc, vc, cu_seqlens, cu_cells)
    assert out.dtype == dtype and lse2.dtype == torch.float32
    assert (out[14:20] == 0).all() and (lse2[14:20] == -torch.inf).all()  # a sample without cells
    exact = in_float64(q, kc, vc, cu_seqlens, cu_cells)
    assert_close(out, exact[0], TOLERANCE[dtype])
    assert_close(lse2, exact[1], 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_far_beyond_the_range_of_exp(device, dtype):
    cu_seqlens, cu_cells = offsets(device, 0, 9), offsets(device, 0, 70)
    q, kc = 40 * random_heads(device, dtype, 9, 4, 16), 40 * random_heads(device, dtype, 70, 2, 16)
    vc = random_heads(device, dtype, 70, 2, 16)
    out, lse2 = forward(q, kc, vc, cu_seqlens, cu_cells)
    exact = in_float64(q, kc, vc, cu_seqlens, cu_cells)
    assert lse2.max() > 2000
    assert_close(out, exact[0], max(TOLERANCE[dtype], 2e-3))  # a score of 4000 has an absolute error of 2e-4
    assert_close(lse2, exact[1], 1e-6)


def test_more_heads_than_rows_of_a_tile(device, monkeypatch):
    small = compressed.ForwardShape(16, 16, 4, 1)
    monkeypatch.setattr(compressed, "forward_shape", lambda q: small)
    q, kc, vc = (random_heads(device, torch.float32, n, h, 16) for n, h in ((5, 40), (30, 2), (30, 2)))
    assert compressed_tile_size(q, 2) == 1  # 20 heads a key head: two parts, the second partly filled
    cu_seqlens, cu_cells = offsets(device, 0, 5), offsets(device, 0, 30)
    out, lse2 = forward(q, kc, vc, cu_seqlens, cu_cells)
    exact = in_float64(q, kc, vc, cu_seqlens, cu_cells)
    assert_close(out, exact[0], 1e-6)
    assert_close(lse2, exact[1], 1e-6)


def test_bitwise_the_same_twice(device):
    q, kc, vc = (random_heads(device, torch.float16, n, h, 32) for n, h in ((9, 32), (70, 2), (70, 2)))
    cu_seqlens, cu_cells = offsets(device, 0, 9), offsets(device, 0, 70)
    first, second = (forward(q, kc, vc, cu_seqlens, cu_cells) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_nothing_for_no_tokens(device):
    q, kc = random_heads(device, torch.float32, 0, 4, 16), random_heads(device, torch.float32, 3, 2, 16)
    out, lse2 = forward(q, kc, kc, offsets(device, 0, 0), offsets(device, 0, 3))
    assert out.shape == (0, 4, 16) and lse2.shape == (0, 4)
