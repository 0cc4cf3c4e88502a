"""Attention ops: torch against the quadratic reference, forward and gradients; selection is exact.

Letters as in core.ops.ssa. Cells are the (x, y, z) // 4 cubes, blocks the // 8 cubes of a random shell.
"""

import pytest
import torch

from core.errors import ConfigError
from core.ops import attention, ssa
from core.ops.backend import OPS, Backend, backend_report, use_backend
from core.ops.block_plan import BlockPlan
from core.ops.reference import attention as reference_attention
from tests.support.attention_cases import make_case, random_inputs, random_voxels

H, G, D = 6, 2, 8


def plan_of(samples: list[int], side: int = 32, cell: int = 4) -> tuple[BlockPlan, torch.Tensor]:
    """The plan of random voxels, and their cells."""
    case = make_case([random_voxels(count, side) for count in samples], cell=cell)
    return case.plan, case.cell_of_token


def random_heads(count: int, heads: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(count, heads, D).to(dtype).requires_grad_()


def assert_same(run, inputs: list[torch.Tensor], tolerance: float = 2e-5) -> None:
    """``run()`` gives the same tensors, and the same gradients of ``inputs``, in torch as in the reference."""
    results = []
    for backend in (Backend.TORCH, Backend.REFERENCE):
        with use_backend(backend):
            outputs = run()
        generator = torch.Generator().manual_seed(1)
        loss = sum((x.float() * torch.randn(x.shape, generator=generator)).sum() for x in outputs)
        results.append([*outputs, *torch.autograd.grad(loss, inputs)])
    for i, (ours, theirs) in enumerate(zip(*results, strict=True)):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        error = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert error < tolerance, f"tensor {i}: {error:.2e}"


@pytest.fixture(params=["one step", "many steps"])
def scratch(request, monkeypatch):
    """The ops at their usual scratch sizes, and at sizes that cut everything into many pieces."""
    if request.param == "many steps":
        monkeypatch.setattr(attention, "SCORES_PER_STEP", {"cpu": 4000})
        monkeypatch.setattr(attention, "ROWS_PER_ITEM", 7)
        monkeypatch.setattr(attention, "PAIR_VALUES_PER_CHUNK", 5000)
        monkeypatch.setattr(ssa, "SCORES_PER_STEP", {"cpu": 2000})


@pytest.mark.parametrize("shuffled", [False, True])
def test_segments_match_reference_with_empty_ones_and_queries_without_any(scratch, shuffled):
    cu = torch.tensor([0, 10, 11, 50, 50, 80, 120])
    q, k, v = random_heads(90, H), random_heads(120, G), random_heads(120, G)
    segments = torch.stack([torch.randperm(6)[:3] for _ in range(90 * G)]).view(90, G, 3)
    segments[4, 1, 1], segments[7, :, :] = -1, -1
    order = torch.randperm(120) if shuffled else None
    results = []
    for attend in (attention.segment_attention, reference_attention.segment_attention):
        out, lse = attend(q, k, v, segments, cu, order)
        assert out[7].abs().max() == 0 and (lse[:, 7] == -torch.inf).all()
        seen = torch.where(lse.isfinite(), lse, 0.0)
        loss = (out * torch.linspace(-1, 1, D)).sum() + (seen * torch.linspace(0, 1, 90)).sum()
        results.append([out, seen, *torch.autograd.grad(loss, (q, k, v))])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_compressed_attention(scratch):
    plan, cells = plan_of([300, 200])
    q, kc, vc = (
        random_heads(len(cells), H),
        random_heads(int(cells.max()) + 1, G),
        random_heads(int(cells.max()) + 1, G),
    )
    assert_same(lambda: ssa.compressed_attention(q, kc, vc, plan), [q, kc, vc])


@pytest.mark.parametrize("cell", [2, 4, 8])
def test_selection_is_the_references(scratch, cell):
    plan, cells = plan_of([400, 20, 300], cell=cell)
    q, kc = random_heads(len(cells), H), random_heads(int(cells.max()) + 1, G)
    lse = ssa.compressed_attention(q, kc, kc, plan)[1]
    chosen = {}
    for backend in (Backend.TORCH, Backend.REFERENCE):
        with use_backend(backend):
            chosen[backend] = ssa.select_blocks(q, kc, lse, plan, 24)
    ours = chosen[Backend.TORCH]
    assert torch.equal(ours, chosen[Backend.REFERENCE])
    assert ours.shape == (G, len(cells), 24) and ours.dtype == torch.int32 and not ours.requires_grad
    small = ours[:, plan.sample_tokens[1] : plan.sample_tokens[2]]  # this sample has fewer than 24 blocks
    count = plan.sample_blocks[2] - plan.sample_blocks[1]
    assert torch.equal(small[0, 0, :count], torch.arange(*plan.sample_blocks[1:3], dtype=torch.int32))
    assert (small[:, :, count:] == -1).all()


def test_selection_survives_scores_beyond_the_range_of_exp():
    plan, cells = plan_of([400], cell=8)
    q, kc = 60 * random_heads(len(cells), H), 60 * random_heads(int(cells.max()) + 1, G)
    lse = ssa.compressed_attention(q, kc, kc, plan)[1]
    assert lse.isfinite().all() and lse.max() > 1000
    chosen = ssa.select_blocks(q, kc, lse, plan, 1)[0, :, 0]
    mass = torch.zeros(len(cells), int(cells.max()) + 1)
    for head in range(H // G):
        mass += torch.softmax((q[:, head] @ kc[:, 0].T) * D**-0.5, dim=-1)
    best = mass.gather(1, chosen[:, None].long())[:, 0]
    assert (mass.amax(1) - best).max() < 1e-3


def test_ties_go_to_the_lower_block():
    scores = torch.randint(0, 4, (3, 50, 17)).float()
    expected = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :6].sort(-1).values
    assert torch.equal(ssa.top_blocks(scores, 6), expected)
    assert ssa.top_blocks(torch.full((1, 4), torch.nan), 2).tolist() == [[0, 1]]


def test_selected_attention(scratch):
    plan, cells = plan_of([300, 40])
    q, k, v = random_heads(len(cells), H), random_heads(len(cells), G), random_heads(len(cells), G)
    blocks = plan.cu_blocks.shape[0] - 1
    index = torch.stack([torch.randperm(blocks)[:5] for _ in range(G * len(cells))]).view(G, len(cells), 5).int()
    index[:, ::3, 3:] = -1
    assert_same(lambda: [ssa.selected_attention(q, k, v, index, plan)], [q, k, v])


def test_window_attention(scratch):
    case = make_case([random_voxels(300, 32), random_voxels(40, 32)], window=6, shift=3)
    n = len(case.coords)
    q, k, v = random_heads(n, H), random_heads(n, G), random_heads(n, G)
    assert_same(lambda: [ssa.window_attention(q, k, v, case.windows)], [q, k, v])


def test_the_whole_is_its_parts_weighted(scratch):
    case = make_case([random_voxels(300, 32), random_voxels(40, 32)])
    inputs = random_inputs(case, H, G, D, torch.float32)
    assert_same(lambda: [ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, 3)], inputs)


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_precision_differs_from_the_reference_by_one_rounding(dtype, tolerance):
    plan, cells = plan_of([200])
    q, k, v = (random_heads(len(cells), heads, dtype) for heads in (H, G, G))
    index = torch.randint(0, plan.cu_blocks.shape[0] - 1, (G, len(cells), 1)).int()
    assert_same(lambda: [ssa.selected_attention(q, k, v, index, plan)], [q, k, v], tolerance)


def test_backward_keeps_nothing_quadratic():
    plan, cells = plan_of([4000])
    n = len(cells)
    q, k, v = random_heads(n, H), random_heads(n, G), random_heads(n, G)
    index = torch.arange(8, dtype=torch.int32).expand(G, n, 8)
    attention_outputs = ssa.selected_attention(q, k, v, index, plan)
    node = attention_outputs.grad_fn
    kept = sum(x.numel() for x in node.saved_tensors if x is not None)
    kept += sum(schedule.pairs.numel() for schedule in node.schedules)
    assert kept < 3 * n * (2 * H * D + 2 * G * D + H + 8 * G)


def test_report_says_why_torch_runs(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    report = backend_report("cpu")
    assert [line.op for line in report] == list(OPS)
    assert all(line.backend is Backend.TORCH and "Triton" in line.reason for line in report)
    with use_backend(Backend.REFERENCE):
        assert {line.backend for line in backend_report("cpu")} == {Backend.REFERENCE}
    with use_backend(Backend.TRITON), pytest.raises(ConfigError, match="torch backend"):
        backend_report("cpu")
    assert backend_report("cpu") == report
