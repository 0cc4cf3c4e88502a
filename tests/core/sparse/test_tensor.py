"""Sparse tensor: layout, shared bookkeeping, dense form, batches; bad coordinates are refused clearly."""

import pytest
import torch

from core.errors import InputError
from core.sparse.tensor import SparseTensor, concat


def two_samples() -> SparseTensor:
    coords = torch.tensor([[0, 0, 1, 2], [0, 3, 0, 0], [0, 3, 3, 3], [1, 2, 2, 2]], dtype=torch.int32)
    return SparseTensor(torch.arange(8.0).view(4, 2), coords)


def test_layout():
    x = two_samples()
    assert (x.batch_size, x.num_voxels, x.channels) == (2, 4, 2)
    assert x.seqlens == [3, 1]
    assert x.cu_seqlens.tolist() == [0, 3, 4] and x.cu_seqlens.dtype == torch.int32
    assert x.batch_index.tolist() == [0, 0, 0, 1]


def test_empty_samples_have_a_place():
    x = two_samples()
    wider = SparseTensor(x.feats, x.coords, batch_size=4)
    assert wider.seqlens == [3, 1, 0, 0]
    assert wider.cu_seqlens.tolist() == [0, 3, 4, 4, 4]
    assert wider.sample(2).num_voxels == 0


def test_no_voxels():
    x = SparseTensor(torch.zeros(0, 3), torch.zeros(0, 4, dtype=torch.int32))
    assert x.batch_size == 1 and x.seqlens == [0] and x.cu_seqlens.tolist() == [0, 0]
    assert x.to_dense(2).shape == (1, 3, 2, 2, 2)


def test_bookkeeping_is_built_once_and_shared():
    x, calls = two_samples(), []
    for y in (x, x.replace(x.feats * 2), x.to(dtype=torch.float16)):
        assert y.cache.get("thing", lambda: calls.append(1) or "made") == "made"
    assert calls == [1]


def test_per_voxel_and_sample():
    x = two_samples()
    assert x.per_voxel(torch.tensor([[1.0], [2.0]])).flatten().tolist() == [1, 1, 1, 2]
    alone = x.sample(1)
    assert alone.batch_size == 1 and alone.coords.tolist() == [[0, 2, 2, 2]]
    assert torch.equal(alone.feats, x.feats[3:])
    assert x.sample(1).cache is alone.cache
    assert alone.per_voxel(torch.ones(1, 5)).shape == (1, 5)


def test_concat_undoes_sample():
    x = two_samples()
    again = concat([x.sample(0), x.sample(1)])
    assert torch.equal(again.coords, x.coords) and torch.equal(again.feats, x.feats) and again.batch_size == 2


def test_to_dense():
    x = two_samples()
    dense = x.to_dense(4, fill=-1.0)
    b, i, j, k = x.coords.long().unbind(1)
    assert torch.equal(dense[b, :, i, j, k], x.feats)
    assert int((dense == -1).sum()) == dense.numel() - x.feats.numel()
    with pytest.raises(InputError, match="outside a grid of side 3"):
        x.to_dense(3)


def test_coordinates_are_checked():
    negative = SparseTensor(torch.zeros(1, 1), torch.tensor([[0, 0, -1, 0]], dtype=torch.int32))
    with pytest.raises(InputError, match="must not be negative"):
        _ = negative.cache.extent
    with pytest.raises(InputError, match="32 bits"):
        SparseTensor(torch.zeros(1, 1), torch.tensor([[0, 2**31, 0, 0]]))
    mixed = SparseTensor(torch.zeros(2, 1), torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.int32))
    with pytest.raises(AssertionError, match="ascending batch"):
        _ = mixed.seqlens
    with pytest.raises(AssertionError, match="feature rows"):
        SparseTensor(torch.zeros(2, 1), torch.zeros(1, 4, dtype=torch.int32))
