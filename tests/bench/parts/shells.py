"""Inputs of the benchmarks: cells near two concentric spheres, and features on them.

Letters: N tokens, M cells, C channels, H query heads, G key heads, D channels per head.

Features are ``iid`` (every token by itself: neighbors choose different blocks, the worst for sharing keys) or
``smooth`` (projected position embeddings and 30 % noise, nearer to what a network computes).
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.config.models import SSAConfig
from core.nn.embedding import AbsolutePositionEmbedder
from core.nn.ssa import block_plan
from core.ops.block_plan import BlockPlan, WindowPlan
from core.sparse.coords import sort_into_blocks
from core.sparse.resample import pool_plan
from core.sparse.tensor import SparseTensor
from core.sparse.windows import window_plan

REGIMES = ("smooth", "iid")
INNER = 0.55  # radius of the inner sphere, of the outer one's
HALF_BAND = 0.5  # a cell is occupied if a point of it is nearer to a sphere than this, in cells: the released band
NOISE = 0.3
POSITION_CHANNELS = 1024
SCORES_PER_STEP = 2**27


class Problem(NamedTuple):
    """One attention on fixed inputs."""

    x: SparseTensor  # features are positions only; for its coordinates and cache
    plan: BlockPlan
    windows: WindowPlan
    q: Tensor  # [N, H, D]
    k: Tensor  # [N, G, D]
    v: Tensor  # [N, G, D]
    kc: Tensor  # [M, G, D]
    vc: Tensor  # [M, G, D]
    gate: Tensor  # [N, 3]
    grad: Tensor  # [N, H, D]
    chosen: Tensor  # [G, N, S] int32: the blocks that the scores select

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a gradient is asked for."""
        return self.q, self.k, self.v, self.kc, self.vc, self.gate


@cache
def shell(tokens: int) -> Tensor:
    """About ``tokens`` (within 2 %) occupied cells, sorted into blocks of 8: [N, 4] int32 on the CPU."""
    radius, low, high = (tokens / 40) ** 0.5, 0.0, 0.0
    for _ in range(12):
        coords = _cells(radius)
        if abs(len(coords) - tokens) <= 0.01 * tokens:
            break
        if len(coords) < tokens:
            low = radius
        else:
            high = radius
        guess = radius * (tokens / max(len(coords), 1)) ** 0.5
        radius = guess if not (low and high) or low < guess < high else (low + high) / 2
    return sort_into_blocks(coords, 8)


def _cells(radius: float) -> Tensor:
    side = int(2 * radius) + 6
    axis = torch.arange(side) + 0.5 - side / 2
    xyz = torch.cartesian_prod(axis, axis, axis)
    distance = xyz.norm(dim=1)
    reach = HALF_BAND + 0.5 * xyz.abs().sum(1) / distance.clamp_min(0.5)  # of a cell, seen from its center
    near = ((distance - radius).abs() < reach) | ((distance - INNER * radius).abs() < reach)
    cells = torch.cartesian_prod(*(torch.arange(side),) * 3)[near]
    return F.pad(cells, (1, 0)).int()


def features(coords: Tensor, channels: int, regime: str, seed: int) -> Tensor:
    """Zero mean, about unit variance: [N, C] float32, the same for a seed on one kind of device."""
    device = coords.device
    generator = torch.Generator(device).manual_seed(seed)
    noise = torch.randn(len(coords), channels, generator=generator, device=device)
    if regime == "iid":
        return noise
    position = AbsolutePositionEmbedder(POSITION_CHANNELS)(coords[:, 1:])
    project = torch.randn(POSITION_CHANNELS, channels, generator=generator, device=device)
    return (1 - NOISE) * (position @ project * (POSITION_CHANNELS / 2) ** -0.5) + NOISE * noise


def make_problem(
    tokens: int,
    width: int,
    config: SSAConfig,
    regime: str,
    dtype: torch.dtype,
    device: torch.device,
    shift: int = 0,
) -> Problem:
    """Inputs of ``spatial_sparse_attention``; pooled keys are means of the keys, or as random as these."""
    coords = shell(tokens).to(device)
    x = SparseTensor(coords[:, 1:].float(), coords)
    plan = block_plan(x, config.compression_block, config.selection_block)
    windows = window_plan(x, config.window, shift)
    heads, groups, d = config.num_heads, config.num_kv_heads, width // config.num_heads
    q = features(coords, heads * d, regime, 1).view(-1, heads, d)
    k, v = (features(coords, groups * d, regime, seed).view(-1, groups, d) for seed in (2, 3))
    cells = pool_plan(x, config.compression_block)
    if regime == "iid":
        kc, vc = (features(cells.cache.coords, groups * d, regime, seed).view(-1, groups, d) for seed in (4, 5))
    else:
        count = (torch.bincount(cells.inverse) + 1).float()[:, None, None]
        kc, vc = (
            torch.zeros(len(count), groups, d, device=device).index_add_(0, cells.inverse, x) / count for x in (k, v)
        )
    gate = torch.sigmoid(features(coords, 3, "iid", 6))
    grad = features(coords, heads * d, "iid", 7).view(-1, heads, d)
    q, k, v, kc, vc, gate, grad = (part.to(dtype).contiguous() for part in (q, k, v, kc, vc, gate, grad))
    chosen = _chosen(q, kc, plan, config.selected_blocks)
    return Problem(x, plan, windows, q, k, v, kc, vc, gate, grad, chosen)


@torch.no_grad()
def _chosen(q: Tensor, kc: Tensor, plan: BlockPlan, count: int) -> Tensor:
    """The blocks of one sample that hold most of each token's attention, ascending, -1 where there are fewer."""
    (tokens, heads, d), groups, blocks = q.shape, kc.shape[1], plan.cu_blocks.shape[0] - 1
    kept = min(count, blocks)
    out = torch.full((groups, tokens, count), -1, dtype=torch.int32, device=q.device)
    keys = kc.float().permute(1, 2, 0)  # [G, D, M]
    step = max(1, SCORES_PER_STEP // (heads * kc.shape[0]))
    for a in range(0, tokens, step):
        query = q[a : a + step].float().unflatten(1, (groups, -1)).permute(1, 2, 0, 3) * d**-0.5  # [G, J, n, D]
        mass = torch.softmax(query @ keys[:, None], -1).sum(1)  # [G, n, M]
        by_block = mass.new_zeros(groups, mass.shape[1], blocks).index_add_(2, plan.block_of_cell, mass)
        out[:, a : a + step, :kept] = by_block.topk(kept, -1).indices.sort(-1).values.int()
    return out
