"""Norms per sample, in float32; the convolution module's names are those of the released weights."""

import pytest
import torch
import torch.nn.functional as F

from core.sparse.conv import SubmanifoldConv3d
from core.sparse.layers import SparseGroupNorm, SparseLayerNorm, SparseLinear, SparseSiLU
from core.sparse.resample import SparseSubdivide
from core.sparse.tensor import SparseTensor
from tests.support.voxels import random_tensor


def test_group_norm_is_per_sample():
    x = random_tensor(200, 8, channels=8)
    norm = SparseGroupNorm(4, 8)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    out = norm(x)
    for b in range(2):
        own = x.feats[x.batch_index == b].t()[None]  # [1, C, n]
        expected = F.group_norm(own, 4, norm.weight, norm.bias)[0].t()
        torch.testing.assert_close(out.feats[x.batch_index == b], expected)


def test_group_norm_of_one_voxel_and_of_none():
    norm = SparseGroupNorm(8, 8)
    one = SparseTensor(torch.randn(1, 8), torch.zeros(1, 4, dtype=torch.int32), batch_size=2)
    assert norm(one).feats.abs().max() < 1e-4  # each channel is its own mean; a rounding is divided by sqrt(eps)
    none = SparseTensor(torch.randn(0, 8), torch.zeros(0, 4, dtype=torch.int32))
    assert norm(none).feats.shape == (0, 8)


@pytest.mark.parametrize("layer", [SparseGroupNorm(2, 8), SparseLayerNorm(8)])
def test_norms_compute_in_float32(layer):
    x = random_tensor(100, 8, channels=8)
    x = x.replace(x.feats * 100 + 3000)  # squares overflow float16
    half = x.to(dtype=torch.float16)
    out = layer(half)
    assert out.dtype == torch.float16
    torch.testing.assert_close(out.feats.float(), layer(half.to(dtype=torch.float32)).feats, atol=2e-3, rtol=2e-3)


def test_layer_norm_with_half_weights():
    assert SparseLayerNorm(8).half()(random_tensor(9, 4, channels=8).to(dtype=torch.float16)).dtype == torch.float16


def test_voxelwise_layers():
    x = random_tensor(50, 6, channels=3)
    linear = SparseLinear(3, 5)
    assert torch.equal(linear(x).feats, F.linear(x.feats, linear.weight, linear.bias))
    assert torch.equal(SparseSiLU()(x).feats, F.silu(x.feats))
    assert linear(x).cache is x.cache


def test_names_and_shapes_of_parameters():
    shapes = {k: tuple(v.shape) for k, v in SubmanifoldConv3d(4, 6).state_dict().items()}
    assert shapes == {"conv.kernel": (27, 4, 6), "conv.bias": (6,)}
    shapes = {k: tuple(v.shape) for k, v in SubmanifoldConv3d(4, 6, kernel_size=1, bias=False).state_dict().items()}
    assert shapes == {"conv.kernel": (4, 6)}


def test_convolution_of_one_voxel_is_a_product():
    x = random_tensor(50, 6, channels=3)
    conv = SubmanifoldConv3d(3, 5, kernel_size=1)
    torch.testing.assert_close(conv(x).feats, x.feats @ conv.conv.kernel + conv.conv.bias)


def test_folded_convolution_is_that_of_the_children():
    x = random_tensor(80, 6, channels=3)
    conv = SubmanifoldConv3d(3, 5)
    torch.nn.init.normal_(conv.conv.bias)
    folded, plain = conv.forward_subdivided(x), conv(SparseSubdivide()(x))
    assert folded.cache is plain.cache
    torch.testing.assert_close(folded.feats, plain.feats)
