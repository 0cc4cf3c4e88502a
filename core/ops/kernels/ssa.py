"""Spatial sparse attention through kernels: what runs in which order, and its gradients.

Letters: N tokens, M cells, H query heads, G key heads, J = H / G, D channels per head, S selected blocks per token,
B samples. The kernels keep log-sum-exps in base 2 and token-major, [N, H].

After the tables of a coordinate set are built (``plan.memo``, ``windows.memo``), nothing here reads a number back from
the device: a layer can be captured in a CUDA graph.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.ops.block_plan import BlockPlan, WindowPlan
from core.ops.kept_blocks import KeptBlocks, blocks_of
from core.ops.kernels.compressed import compressed_forward, compressed_tile_size
from core.ops.kernels.compressed_backward import compressed_key_gradients
from core.ops.kernels.local import local_forward, local_tile_size
from core.ops.kernels.query_gradients import query_gradients
from core.ops.kernels.row_dots import row_dots
from core.ops.kernels.select import select_blocks as select
from core.ops.kernels.selected_key_gradients import selected_key_gradients
from core.ops.kernels.unions import Unions, tile_unions
from core.ops.kernels.window_key_gradients import window_key_gradients
from core.ops.tiles import Tiles, make_tiles

LN2 = math.log(2.0)


def spatial_sparse_attention(
    q: Tensor,  # [N, H, D]
    k: Tensor,  # [N, G, D]
    v: Tensor,  # [N, G, D]
    kc: Tensor,  # [M, G, D]
    vc: Tensor,  # [M, G, D]
    gate: Tensor,  # [N, 3]
    plan: BlockPlan,
    windows: WindowPlan,
    num_selected: int,
    *,
    deterministic: bool,
    kept: KeptBlocks | None = None,
    choose: bool = True,
) -> Tensor:
    """See ``core.ops.ssa.spatial_sparse_attention``. Returns [N, H, D]."""
    q, k, v, kc, vc = _one_dtype(q, k, v, kc, vc)
    return _Whole.apply(q, k, v, kc, vc, gate, plan, windows, num_selected, deterministic, kept, choose)


def compressed_attention(q: Tensor, kc: Tensor, vc: Tensor, plan: BlockPlan) -> tuple[Tensor, Tensor]:
    """See ``core.ops.ssa.compressed_attention``: [N, H, D] and natural log-sum-exp [H, N]."""
    out, lse = _Compressed.apply(*_one_dtype(q, kc, vc), plan)
    return out, lse.t()


def select_blocks(
    q: Tensor,  # [N, H, D]
    kc: Tensor,  # [M, G, D]
    lse: Tensor,  # [H, N] natural
    plan: BlockPlan,
    num_selected: int,
) -> Tensor:
    """See ``core.ops.ssa.select_blocks``: [G, N, S] int32."""
    q, kc = _one_dtype(q, kc)
    return select(q, kc, lse.t().contiguous().float() / LN2, plan, num_selected)


def selected_attention(q: Tensor, k: Tensor, v: Tensor, block_index: Tensor, plan: BlockPlan) -> Tensor:
    """See ``core.ops.ssa.selected_attention``: [N, H, D]; ``block_index`` [G, N, S]."""
    return _Selected.apply(*_one_dtype(q, k, v), block_index.int().contiguous(), plan)


def window_attention(q: Tensor, k: Tensor, v: Tensor, windows: WindowPlan) -> Tensor:
    """See ``core.ops.ssa.window_attention``: [N, H, D]."""
    return _Window.apply(*_one_dtype(q, k, v), windows)


def _one_dtype(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All in the dtype of the first, each contiguous."""
    return tuple(x.to(tensors[0].dtype).contiguous() for x in tensors)


def sample_tiles(plan: BlockPlan, size: int) -> Tiles:
    """Tiles of at most ``size`` consecutive tokens of a sample."""
    return plan.memo.get(("sample tiles", size), lambda: make_tiles(plan.cu_seqlens, size))


