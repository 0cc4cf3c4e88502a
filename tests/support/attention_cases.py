"""Inputs of spatial sparse attention, and what it must give: written out in float64 for chosen blocks.

Letters: N tokens, M cells, H query heads, G key heads, D channels per head, S selected blocks, W blocks, B samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.ops.block_plan import BlockPlan, WindowPlan, make_block_plan
from core.sparse.windows import plan_windows


@dataclass(frozen=True)
class Case:
    """Tokens sorted into blocks, with their plans."""

    coords: Tensor  # [N, 4]
    cell_of_token: Tensor  # [N] int64
    plan: BlockPlan
    windows: WindowPlan

    @property
    def sizes(self) -> tuple[int, int, int]:
        """N, M and W."""
        return len(self.coords), self.plan.block_of_cell.shape[0], self.plan.cu_blocks.shape[0] - 1


def rows_of(ids: Tensor) -> Tensor:
    """Number of each distinct row, ascending."""
    return torch.unique(ids, dim=0, return_inverse=True)[1]


def make_case(
    voxels: list[Tensor],  # [n, 3] of each sample, distinct
    *,
    cell: int = 4,
    block: int = 8,
    window: int = 8,
    shift: int = 4,
    device: torch.device | str = "cpu",
) -> Case:
    """Sort the voxels into blocks and derive the plans."""
    coords = torch.cat([torch.cat([torch.full((len(xyz), 1), b), xyz.long()], 1) for b, xyz in enumerate(voxels)])
    by_block = rows_of(torch.cat([coords[:, :1], coords[:, 1:] // block], 1))
    coords = coords[torch.argsort(by_block, stable=True)]
    by_block = rows_of(torch.cat([coords[:, :1], coords[:, 1:] // block], 1))
    cells = rows_of(torch.cat([coords[:, :1], coords[:, 1:] // cell], 1))
    coords, by_block, cells = (x.to(device) for x in (coords, by_block, cells))
    plan = make_block_plan(coords[:, 0], by_block, cells, len(voxels))
    return Case(coords, cells, plan, plan_windows(coords.int(), window, shift))


def random_voxels(count: int, side: int) -> Tensor:
    """Up to ``count`` distinct voxels of a cube: [n, 3]."""
    return torch.unique(torch.randint(0, side, (count, 3)), dim=0)


def random_inputs(
    case: Case, heads: int, groups: int, width: int, dtype: torch.dtype, scale: float = 1.0
) -> list[Tensor]:
    """q, k, v, kc, vc and gate, each wanting a gradient."""
    n, m, _ = case.sizes
    shapes = [(n, heads, width), (n, groups, width), (n, groups, width), (m, groups, width), (m, groups, width)]
    device = case.coords.device
    made = [torch.randn(shape).to(device, dtype) for shape in shapes]
    made[0] *= scale
    return [x.requires_grad_() for x in (*made, torch.rand(n, 3).to(device, dtype))]


def oracle(
    inputs: list[Tensor],  # q, k, v, kc, vc, gate
    index: Tensor,  # [G, N, S] the blocks to attend to
    case: Case,
) -> Tensor:
    """Equation of the spec, section 5.2, in float64 and differentiable: [N, H, D]."""
    q, k, v, kc, vc, gate = (x.double() for x in inputs)
    sample = case.coords[:, 0]
    cell_sample = torch.zeros(kc.shape[0], dtype=torch.long, device=q.device).index_copy(0, case.cell_of_token, sample)
    block = _owner(case.plan.cu_blocks)
    window = torch.empty_like(case.windows.order)
    window[case.windows.order] = _owner(case.windows.cu_seqlens)
    groups = k.shape[1]
    to_cells = (sample[:, None] == cell_sample).expand(groups, -1, -1)
    to_blocks = (index[:, :, None, :] == block[:, None]).any(-1)
    to_window = (window[:, None] == window).expand(groups, -1, -1)
    branches = (_attend(q, kc, vc, to_cells), _attend(q, k, v, to_blocks), _attend(q, k, v, to_window))
    return sum(gate[:, b, None, None] * branch for b, branch in enumerate(branches))


def exact_scores(q: Tensor, kc: Tensor, case: Case) -> Tensor:
    """Attention mass of every block, in float64, -1 for blocks of other samples: [G, N, W]."""
    (n, heads, width), groups = q.shape, kc.shape[1]
    sample = case.coords[:, 0]
    cell_sample = torch.zeros(kc.shape[0], dtype=torch.long, device=q.device).index_copy(0, case.cell_of_token, sample)
    keys = kc.double().repeat_interleave(heads // groups, 1)
    scores = torch.einsum("nhd,mhd->hnm", q.double(), keys) * width**-0.5
    scores = scores.masked_fill(sample[:, None] != cell_sample, float("-inf"))
    mass = torch.softmax(scores, -1).unflatten(0, (groups, -1)).sum(1)  # [G, N, M]
    num_blocks = case.sizes[2]
    block_sample = torch.zeros(num_blocks, dtype=torch.long, device=q.device)
    block_sample = block_sample.index_copy(0, _owner(case.plan.cu_blocks), sample)
    total = mass.new_zeros(groups, n, num_blocks).index_add_(2, case.plan.block_of_cell, mass)
    return total.masked_fill(sample[:, None] != block_sample, -1.0)


def relative_error(ours: Tensor, expected: Tensor) -> float:
    """Frobenius norm of the difference over that of what is expected; NaN stays NaN."""
    ours, expected = ours.detach().double(), expected.detach().double()
    return float((ours - expected).norm() / expected.norm().clamp(min=1e-30))


def _attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    per_head = q.shape[1] // k.shape[1]
    k, v, allowed = (
        k.repeat_interleave(per_head, 1),
        v.repeat_interleave(per_head, 1),
        allowed.repeat_interleave(per_head, 0),
    )
    scores = torch.einsum("nhd,lhd->hnl", q, k) * q.shape[2] ** -0.5
    scores = scores.masked_fill(~allowed, float("-inf"))
    probabilities = torch.where(allowed.any(-1, keepdim=True), torch.softmax(scores, -1), 0.0)
    return torch.einsum("hnl,lhd->nhd", probabilities.nan_to_num(), v)


def _owner(offsets: Tensor) -> Tensor:
    lengths = offsets.diff().long()
    return torch.arange(lengths.shape[0], device=offsets.device).repeat_interleave(lengths)
