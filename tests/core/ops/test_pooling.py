"""Pooling into cells: every backend against the definition, values and gradients."""

import pytest
import torch

from core.ops.backend import Backend, use_backend
from core.ops.pooling import pool_cells


def cells_of(counts: list[int]):
    """Voxels in a random order that belong to cells of these sizes."""
    lengths = torch.tensor(counts)
    owner = torch.arange(len(counts)).repeat_interleave(lengths)
    inverse = owner[torch.randperm(len(owner))]
    order = torch.argsort(inverse, stable=True)
    return order, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]).int(), inverse


@pytest.mark.parametrize("which", [Backend.TORCH, Backend.TRITON], ids=lambda which: which.value)
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float16, 1e-3)], ids=str)
@pytest.mark.parametrize("channels", [1, 24, 130])
def test_every_backend_agrees_with_the_definition(which, dtype, tolerance, channels):
    if which is Backend.TRITON:
        pytest.importorskip("triton")
    order, cu_cells, inverse = cells_of([1, 40, 3, 32, 65, 2])
    feats = torch.randn(len(order), channels).to(dtype).requires_grad_()
    weights = torch.randn(6, channels)
    results = []
    for chosen in (which, Backend.REFERENCE):
        with use_backend(chosen):
            pooled = pool_cells(feats, order, cu_cells, inverse)
        assert pooled.dtype == dtype
        results.append((pooled, *torch.autograd.grad((pooled.float() * weights).sum(), feats)))
    for ours, theirs in zip(*results, strict=True):
        error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
        assert error < tolerance


def test_two_and_four_make_two():
    """The authors' mean counts a zero that is not there."""
    order, cu_cells, inverse = cells_of([2])
    assert pool_cells(torch.tensor([[2.0], [4.0]]), order, cu_cells, inverse).item() == 2.0
