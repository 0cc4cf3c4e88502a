"""Probability mass of blocks: the kernel against float64, and the tables of cells.

Letters as in core.ops.kernels.block_scores.
"""

import math

import pytest
import torch

from core.ops.block_plan import BlockPlan, make_block_plan
from core.ops.kernels import block_scores as module
from core.ops.kernels.block_scores import block_scores, cell_slots


def plan_of(device, *cells_per_block):
    """One token a cell; a sample for each list of numbers of cells."""
    counts = torch.tensor([n for sample in cells_per_block for n in sample])
    block = torch.arange(len(counts)).repeat_interleave(counts)
    sizes = torch.tensor([sum(sample) for sample in cells_per_block])
    sample = torch.arange(len(sizes)).repeat_interleave(sizes)
    return make_block_plan(sample.to(device), block.to(device), torch.arange(len(block)).to(device), len(sizes))


def in_float64(q, kc, plan: BlockPlan, sample: int):
    """lse2 [n, H] and mass [G, n, blocks] of the tokens and blocks of one sample."""
    rows = slice(*plan.sample_tokens[sample : sample + 2])
    cells = slice(*plan.cu_cells[sample : sample + 2].tolist())
    first, end = plan.sample_blocks[sample : sample + 2]
    per_head = q.shape[1] // kc.shape[1]
    keys = kc[cells].double().repeat_interleave(per_head, 1)
    scores = torch.einsum("nhd,mhd->nhm", q[rows].double(), keys) * q.shape[2] ** -0.5
    lse2 = (scores.logsumexp(-1) / math.log(2)).float()
    weights = torch.exp2(scores / math.log(2) - lse2.double()[:, :, None])  # the kernel gets lse2 rounded as well
    per_group = weights.unflatten(1, (-1, per_head)).sum(2).transpose(0, 1)
    mass = per_group.new_zeros(*per_group.shape[:2], end - first)
    return lse2, mass.index_add_(2, plan.block_of_cell[cells] - first, per_group)


def assert_matches(q, kc, plan, tolerance):
    """All samples of ``plan``, in two calls each, into rows that are longer than needed."""
    all_lse2 = torch.cat([in_float64(q, kc, plan, b)[0] for b in range(len(plan.layers))])
    for b in range(len(plan.layers)):
        slots, (start, stop) = cell_slots(plan, b), plan.sample_tokens[b : b + 2]
        exact = in_float64(q, kc, plan, b)[1]
        middle = (start + stop) // 2
        for first, last in ((start, middle), (middle, stop)):
            padded = q.new_full((kc.shape[1], last - first, slots.num_blocks + 3), torch.nan, dtype=torch.float32)
            mass = padded[:, :, : slots.num_blocks]
            block_scores(q, kc, all_lse2, slots, first, last, mass)
            assert padded[:, :, slots.num_blocks :].isnan().all()
            if slots.column_of_block is not None:
                mass = mass[:, :, slots.column_of_block.long()]
            assert not mass.isnan().any()
            expected = exact[:, first - start : last - start]
            if last > first:
                error = (mass.double() - expected).norm() / expected.norm()
                assert error < tolerance, f"{error:.2e}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "heads, groups, channels",
    [(32, 2, 32), (6, 2, 8), (3, 1, 40), (2, 2, 64)],
    ids=["shipped", "3 heads a key head", "40 channels", "no grouping"],
)
def test_mass_in_float64(device, dtype, heads, groups, channels):
    plan = plan_of(device, [1] * 40, [3, 1, 4, 1, 5, 2] + [1] * 30, [1])
    q, kc = (torch.randn(plan.sample_tokens[-1], n, channels, device=device).to(dtype) for n in (heads, groups))
    assert_matches(q, kc, plan, 1e-6)  # float16 operands are exact


def test_blocks_of_64_cells(device):
    plan = plan_of(device, [2, 64, 1])
    q, kc = (torch.randn(67, n, 16, device=device) for n in (2, 1))
    assert_matches(q, kc, plan, 1e-6)


@pytest.mark.parametrize("columns", [64, 128])
def test_several_tiles_of_columns(device, monkeypatch, columns):
    monkeypatch.setattr(module, "score_shape", lambda q, n: module.ScoreShape(16, columns, 4, 1))
    plan = plan_of(device, [2] * 70 + [1] * 60)  # a tile of full columns, a mixed one, an unfinished one
    q, kc = (torch.randn(200, n, 16, device=device) for n in (2, 1))
    assert_matches(q[:200], kc, plan, 1e-6)


def test_scores_far_beyond_the_range_of_exp(device):
    plan = plan_of(device, [1] * 30, [2, 3, 1])
    q, kc = (40 * torch.randn(36, n, 16, device=device) for n in (4, 2))
    assert in_float64(q, kc, plan, 0)[0].max() > 2000
    assert_matches(q, kc, plan, 1e-3)  # a score of 4000 has an absolute error of 2e-4


def test_tables_of_cells(device):
    plan = plan_of(device, [1, 1], [1, 3, 2, 3])
    same, sorted_ = cell_slots(plan, 0), cell_slots(plan, 1)
    assert cell_slots(plan, 1) is sorted_
    assert same.cells.tolist() == [[0, 1]] and same.counts.tolist() == [1, 1] and same.first_block == 0
    assert same.block_of_column is None and same.column_of_block is None
    assert sorted_.cells.tolist() == [[3, 8, 6, 2], [4, 9, 7, -1], [5, 10, -1, -1]]
    assert sorted_.counts.tolist() == [3, 3, 2, 1] and sorted_.num_blocks == 4 and sorted_.first_block == 2
    assert sorted_.block_of_column.tolist() == [1, 3, 2, 0] and sorted_.column_of_block.tolist() == [3, 0, 2, 1]
    assert {x.dtype for x in (sorted_.cells, sorted_.counts, sorted_.block_of_column)} == {torch.int32}