class WindowTiles(NamedTuple):
    """Tiles of tokens of one window, as positions in ``order``."""

    tiles: Tiles
    order: Tensor  # [N] int32: position -> token


def window_tiles(q: Tensor, groups: int, windows: WindowPlan, selected: bool) -> WindowTiles:
    """What one program of the window kernels works on."""
    size = local_tile_size(q, groups, selected)
    tiles = windows.memo.get(("tiles", size), lambda: make_tiles(windows.cu_seqlens, size))
    return WindowTiles(tiles, windows.memo.get("order", lambda: windows.order.int()))


def _samples_of(tiles: Tiles, order: Tensor, plan: BlockPlan, windows: WindowPlan) -> Tensor:
    """The sample that each tile lies in: [I] int32."""

    def build() -> Tensor:
        first = order[tiles.start.long()]
        return (torch.searchsorted(plan.cu_seqlens, first, right=True) - 1).int()

    return windows.memo.get(("samples", tiles.size), build)


class _Whole(torch.autograd.Function):
    """All branches and the gates. Keeps the three branches' results for the backward pass."""

    @staticmethod
    def forward(ctx, q, k, v, kc, vc, gate, plan, windows, num_selected, deterministic, kept, choose):
        groups, training = k.shape[1], any(ctx.needs_input_grad)
        weights = gate.float().contiguous()
        coarse, lse_coarse = compressed_forward(
            q, kc, vc, sample_tiles(plan, compressed_tile_size(q, groups)), plan.cu_cells
        )
        index = blocks_of(kept, choose, lambda: select(q, kc, lse_coarse, plan, num_selected))
        tiles, order = window_tiles(q, groups, windows, selected=True)
        unions = tile_unions(index, tiles, order)
        local = local_forward(
            q,
            k,
            v,
            tiles,
            order,
            unions=unions,
            cu_blocks=plan.cu_blocks,
            cu_windows=windows.cu_seqlens,
            coarse=coarse,
            gate=weights,
            keep_parts=training,
        )
        if training:
            ctx.save_for_backward(
                *(q, k, v, kc, vc, gate, coarse, local.selected, local.window),
                *(lse_coarse, local.lse2_selected, local.lse2_window, index, *unions),
            )
            ctx.plan, ctx.windows, ctx.deterministic = plan, windows, deterministic
        return local.out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, kc, vc, gate, coarse, selected, window, *rest = ctx.saved_tensors
        lse_coarse, lse_selected, lse_window, index, *unions = rest
        plan, windows = ctx.plan, ctx.windows
        grad_out, weights = grad_out.contiguous(), gate.float().contiguous()
        dots, grad_gate = row_dots(grad_out, (coarse, selected, window))
        tiles, order = window_tiles(q, k.shape[1], windows, selected=True)
        dq = query_gradients(
            q,
            k,
            v,
            kc,
            vc,
            grad_out,
            gate=weights,
            dots=dots,
            lse2_coarse=lse_coarse,
            lse2_selected=lse_selected,
            lse2_window=lse_window,
            unions=Unions(*unions),
            cu_blocks=plan.cu_blocks,
            cu_windows=windows.cu_seqlens,
            cu_cells=plan.cu_cells,
            sample_of_tile=_samples_of(tiles, order, plan, windows),
            tiles=tiles,
            order=order,
        )
        dkc, dvc = compressed_key_gradients(
            q, kc, vc, grad_out, lse_coarse, dots[0], weights, plan, deterministic=ctx.deterministic
        )
        dk, dv = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        window_key_gradients(q, k, v, grad_out, lse_window, dots[2], weights, windows, dk, dv)
        selected_key_gradients(
            *(q, k, v, grad_out, lse_selected, dots[1], weights, index, plan, dk, dv),
            deterministic=ctx.deterministic,
        )
        grads = (dq, dk.to(k.dtype), dv.to(v.dtype), dkc.to(kc.dtype), dvc.to(vc.dtype), grad_gate.to(gate.dtype))
        return *grads, *(None,) * 6


