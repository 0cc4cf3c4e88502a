"""Products of a gradient with the branches' results, and the gradient of the gates, against float64."""

import pytest
import torch

from core.ops.kernels.row_dots import row_dots
from tests.support.attention_cases import relative_error
from tests.support.local_cases import poisoned


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("n", "heads", "width"), [(9, 32, 32), (33, 6, 24), (1, 80, 64)])
def test_dots_and_gate_gradients(n, heads, width, dtype, device):
    grad, *parts = (torch.randn(n, heads, width).to(device, dtype) for _ in range(4))
    parts[1] = None
    with poisoned():
        dots, gate_gradient = row_dots(grad, tuple(parts))
    assert dots.shape == (3, n, heads) and gate_gradient.shape == (n, 3)
    assert dots.dtype == gate_gradient.dtype == torch.float32
    for b, part in enumerate(parts):
        exact = torch.zeros(n, heads, device=device) if part is None else (grad.double() * part.double()).sum(-1)
        assert relative_error(dots[b], exact) < 1e-6
        assert relative_error(gate_gradient[:, b], exact.sum(1)) < 3e-6


def test_no_tokens(device):
    dots, gate_gradient = row_dots(torch.zeros(0, 4, 16, device=device), (None, None, None))
    assert dots.shape == (3, 0, 4) and gate_gradient.shape == (0, 3)
