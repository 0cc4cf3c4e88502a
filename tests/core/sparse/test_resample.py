"""Pooling, spreading and subdivision: values, order, gradients, and bookkeeping that is built once."""

import pytest
import torch

from core.errors import InputError
from core.sparse.resample import SparseDownsample, SparseSubdivide, SparseUpsample
from core.sparse.tensor import SparseTensor
from tests.support.voxels import random_tensor


def test_a_mean_counts_one_zero_more():
    x = SparseTensor(torch.tensor([[3.0], [5.0]]), torch.tensor([[0, 0, 0, 0], [0, 1, 1, 1]], dtype=torch.int32))
    assert SparseDownsample(2)(x).feats.item() == pytest.approx(8 / 3)


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_pooling_against_a_loop(factor):
    x = random_tensor(300, 9)
    pooled = SparseDownsample(factor)(x)
    cells: dict = {}
    for row, feat in zip(x.coords.tolist(), x.feats, strict=True):
        cells.setdefault((row[0], *(v // factor for v in row[1:])), []).append(feat)
    assert [tuple(row) for row in pooled.coords.tolist()] == sorted(cells)
    expected = torch.stack([torch.stack(cells[cell]).sum(0) / (len(cells[cell]) + 1) for cell in sorted(cells)])
    torch.testing.assert_close(pooled.feats, expected)


def test_pooling_gradient():
    x = random_tensor(40, 4)
    feats = x.feats.double().requires_grad_()
    pool = SparseDownsample(2)
    weights = torch.randn_like(pool(x).feats)
    (pool(x.replace(feats)).feats * weights).sum().backward()
    counts = SparseUpsample(2)(pool(x.replace(torch.ones_like(x.feats))), x).feats  # n / (n + 1)
    expected = SparseUpsample(2)(pool(x).replace(weights), x).feats * (1 - counts)
    torch.testing.assert_close(feats.grad.float(), expected)


def test_the_second_layer_builds_nothing():
    x = random_tensor(100, 8)
    first, second = SparseDownsample(2)(x), SparseDownsample(2)(x.replace(x.feats * 2))
    assert first.cache is second.cache
    assert SparseSubdivide()(x).cache is SparseSubdivide()(x.replace(x.feats * 2)).cache


def test_half_precision_sums_in_float32():
    coords = torch.cartesian_prod(*[torch.arange(8)] * 3).to(torch.int32)
    coords = torch.cat([torch.zeros_like(coords[:, :1]), coords], dim=1)
    x = SparseTensor(torch.full((512, 1), 300.0, dtype=torch.float16), coords)  # 512 * 300 overflows float16
    assert SparseDownsample(8)(x).feats.item() == pytest.approx(300 * 512 / 513, rel=1e-3)


def test_children_in_order():
    x = random_tensor(20, 5)
    children = SparseSubdivide()(x)
    corners = [(i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    expected = [[b, 2 * x_ + i, 2 * y + j, 2 * z + k] for b, x_, y, z in x.coords.tolist() for i, j, k in corners]
    assert children.coords.tolist() == expected
    assert torch.equal(children.feats, x.feats.repeat_interleave(8, dim=0))
    ones = SparseDownsample(2)(children.replace(torch.ones_like(children.feats)))
    assert torch.equal(ones.coords, x.coords)
    torch.testing.assert_close(ones.feats, torch.full_like(ones.feats, 8 / 9))


def test_upsampling_gives_back_the_cell():
    x = random_tensor(100, 6)
    pooled = SparseDownsample(2)(x)
    spread = SparseUpsample(2)(pooled, x)
    for row, feat in zip(x.coords.tolist(), spread.feats, strict=True):
        cell = [row[0], *(v // 2 for v in row[1:])]
        assert torch.equal(feat, pooled.feats[pooled.coords.tolist().index(cell)])
    with pytest.raises(AssertionError, match="does not have the coordinates"):
        SparseUpsample(2)(x, x)


@pytest.mark.parametrize("n", [0, 1])
def test_few_voxels(n):
    x = SparseTensor(torch.ones(n, 2), torch.ones(n, 4, dtype=torch.int32) * torch.tensor([0, 1, 1, 1]).int())
    assert SparseDownsample(2)(x).num_voxels == n
    assert SparseSubdivide()(x).num_voxels == 8 * n


def test_children_beyond_32_bits_are_refused():
    x = SparseTensor(torch.ones(1, 1), torch.tensor([[0, 2**30, 0, 0]], dtype=torch.int32))
    with pytest.raises(InputError, match="32 bits"):
        SparseSubdivide()(x)