class _Compressed(torch.autograd.Function):
    """Attention to the cells alone; differentiable through the log-sum-exp as well."""

    @staticmethod
    def forward(ctx, q, kc, vc, plan):
        out, lse2 = compressed_forward(
            q, kc, vc, sample_tiles(plan, compressed_tile_size(q, kc.shape[1])), plan.cu_cells
        )
        ctx.save_for_backward(q, kc, vc, out, lse2)
        ctx.plan = plan
        return out, lse2 * LN2

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out, grad_lse):
        q, kc, vc, out, lse2 = ctx.saved_tensors
        plan, grad_out = ctx.plan, grad_out.contiguous()
        dots = row_dots(grad_out, (out, None, None))[0]
        dots[0] -= grad_lse  # d(lse) / d(score) is the probability
        tiles = sample_tiles(plan, compressed_tile_size(q, kc.shape[1]))
        dq = query_gradients(
            q,
            None,
            None,
            kc,
            vc,
            grad_out,
            gate=None,
            dots=dots,
            lse2_coarse=lse2,
            cu_cells=plan.cu_cells,
            sample_of_tile=tiles.segment,
            tiles=tiles,
            order=None,
        )
        dkc, dvc = compressed_key_gradients(q, kc, vc, grad_out, lse2, dots[0], None, plan, deterministic=True)
        return dq, dkc.to(kc.dtype), dvc.to(vc.dtype), None


class _Selected(torch.autograd.Function):
    """Attention to the selected blocks alone."""

    @staticmethod
    def forward(ctx, q, k, v, index, plan):
        tiles = sample_tiles(plan, local_tile_size(q, k.shape[1], True))
        unions = tile_unions(index, tiles, None)
        local = local_forward(
            q, k, v, tiles, None, unions=unions, cu_blocks=plan.cu_blocks, keep_parts=any(ctx.needs_input_grad)
        )
        ctx.save_for_backward(q, k, v, local.out, local.lse2_selected, index, *unions)
        ctx.plan = plan
        return local.out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, lse2, index, *unions = ctx.saved_tensors
        plan, grad_out = ctx.plan, grad_out.contiguous()
        dots = row_dots(grad_out, (None, out, None))[0]
        dq = query_gradients(
            q,
            k,
            v,
            None,
            None,
            grad_out,
            gate=None,
            dots=dots,
            lse2_selected=lse2,
            unions=Unions(*unions),
            cu_blocks=plan.cu_blocks,
            tiles=sample_tiles(plan, local_tile_size(q, k.shape[1], True)),
            order=None,
        )
        dk, dv = (torch.zeros(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        selected_key_gradients(q, k, v, grad_out, lse2, dots[1], None, index, plan, dk, dv, deterministic=True)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None, None


class _Window(torch.autograd.Function):
    """Attention to the own window alone."""

    @staticmethod
    def forward(ctx, q, k, v, windows):
        tiles, order = window_tiles(q, k.shape[1], windows, selected=False)
        local = local_forward(
            q, k, v, tiles, order, cu_windows=windows.cu_seqlens, keep_parts=any(ctx.needs_input_grad)
        )
        ctx.save_for_backward(q, k, v, local.out, local.lse2_window)
        ctx.windows = windows
        return local.out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, out, lse2 = ctx.saved_tensors
        windows, grad_out = ctx.windows, grad_out.contiguous()
        dots = row_dots(grad_out, (None, None, out))[0]
        tiles, order = window_tiles(q, k.shape[1], windows, selected=False)
        dq = query_gradients(
            q,
            k,
            v,
            None,
            None,
            grad_out,
            gate=None,
            dots=dots,
            lse2_window=lse2,
            cu_windows=windows.cu_seqlens,
            tiles=tiles,
            order=order,
        )
        dk, dv = (torch.empty(x.shape, dtype=torch.float32, device=x.device) for x in (k, v))
        window_key_gradients(q, k, v, grad_out, lse2, dots[2], None, windows, dk, dv)
        return dq, dk.to(k.dtype), dv.to(v.dtype), None
