"""Spatial sparse attention on a real GPU: against float64, in every dtype, at the edges of what it takes.

The same comparisons as in tests/core/ops/kernels, at sizes that the interpreter cannot reach.
"""

import pytest
import torch

from core.config.models import SSAConfig
from core.nn.ssa import SpatialSparseAttention
from core.ops import ssa
from core.ops.backend import Backend, backend_report, use_backend
from core.sparse.tensor import SparseTensor
from tests.support.attention_cases import (
    exact_scores,
    make_case,
    oracle,
    random_inputs,
    random_voxels,
    relative_error,
)

pytestmark = pytest.mark.gpu
TOLERANCE = {torch.float32: 1e-5, torch.float16: 1.5e-3, torch.bfloat16: 6e-3}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)


@pytest.fixture(autouse=True)
def triton_and_poisoned_memory():
    """Kernels for everything; memory that nobody wrote to is NaN; the last device of the machine."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with use_backend(Backend.TRITON):
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def last():
    return torch.device("cuda", torch.cuda.device_count() - 1)


def shell(radius: float, side: int) -> torch.Tensor:
    """A spherical surface two voxels thick: [n, 3]."""
    axis = torch.arange(side)
    xyz = torch.cartesian_prod(axis, axis, axis)
    return xyz[((xyz + 0.5 - side / 2).norm(dim=1) - radius).abs() < 1]


def full_cube(side: int) -> torch.Tensor:
    axis = torch.arange(side)
    return torch.cartesian_prod(axis, axis, axis)


def compare(inputs, case, selected, dtype, **options):
    """Output and all gradients against float64 with the blocks that the kernels chose."""
    out = ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, selected, **options)
    lse = ssa.compressed_attention(inputs[0], inputs[3], inputs[4], case.plan)[1]
    index = ssa.select_blocks(inputs[0], inputs[3], lse, case.plan, selected)
    expected = oracle(inputs, index, case)
    towards = torch.randn(out.shape, device=out.device).to(dtype)
    ours = [out, *torch.autograd.grad(out, inputs, towards)]
    theirs = [expected, *torch.autograd.grad(expected, inputs, towards.double())]
    for name, a, b in zip(("out", "q", "k", "v", "kc", "vc", "gate"), ours, theirs, strict=True):
        assert relative_error(a, b) < TOLERANCE[dtype], f"{name}: {relative_error(a, b):.2e}"
    return index


def test_doctor_says_triton(last):
    lines = backend_report(last)
    assert {line.backend for line in lines} == {Backend.TRITON}, lines


@DTYPES
@pytest.mark.parametrize("cell, selected", [(8, 8), (4, 8), (4, 32)], ids=["v1.1", "v1.0", "v1.0 at 512"])
@pytest.mark.parametrize("shift", [0, 4])
def test_released_sizes(last, dtype, cell, selected, shift):
    case = make_case([shell(11.0, 28), shell(6.0, 20)], cell=cell, shift=shift, device=last)
    inputs = random_inputs(case, 32, 2, 32, dtype)
    index = compare(inputs, case, selected, dtype)
    exact = exact_scores(inputs[0], inputs[3], case)
    count = min(selected, exact.shape[2])
    least = exact.topk(count, -1).values[..., -1:]
    picked = torch.where(index >= 0, exact.gather(2, index.clamp(min=0).long()), 2.0)
    slack = 1e-5 if dtype is torch.float32 else 1e-2
    assert (picked >= least * (1 - slack)).all(), "a block was chosen that is not among the best"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("heads, groups, width", [(6, 2, 32), (16, 2, 64), (8, 8, 64), (4, 1, 128), (6, 3, 40)])
def test_other_heads(last, dtype, heads, groups, width):
    case = make_case([shell(9.0, 24)], device=last)
    compare(random_inputs(case, heads, groups, width, dtype), case, 8, dtype)


@DTYPES
def test_blocks_of_one_and_of_512_tokens_and_a_window_across_samples(last, dtype):
    sparse = 8 * random_voxels(200, 16)  # one token in each block
    case = make_case([full_cube(16), sparse, torch.tensor([[3, 3, 3]])], window=6, shift=3, device=last)
    compare(random_inputs(case, 32, 2, 32, dtype), case, 12, dtype)


@DTYPES
def test_more_blocks_wanted_than_there_are(last, dtype):
    case = make_case([random_voxels(300, 16), random_voxels(30, 8)], device=last)
    index = compare(random_inputs(case, 32, 2, 32, dtype), case, 16, dtype)
    assert (index == -1).any()


@DTYPES
def test_logits_near_a_hundred(last, dtype):
    case = make_case([shell(9.0, 24)], device=last)
    inputs = random_inputs(case, 32, 2, 32, dtype, scale=20.0)
    compare(inputs, case, 8, dtype)


def test_ties_go_to_the_lower_block(last):
    case = make_case([shell(11.0, 28)], device=last)
    inputs = random_inputs(case, 32, 2, 32, torch.float16)
    zero = [torch.zeros_like(x) for x in inputs]
    lse = ssa.compressed_attention(zero[0], zero[3], zero[4], case.plan)[1]
    index = ssa.select_blocks(zero[0], zero[3], lse, case.plan, 8)
    assert torch.equal(index, torch.arange(8, device=last, dtype=torch.int32).expand_as(index))


def test_a_block_that_everybody_chooses(last):
    """Its gradients are one long sum: as exact as any other, and the same in every run."""
    case = make_case([shell(14.0, 34)], device=last)
    inputs = random_inputs(case, 32, 2, 32, torch.float16)
    with torch.no_grad():
        inputs[3][3] += 4 * inputs[0].float().mean((0, 1)).half() + 1
    compare(inputs, case, 1, torch.float16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_run_gives_the_same_bits(last, dtype):
    case = make_case([shell(20.0, 44)], device=last)
    inputs = random_inputs(case, 32, 2, 32, dtype)
    runs = []
    for _ in range(2):
        out = ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, 8)
        runs.append([out, *torch.autograd.grad(out, inputs, torch.ones_like(out))])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_the_fast_mode_is_as_exact(last):
    case = make_case([shell(11.0, 28)], device=last)
    compare(random_inputs(case, 32, 2, 32, torch.float16), case, 8, torch.float16, deterministic=False)


def test_a_layer_in_a_graph_is_the_layer(last):
    config = SSAConfig(num_heads=32, num_kv_heads=2, compression_block=8, selection_block=8, selected_blocks=8)
    module = SpatialSparseAttention(1024, config, shift=4).to(last, torch.float16)
    case = make_case([shell(20.0, 44)], device=last)
    x = SparseTensor(torch.randn(len(case.coords), 1024, device=last).half(), case.coords.int(), batch_size=1)
    with torch.no_grad(), torch.cuda.device(last):
        eager = module(x).feats.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            module(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = module(x).feats
        graph.replay()
        torch.cuda.synchronize()
    assert torch.equal(captured, eager)


def test_memory_at_131k_tokens(last):
    """Beyond inputs and outputs: at most 2 GB forward, 4 GB backward."""
    torch.use_deterministic_algorithms(False)  # filling memory would count its own
    xyz = shell(72.2, 150)
    case = make_case([xyz], device=last)
    inputs = random_inputs(case, 32, 2, 32, torch.bfloat16)
    frozen = [x.detach() for x in inputs]
    assert 120_000 < len(xyz) < 140_000, len(xyz)

    def beyond(run) -> float:
        run()
        torch.cuda.synchronize(last)
        torch.cuda.reset_peak_memory_stats(last)
        before = torch.cuda.memory_allocated(last)
        results = run()
        kept = sum(x.numel() * x.element_size() for x in results)
        return (torch.cuda.max_memory_allocated(last) - before - kept) / 2**30

    def forward():
        return [ssa.spatial_sparse_attention(*frozen, case.plan, case.windows, 8)]

    def both():
        out = ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, 8)
        return [out, *torch.autograd.grad(out, inputs, torch.ones_like(out))]

    assert beyond(forward) < 2
    assert beyond(both) < 4
