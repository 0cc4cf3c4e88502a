"""The kernels of residual, norm and modulation against the reference in float64, and every gradient.

Letters as in core.ops.modulated_norm.
"""

import pytest
import torch

from core.ops.backend import Backend, use_backend
from core.ops.kernels import modulated_norm as kernels
from core.ops.modulated_norm import SampleRows, gated_residual, gated_residual_norm, modulated_norm

LENGTHS = {"one": [11], "uneven": [1, 0, 37, 5]}
TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True)
def many_programs(monkeypatch):
    monkeypatch.setattr(kernels, "ROWS_FORWARD", 3)  # several programs for a few rows
    monkeypatch.setattr(kernels, "ROWS_BACKWARD", 4)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory that kernels are given holds NaN: what they forget to write is seen."""
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: _poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: _poison(empty_like(*a, **k)))


def _poison(tensor):
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor


class Case:
    """Random arguments, on ``device`` in ``dtype``, and the same numbers in float64."""

    def __init__(self, device, dtype, channels, lengths=None, dense=None):
        self.samples = None
        if dense is not None:
            shape, batch = (*dense, channels), dense[0]
        else:
            shape, batch = (sum(lengths), channels), len(lengths)
            if batch > 1:
                counts = torch.tensor(lengths)
                cu = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
                index = torch.arange(batch).repeat_interleave(counts)
                self.samples = SampleRows(index.to(device), cu.to(device))
        projected = torch.randn(batch, 3 * channels).to(dtype)  # vectors are parts of one projection, as in adaLN
        self.names = ("x", "branch", "projected", "weight", "bias")
        values = (3 * torch.randn(shape) + 1).to(dtype), torch.randn(shape).to(dtype), projected
        values = *values, torch.randn(channels), torch.randn(channels)
        self.given = [value.to(device).requires_grad_() for value in values]
        self.wide = [value.double().to(device).requires_grad_() for value in values]

    def run(self, call, backend_, tensors):
        """Outputs and gradients of ``call(x, branch, gate, shift, scale, weight, bias)``."""
        x, branch, projected, weight, bias = tensors
        with use_backend(backend_):
            outputs = call(x, branch, *projected.chunk(3, -1), weight, bias)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(5)
        loss = sum((o.double() * torch.randn(o.shape, generator=generator).to(o.device)).sum() for o in outputs)
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        return outputs, gradients

    def check(self, call):
        ours, our_gradients = self.run(call, Backend.TRITON, self.given)
        theirs, their_gradients = self.run(call, Backend.REFERENCE, self.wide)
        for output in ours:
            assert output.dtype == self.given[0].dtype
        for name, a, b in zip(
            [*(f"out {i}" for i in range(len(ours))), *self.names],
            [*ours, *our_gradients], [*theirs, *their_gradients], strict=True,
        ):  # fmt: skip
            assert (a is None) == (b is None), name
            if a is not None:
                error = (a.double() - b).norm() / b.norm()
                assert error < TOLERANCE[self.given[0].dtype], f"{name}: {error:.2e}"


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
@pytest.mark.parametrize("lengths", list(LENGTHS.values()), ids=list(LENGTHS))
def test_gated_residual_then_modulated_norm(device, dtype, lengths):
    if dtype is torch.bfloat16 and device.type == "cpu":
        pytest.skip("Triton's interpreter has no bfloat16 arithmetic")
    case = Case(device, dtype, 48, lengths)
    case.check(lambda x, b, g, sh, sc, w, _: gated_residual_norm(x, b, g, sh, sc, samples=case.samples))


def test_norm_with_weights_of_a_dense_batch(device):
    case = Case(device, torch.float32, 40, dense=(2, 9))
    case.check(lambda x, b, g, sh, sc, w, bias: gated_residual_norm(x, b, g, weight=w, bias=bias))
    case.check(lambda x, b, g, sh, sc, w, bias: gated_residual_norm(x, b, None, sh, sc, weight=w, bias=bias))


def test_norm_alone_and_residual_alone(device):
    case = Case(device, torch.float32, 16, LENGTHS["uneven"])
    case.check(lambda x, b, g, sh, sc, w, _: modulated_norm(x, sh, sc, samples=case.samples))
    case.check(lambda x, b, g, sh, sc, w, bias: modulated_norm(x, weight=w, samples=case.samples))
    case.check(lambda x, b, g, sh, sc, w, _: gated_residual(x, b, g, samples=case.samples))
    case.check(lambda x, b, g, sh, sc, w, _: gated_residual_norm(x, b, samples=case.samples))


def test_a_branch_of_one_row_is_read_as_one_row(device):
    case = Case(device, torch.float32, 24, [10])
    case.check(lambda x, b, g, sh, sc, w, _: gated_residual_norm(x, b[3].expand(10, 24), g, sh, sc))


def test_wide_rows_far_from_zero(device):
    """4096 channels; a mean of 300 with deviation 1 would cost the variance its digits if squares were subtracted."""
    x = 300 + torch.randn(3, 4096, device=device)
    with use_backend(Backend.TRITON):
        ours = modulated_norm(x)
    with use_backend(Backend.REFERENCE):
        expected = modulated_norm(x.double())
    assert (ours - expected).norm() < 1e-4 * expected.norm()  # the input's own rounding


def test_what_no_kernel_is_for_runs_in_torch(device):
    for x in (torch.randn(2, 8, dtype=torch.float64), torch.randn(2, 4100)):
        with use_backend(Backend.TRITON):
            ours = modulated_norm(x.to(device))
        expected = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)
        torch.testing.assert_close(ours.cpu(), expected)


def test_no_rows_and_one_sum_for_every_run(device):
    empty = Case(device, torch.float32, 16, [0, 0])
    out, gradients = empty.run(
        lambda x, b, g, sh, sc, w, _: gated_residual_norm(x, b, g, sh, sc, samples=empty.samples),
        Backend.TRITON, empty.given,
    )  # fmt: skip
    assert out[0].shape == (0, 16) and not gradients[2].any()
    case = Case(device, torch.float32, 32, [19])
    both = [
        case.run(lambda x, b, g, sh, sc, w, _: gated_residual_norm(x, b, g, sh, sc), Backend.TRITON, case.given)[1]
        for _ in range(2)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*both, strict=True) if a is not None)
