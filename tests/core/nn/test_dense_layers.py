"""Norms, embeddings and dense attention against their formulas; dtypes in and out."""

import math

import pytest
import torch
import torch.nn.functional as F

from core.nn.attention import CrossAttention, SelfAttention
from core.nn.embedding import AbsolutePositionEmbedder, TimestepEmbedder
from core.nn.norm import ChannelLayerNorm32, GroupNorm32, LayerNorm32, MultiHeadRMSNorm
from core.nn.precision import set_compute_dtype


@pytest.mark.parametrize("width, frequencies", [(1024, 170), (512, 85), (72, 12), (7, 1)])
def test_position_embedding(width, frequencies):
    positions = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.5, 127.0]])
    out = AbsolutePositionEmbedder(width)(positions)
    assert out.shape == (2, width) and out.dtype == torch.float32
    for axis in range(3):
        for j in (0, frequencies - 1):
            angle = positions[1, axis].item() * 10000 ** (-j / frequencies)
            column = axis * 2 * frequencies + j
            assert out[1, column] == pytest.approx(math.sin(angle), abs=1e-4)
            assert out[1, column + frequencies] == pytest.approx(math.cos(angle), abs=1e-4)
    assert not out[:, 6 * frequencies :].any()


def test_timestep_embedding_has_cosines_first():
    embedder = TimestepEmbedder(256)
    embedder.mlp = torch.nn.Sequential(torch.nn.Linear(256, 256))
    torch.nn.init.eye_(embedder.mlp[0].weight)
    torch.nn.init.zeros_(embedder.mlp[0].bias)
    out = embedder(torch.tensor([0.0, 980.5])).detach()
    assert out[0, :128].eq(1).all() and not out[0, 128:].any()
    angle = 980.5 * math.exp(-math.log(10000) * 5 / 128)
    assert out[1, 5] == pytest.approx(math.cos(angle), abs=1e-4)
    assert out[1, 133] == pytest.approx(math.sin(angle), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "norm, shape",
    [
        (LayerNorm32(12), (3, 12)),
        (LayerNorm32(12, elementwise_affine=False, eps=1e-6), (3, 12)),
        (ChannelLayerNorm32(12), (2, 12, 3, 3, 3)),
        (GroupNorm32(4, 12), (2, 12, 3, 3, 3)),
        (MultiHeadRMSNorm(3, 4), (5, 3, 4)),
    ],
)
def test_norms_compute_in_float32_and_keep_the_dtype(norm, shape, dtype):
    x = 300 * torch.randn(shape) + 100  # squares overflow float16
    expected = norm(x)
    out = norm(x.to(dtype))
    assert out.dtype == dtype and out.isfinite().all()
    assert (out.float() - expected).norm() < 0.02 * expected.norm()


def test_channel_norm_is_per_voxel_and_rms_norm_has_length_sqrt_d():
    x = torch.randn(2, 12, 3, 3, 3)
    torch.testing.assert_close(ChannelLayerNorm32(12)(x)[1, :, 0, 1, 2], F.layer_norm(x[1, :, 0, 1, 2], (12,)))
    lengths = MultiHeadRMSNorm(3, 4)(torch.randn(5, 3, 4)).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.full((5, 3), 2.0))


@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention_written_out(qk_norm):
    x, cond = torch.randn(2, 5, 12), torch.randn(2, 7, 9)
    own, cross = SelfAttention(12, 3, qk_norm=qk_norm), CrossAttention(12, 9, 3, qk_norm=qk_norm)

    def heads(y):
        return y.unflatten(-1, (3, 4)).transpose(1, 2)

    def expected(layer, q, k, v):
        q, k, v = heads(q), heads(k), heads(v)
        if qk_norm:
            q, k = (F.normalize(y, dim=-1) * 2 for y in (q, k))
        return layer.to_out(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))

    torch.testing.assert_close(own(x), expected(own, *own.to_qkv(x).split(12, -1)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        cross(x, cond), expected(cross, cross.to_q(x), *cross.to_kv(cond).split(12, -1)), rtol=1e-4, atol=1e-5
    )


def test_compute_dtype_leaves_norms_and_tables_alone():
    class Sparse(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = torch.nn.Parameter(torch.zeros(27, 2, 2))
            self.bias = torch.nn.Parameter(torch.zeros(2))

    model = torch.nn.ModuleDict(
        {"conv": torch.nn.Conv3d(1, 1, 3), "sparse": Sparse(), "norm": LayerNorm32(4), "rms": MultiHeadRMSNorm(2, 2)}
    )
    assert set_compute_dtype(model, torch.float16) is model
    halves = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float16}
    assert halves == {"conv.weight", "conv.bias", "sparse.kernel", "sparse.bias"}
