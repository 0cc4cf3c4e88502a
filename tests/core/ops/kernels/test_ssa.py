"""The whole of spatial sparse attention through kernels: against float64 with the same blocks, output and gradients."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from core.config.models import SSAConfig
from core.nn.ssa import SpatialSparseAttention
from core.ops import ssa
from core.ops.backend import Backend, use_backend
from core.ops.kernels import launch
from core.sparse.tensor import SparseTensor
from tests.support.attention_cases import (
    exact_scores,
    make_case,
    oracle,
    random_inputs,
    random_voxels,
    relative_error,
)

SMALL = [(36, 16), (12, 12)]  # voxels and side of the cube, of each sample


def small_case(device, **sizes):
    return make_case([random_voxels(*sample) for sample in SMALL], device=device, **sizes)


def chosen_blocks(inputs, case, selected):
    with use_backend(Backend.TRITON):
        lse = ssa.compressed_attention(inputs[0], inputs[3], inputs[4], case.plan)[1]
        return ssa.select_blocks(inputs[0], inputs[3], lse, case.plan, selected)


@pytest.mark.parametrize(
    "heads, groups, width, cell, shift, dtype, tolerance",
    [
        pytest.param(32, 2, 32, 8, 4, torch.float16, 1.5e-3, id="released v1.1"),
        pytest.param(6, 2, 32, 8, 4, torch.float32, 1e-5, id="starter"),
        pytest.param(2, 2, 24, 2, 3, torch.float32, 1e-5, id="no shared heads, odd width, cells of 2"),
    ],
)
def test_output_and_gradients(device, heads, groups, width, cell, shift, dtype, tolerance):
    case = small_case(device, cell=cell, shift=shift)
    inputs = random_inputs(case, heads, groups, width, dtype)
    with use_backend(Backend.TRITON):
        out = ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, 3)
    expected = oracle(inputs, chosen_blocks(inputs, case, 3), case)
    towards = torch.randn(out.shape, device=device).to(dtype)
    ours = [out, *torch.autograd.grad(out, inputs, towards)]
    theirs = [expected, *torch.autograd.grad(expected, inputs, towards.double())]
    for name, a, b in zip(("out", "q", "k", "v", "kc", "vc", "gate"), ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == dtype
        assert relative_error(a, b) < tolerance, name


def test_every_chosen_block_is_among_the_best(device):
    case = small_case(device)
    inputs = random_inputs(case, 6, 2, 32, torch.float32, scale=3.0)
    index = chosen_blocks(inputs, case, 3)
    exact = exact_scores(inputs[0], inputs[3], case)
    best = exact.topk(3, dim=-1).values
    picked = torch.where(index >= 0, exact.gather(2, index.clamp(min=0).long()), -1.0)
    assert (picked.sort(-1, descending=True).values >= best * (1 - 1e-5) - 1e-12)[best >= 0].all()


class NoReading(TorchDispatchMode):
    """Refuses what reads from the device or sends fresh numbers to it: neither fits into a captured graph."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "lift_fresh", "equal.default")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        assert not any(word in name for word in self.FORBIDDEN), f"{name} inside a layer"
        assert "repeat_interleave" not in name or (kwargs or {}).get("output_size") is not None, name
        if "index.Tensor" in name or "index_put" in name:
            assert all(i is None or i.dtype is not torch.bool for i in args[1]), f"{name} by a mask"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("version, cell", [("v1", 8), ("v2", 4)])
def test_a_layer_reads_nothing_back_after_its_first_run(device, monkeypatch, version, cell):
    config = SSAConfig(
        num_heads=2,
        num_kv_heads=1,
        compression_block=cell,
        selection_block=8,
        selected_blocks=2,
        compression_version=version,
    )
    module = SpatialSparseAttention(64, config, shift=4).to(device)
    case = small_case(device, cell=cell)
    x = SparseTensor(torch.randn(len(case.coords), 64, device=device), case.coords.int(), batch_size=2)
    start = launch.run

    def run(*args, **options):
        with _disable_current_modes():  # the interpreter itself copies to and fro
            start(*args, **options)

    monkeypatch.setattr(launch, "run", run)
    with torch.no_grad(), use_backend(Backend.TRITON):
        first = module(x).feats
        with NoReading():
            second = module(x).feats
    assert torch.equal(first, second)


@pytest.mark.parametrize("op", ["compressed", "selected", "window"])
def test_each_branch_alone_is_that_of_torch(device, op):
    case = make_case([random_voxels(20, 12), random_voxels(8, 8)], device=device)
    q, k, v, kc, vc, _ = random_inputs(case, 2, 1, 16, torch.float32)
    index = torch.randint(0, 2, (1, len(case.coords), 1), device=device).int()
    inputs = [q, kc, vc] if op == "compressed" else [q, k, v]
    results = []
    for backend in (Backend.TRITON, Backend.TORCH):
        with use_backend(backend):
            if op == "compressed":
                outputs = list(ssa.compressed_attention(*inputs, case.plan))
            elif op == "selected":
                outputs = [ssa.selected_attention(*inputs, index, case.plan)]
            else:
                outputs = [ssa.window_attention(*inputs, case.windows)]
        loss = sum((x * torch.linspace(-1, 1, x.shape[-1], device=device)).sum() for x in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, inputs)])
    for ours, theirs in zip(*results, strict=True):
        assert relative_error(ours, theirs) < 1e-5
