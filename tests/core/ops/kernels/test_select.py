"""Top blocks of a row of scores, and the selection of whole samples, against a stable sort and the reference.

Letters as in core.ops.kernels.select.
"""

import math

import pytest
import torch

from core.ops.kernels import select
from core.ops.kernels.block_scores import CellSlots
from core.ops.kernels.select import select_blocks, top_blocks
from core.ops.reference import ssa as reference
from tests.support.attention_cases import exact_scores, make_case, random_inputs, random_voxels


def slots_of(columns: int, block_of_column: torch.Tensor | None, first: int, device) -> CellSlots:
    table = torch.zeros(1, columns, dtype=torch.int32, device=device)
    return CellSlots(table, table[0] + 1, None, block_of_column, columns, first)


def expected(scores: torch.Tensor, size: int, block_of_column: torch.Tensor | None, first: int) -> torch.Tensor:
    """By a stable sort of the scores in the order of block numbers."""
    scores = torch.nan_to_num(scores.cpu()).clamp(min=0)
    if block_of_column is not None:
        scores = scores[..., torch.argsort(block_of_column.cpu())]
    best = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :size].sort(-1).values + first
    padding = best.new_full((*best.shape[:2], size - best.shape[2]), -1)
    return torch.cat([best, padding], -1).int()


def check(scores: torch.Tensor, size: int, device, shuffled: bool = False, first: int = 7) -> None:
    groups, count, columns = scores.shape
    order = torch.randperm(columns, dtype=torch.int32, device=device) if shuffled else None
    whole = torch.full((groups, count + 2, size), -99, dtype=torch.int32, device=device)
    top_blocks(scores, slots_of(columns, order, first, device), whole[:, 1:-1])
    assert torch.equal(whole[:, 1:-1].cpu(), expected(scores, size, order, first))
    assert (whole[:, 0] == -99).all() and (whole[:, -1] == -99).all()


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(
    ("columns", "size"),
    [(9, 8), (300, 8), (300, 5), (1300, 8), (700, 32), (5000, 3), (257, 1), (7, 7), (5, 8), (400, 100)],
)
def test_highest_scores_ascending(columns, size, shuffled, device):
    check(torch.rand(2, 3, columns, device=device), size, device, shuffled)


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("size", [8, 20])
def test_of_equal_scores_the_lower_block_wins(size, shuffled, device):
    few_values = torch.randint(0, 4, (1, 4, 600), device=device) / 4
    flat = torch.full((1, 1, 600), 0.25, device=device)
    nothing = torch.zeros(1, 1, 600, device=device)
    few_above = torch.where(torch.rand(1, 1, 600, device=device) < 0.005, 1.0, 0.0)
    same_class = torch.rand(1, 1, 600, device=device)
    same_class[..., 40::256] += 1.0  # highest scores of one column class
    check(torch.cat([few_values, flat, nothing, few_above, same_class], 1), size, device, shuffled)


def test_odd_numbers_count_as_zero_or_as_they_order(device):
    scores = torch.rand(1, 4, 40, device=device) * torch.tensor([1e-42, 1.0, 1e30, 1.0], device=device)[:, None]
    scores[0, 1, ::2] = math.nan
    scores[0, 2, 5] = math.inf
    scores[0, 3] = math.nan
    scores[0, 3, 3:5] = -1.0
    check(scores, 8, device)


def test_padding_of_rows_is_not_read_as_scores(device):
    memory = torch.full((2, 3, 112), 100.0, device=device)
    memory[..., :100] = torch.rand(2, 3, 100, device=device)
    check(memory[..., :100], 8, device)


@pytest.mark.parametrize("cell", [4, 8])
def test_selection_of_samples_is_the_references(cell, device, monkeypatch):
    monkeypatch.setattr(select, "SCRATCH_BYTES", 0)  # 64 tokens at a time
    case = make_case([random_voxels(70, 24), random_voxels(10, 8), random_voxels(50, 32)], cell=cell, device=device)
    q, _, _, kc, vc, _ = (x.detach() for x in random_inputs(case, 6, 2, 16, torch.float32))
    lse = reference.compressed_attention(q, kc, vc, case.plan)[1]
    chosen = select_blocks(q, kc, lse.t().contiguous() / math.log(2), case.plan, 5)
    assert chosen.dtype == torch.int32
    assert torch.equal(chosen, reference.select_blocks(q, kc, lse, case.plan, 5))


def test_selection_in_half_precision_keeps_only_blocks_near_the_best(device):
    case = make_case([random_voxels(60, 32)], device=device)
    q, _, _, kc, vc, _ = (x.detach() for x in random_inputs(case, 4, 2, 16, torch.float16, scale=20.0))
    lse = reference.compressed_attention(q.float(), kc.float(), vc.float(), case.plan)[1]
    chosen = select_blocks(q, kc, lse.t().contiguous() / math.log(2), case.plan, 4).long()
    exact = exact_scores(q, kc, case)
    least = exact.gather(2, chosen).amin(2)
    assert (chosen.diff(dim=2) > 0).all()
    assert (least >= exact.topk(4, dim=2).values[..., -1] * 0.99).all()
