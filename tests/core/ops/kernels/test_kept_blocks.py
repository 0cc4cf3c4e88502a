"""Kept choices of blocks through kernels: as in torch, without a run of the kernels that choose."""

import pytest
import torch

from core.ops import ssa
from core.ops.backend import Backend, use_backend
from core.ops.kept_blocks import KeptBlocks
from tests.support.attention_cases import make_case, oracle, random_inputs, random_voxels, relative_error


def attention(inputs, case, **how):
    with torch.inference_mode(), use_backend(Backend.TRITON):
        return ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, 2, **how)


def test_a_choice_serves_other_tokens(device, monkeypatch):
    case = make_case([random_voxels(20, 24)], device=device)
    first, then = (random_inputs(case, 4, 2, 16, torch.float32, scale=3.0) for _ in range(2))
    kept = KeptBlocks()
    assert relative_error(attention(first, case, kept=kept), oracle(first, kept.index, case)) < 1e-5
    monkeypatch.setattr(ssa._kernels(), "select", lambda *_: pytest.fail("chose blocks"))
    out = attention(then, case, kept=kept, choose=False)
    assert relative_error(out, oracle(then, kept.index, case)) < 1e-5
