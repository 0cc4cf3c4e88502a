"""What spatial sparse attention must compute and move at least, and in how many milliseconds the device could.

Letters: N tokens, M cells, W blocks, H query heads, G key heads, D channels, S selected blocks, T tokens of a tile.

The floor of a branch is the larger of its matrix products and its exponentials at the measured ceilings; branches
run one after the other, and inputs, outputs and block scores pass through memory once. A score is one query head
against one key: 4 D floating-point operations forward, 14 D backward in two passes (10 D in dense attention).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from core.ops.block_plan import BlockPlan, WindowPlan
from core.ops.tiles import make_tiles
from tests.bench.parts.shells import Problem

SHORT = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Work:
    """Counts of one problem."""

    tokens: int
    cells: int
    blocks: int
    heads: int
    groups: int
    channels: int  # D
    itemsize: int  # bytes of a number
    cell_scores: int  # H for each pair of token and cell
    selected_scores: int
    window_scores: int

    @property
    def score_bytes(self) -> int:
        """Block scores, float32, written and read."""
        return 8 * self.groups * self.tokens * self.blocks

    @property
    def forward_bytes(self) -> int:
        """q and the output, keys and values, pooled ones, gates."""
        wide, narrow = self.tokens * self.heads, (self.tokens + self.cells) * self.groups
        return self.itemsize * ((2 * wide + 2 * narrow) * self.channels + 3 * self.tokens)

    @property
    def backward_bytes(self) -> int:
        """q, the gradient, three branches' outputs and dq; keys, values and their gradients."""
        wide, narrow = self.tokens * self.heads, (self.tokens + self.cells) * self.groups
        return self.itemsize * ((6 * wide + 4 * narrow) * self.channels + 6 * self.tokens)


def count(problem: Problem) -> Work:
    """Counts of ``problem``, with its actual selection."""
    plan, windows, chosen = problem.plan, problem.windows, problem.chosen
    tokens, heads, d = problem.q.shape
    groups = problem.k.shape[1]
    sizes = plan.cu_blocks.diff().long()
    selected = torch.where(chosen >= 0, sizes[chosen.clamp_min(0).long()], 0).sum()
    cells = plan.cu_cells.diff().long() * plan.cu_seqlens.diff().long()
    return Work(
        tokens=tokens,
        cells=problem.kc.shape[0],
        blocks=len(sizes),
        heads=heads,
        groups=groups,
        channels=d,
        itemsize=problem.q.element_size(),
        cell_scores=heads * int(cells.sum()),
        selected_scores=heads // groups * int(selected),
        window_scores=heads * int(windows.cu_seqlens.diff().long().square().sum()),
    )


def floor_ms(work: Work, ceilings: Mapping[str, float], dtype: torch.dtype, backward: bool) -> dict[str, float]:
    """Milliseconds of each part at the ceilings, and ``total``."""
    products = gemm_rate(ceilings, dtype)
    exponentials, copied = 1e12 * ceilings["exp2_t_s"], 1e12 * ceilings["copy_tb_s"]
    flop, exp = (14 * work.channels, 2) if backward else (4 * work.channels, 1)
    parts = {
        name: max(flop * scores / products, exp * scores / exponentials)
        for name, scores in [
            ("cells", work.cell_scores),
            ("selected", work.selected_scores),
            ("window", work.window_scores),
        ]
    }
    if not backward:
        parts["block_scores"] = max(2 * work.channels * work.cell_scores / products, work.cell_scores / exponentials)
        parts["score_traffic"] = work.score_bytes / copied
    parts["inputs_and_outputs"] = (work.backward_bytes if backward else work.forward_bytes) / copied
    found = {name: round(1e3 * seconds, 4) for name, seconds in parts.items()}
    return {**found, "total": round(1e3 * sum(parts.values()), 4)}


def rates(work: Work, ms: float | None, backward: bool) -> dict[str, float | None]:
    """What a time means: 10^12 floating-point operations and 10^9 scores a second, the pass of block scores counted."""
    scores = work.cell_scores + work.selected_scores + work.window_scores
    flop = 14 * work.channels * scores if backward else (4 * scores + 2 * work.cell_scores) * work.channels
    seen = scores if backward else scores + work.cell_scores
    return {
        "tflops": float(f"{flop / ms / 1e9:.4g}") if ms else None,
        "gscores_s": float(f"{seen / ms / 1e6:.4g}") if ms else None,
    }


def dense_floor_ms(work: Work, ceilings: Mapping[str, float], dtype: torch.dtype, backward: bool) -> float:
    """The same for attention of every token to every token."""
    scores, flop = work.heads * work.tokens**2, (10 if backward else 4) * work.channels
    rate = gemm_rate(ceilings, dtype)
    return round(1e3 * max(flop * scores / rate, scores / (1e12 * ceilings["exp2_t_s"])), 4)


def gemm_rate(ceilings: Mapping[str, float], dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product in ``dtype``."""
    return 1e12 * ceilings[f"gemm_{SHORT[dtype]}_tflops"]


def union_ratio(
    chosen: Tensor,  # [G, N, S]
    windows: WindowPlan,
    size: int,
) -> float:
    """Blocks that the tokens of a tile chose together, over what one chose: 1 if neighbors agree, ``size`` if never."""
    tiles = make_tiles(windows.cu_seqlens, size)
    position = tiles.start.long()[:, None] + torch.arange(size, device=chosen.device)  # [I, T]
    inside = position < tiles.stop.long()[:, None]
    rows = windows.order[position.clamp_max(len(windows.order) - 1)]
    picked = chosen[:, rows].masked_fill(~inside[..., None], -1).flatten(2).sort(-1).values  # [G, I, T S]
    new = (picked >= 0) & (picked != torch.nn.functional.pad(picked[..., :-1], (1, 0), value=-1))
    alone = (chosen[:, rows] >= 0).sum(-1) * inside  # [G, I, T]
    return round(float(new.sum()) / float((alone.sum(-1) / inside.sum(-1)).sum()), 3)


def block_facts(plan: BlockPlan) -> dict[str, float]:
    """Tokens of the blocks: mean, median, most."""
    sizes = plan.cu_blocks.diff().float()
    return {"mean": round(float(sizes.mean()), 1), "median": float(sizes.median()), "most": float(sizes.max())}


def as_dict(work: Work) -> dict[str, int]:
    """For the results file."""
    return {**asdict(work), "score_bytes": work.score_bytes}
