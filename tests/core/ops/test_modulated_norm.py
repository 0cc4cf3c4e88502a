"""Residual, norm and modulation in torch: the numbers that separate layers give, and the reference's gradients."""

import pytest
import torch

from core.nn.norm import LayerNorm32
from core.ops.backend import Backend, use_backend
from core.ops.modulated_norm import SampleRows, gated_residual, gated_residual_norm, modulated_norm

C = 24
INDEX = torch.tensor([0, 0, 0, 2, 2, 2, 2])  # the second of three samples is empty
SAMPLES = SampleRows(INDEX, torch.tensor([0, 3, 3, 7], dtype=torch.int32))


def arguments(dtype=torch.float32):
    """x, branch [7, C]; gate, shift, scale [3, C]."""
    return [torch.randn(shape).to(dtype) for shape in [(7, C)] * 2 + [(3, C)] * 3]


@pytest.mark.parametrize("recorded", [False, True], ids=["inference", "with gradients"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_the_bits_of_separate_layers(dtype, recorded):
    x, branch, gate, shift, scale = arguments(dtype)
    given = [tensor.clone() for tensor in (x, branch, gate, shift, scale)]
    plain, learned = LayerNorm32(C, eps=1e-6, elementwise_affine=False), LayerNorm32(C, eps=1e-5)
    torch.nn.init.normal_(learned.weight)
    with torch.set_grad_enabled(recorded):
        stream, normed = gated_residual_norm(x, branch, gate, shift, scale, samples=SAMPLES)
        again = gated_residual(x, branch, gate, samples=SAMPLES)
        third = gated_residual_norm(x, branch, weight=learned.weight, bias=learned.bias, samples=SAMPLES, eps=1e-5)
        first = modulated_norm(x.clone(), shift, scale, samples=SAMPLES)
    assert all(torch.equal(a, b) for a, b in zip((x, branch, gate, shift, scale), given, strict=True))
    expected = x + gate[INDEX] * branch
    factor = (1 + scale).to(dtype)[INDEX]
    assert torch.equal(stream, expected) and torch.equal(again, expected)
    assert torch.equal(normed, plain(expected) * factor + shift[INDEX])
    assert torch.equal(first, plain(x) * factor + shift[INDEX])
    assert torch.equal(third[0], x + branch) and torch.equal(third[1], learned(x + branch))


def test_a_dense_batch_and_one_sample_without_tables():
    x, branch, gate, shift, scale = arguments()
    dense = gated_residual_norm(x.expand(3, 7, C), branch.expand(3, 7, C), gate, shift, scale)
    for b in range(3):
        one = gated_residual_norm(x, branch, *(vectors[b : b + 1] for vectors in (gate, shift, scale)))
        assert all(torch.equal(d[b], o) for d, o in zip(dense, one, strict=True))


def test_gradients_are_those_of_the_reference():
    tensors = [tensor.requires_grad_() for tensor in arguments()]
    affine = [torch.randn(C, requires_grad=True) for _ in range(2)]
    found = []
    for backend in (Backend.TORCH, Backend.REFERENCE):
        with use_backend(backend):
            stream, normed = gated_residual_norm(*tensors, samples=SAMPLES)
            other = modulated_norm(stream, weight=affine[0], bias=affine[1], samples=SAMPLES)
        loss = (stream.square() + normed.sin() + other.cos()).sum()
        found.append([stream, normed, other, *torch.autograd.grad(loss, [*tensors, *affine])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_vectors_of_another_number_of_samples_are_refused():
    x, branch, gate, shift, scale = arguments()
    with pytest.raises(AssertionError, match="for 1 samples"):
        modulated_norm(x, shift, scale)
    with pytest.raises(AssertionError, match="come together"):
        modulated_norm(x, shift[:1])
