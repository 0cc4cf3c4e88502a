"""Submanifold convolution: outputs only where inputs are.

Letters: N voxels, K kernel offsets, J offsets in use, I input channels, O output channels.

The torch path gathers the neighbours of a few thousand voxels side by side and multiplies once, so memory is
bounded whatever N is, and no sum depends on the order of threads. The backward pass gathers again instead of
keeping what was gathered.
"""

import importlib
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.backend import Backend, backend_for
from core.ops.conv_plan import ConvPlan
from core.ops.reference import submanifold_conv as reference

# Elements gathered at a time: about the second-level cache of a CPU, 128 MB in half precision on a GPU.
GATHERED_ELEMENTS = {"cpu": 2**19, "cuda": 2**26}
GATHERED_ELEMENTS_ELSEWHERE = 2**24
# Libraries take another path, with another rounding, for products of a few rows: a voxel's value would depend
# on how many come with it.
MIN_ROWS = 32


def submanifold_conv3d(
    feats: Tensor,  # [N, I]
    neighbor_map: Tensor,  # [N, K] row of the neighbour at each offset, or -1; see core.sparse.neighbors
    weight: Tensor,  # [K, I, O], or [I, O] for a kernel of one voxel
    bias: Tensor | None = None,  # [O]
    *,
    plan: ConvPlan | None = None,  # of this map, for kernels to keep what they derive from it
) -> Tensor:
    """``out[p] = sum over k of feats[neighbor_map[p, k]] @ weight[k], plus bias``. Returns [N, O].

    The map must be symmetric, as a set of distinct voxels gives it: q is at offset k of p exactly if p is at
    offset K - 1 - k of q. Under autocast it runs in the autocast dtype, else in that of ``feats``.
    """
    feats, weight, bias = one_dtype(feats, weight, bias)
    if weight.ndim == 2:
        return feats @ weight if bias is None else torch.addmm(bias, feats, weight)
    _check(feats, neighbor_map, weight)
    backend = backend_for("submanifold_conv3d", feats.device)
    if backend is Backend.TRITON:
        return kernels().submanifold_conv3d(feats, weight, bias, plan or ConvPlan(neighbor_map))
    if backend is Backend.REFERENCE:
        return reference.submanifold_conv3d(feats, neighbor_map, weight, bias)
    out = _GatherMatmul.apply(feats, weight, neighbor_map, tuple(range(weight.shape[0])))
    return out if bias is None else out.add_(bias)


def subdivided_conv3d(
    feats: Tensor,  # [N, I] of the parents
    neighbor_map: Tensor,  # [N, 27] of the parents
    weight: Tensor,  # [27, I, O]
    bias: Tensor | None = None,  # [O]
    *,
    plan: ConvPlan | None = None,  # as above
) -> Tensor:
    """Every voxel copied to its 8 children, then a 3^3 convolution among the children. Returns [8 N, O].

    The 27 neighbours of a child are copies of only 8 distinct parents, so the weights of equal inputs are
    summed first: 3.4 times less work, and the neighbour map of the children is never needed.
    """
    feats, weight, bias = one_dtype(feats, weight, bias)
    assert weight.shape[0] == 27, f"needs a 3^3 kernel, got {weight.shape[0]} offsets"
    _check(feats, neighbor_map, weight)
    backend = backend_for("submanifold_conv3d", feats.device)
    if backend is Backend.TRITON:
        return kernels().subdivided_conv3d(feats, weight, bias, plan or ConvPlan(neighbor_map))
    if backend is Backend.REFERENCE:
        return reference.subdivided_conv3d(feats, neighbor_map, weight, bias)
    children = []
    for columns, members in _child_offsets():
        index = torch.tensor(members, device=weight.device)  # [27] position in `columns` of each fine offset
        folded = weight.new_zeros(8, *weight.shape[1:], dtype=torch.float32)
        folded = folded.index_add(0, index, weight.float()).to(weight.dtype)
        children.append(_GatherMatmul.apply(feats, folded, neighbor_map, columns))
    out = torch.stack(children, dim=1).flatten(0, 1)
    del children
    return out if bias is None else out.add_(bias)


def gathered_elements(device: torch.device) -> int:
    """Elements that the torch path gathers at a time."""
    return GATHERED_ELEMENTS.get(device.type, GATHERED_ELEMENTS_ELSEWHERE)


def kernels() -> ModuleType:
    """The Triton side, imported where it runs: Triton need not be installed."""
    return importlib.import_module("core.ops.kernels.submanifold_conv")


def one_dtype(feats: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in the dtype that the product runs in: that of ``feats``, or autocast's."""
    device = feats.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else feats.dtype
    return feats.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _check(feats: Tensor, neighbor_map: Tensor, weight: Tensor) -> None:
    assert weight.ndim == 3 and feats.shape[1] == weight.shape[1], (
        f"feats {tuple(feats.shape)} for a kernel {tuple(weight.shape)}"
    )
    assert neighbor_map.shape == (feats.shape[0], weight.shape[0]), (
        f"map {tuple(neighbor_map.shape)} for {feats.shape[0]} voxels and {weight.shape[0]} offsets"
    )


@cache
def _child_offsets() -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Per child: the 8 parent offsets (of 27) that it sees, and for each fine offset which of them it falls on."""
    table = []
    for child in range(8):
        corner = (child >> 2, child >> 1 & 1, child & 1)  # x, y, z
        seen = []
        for k in range(27):
            step = (k % 3 - 1, k // 3 % 3 - 1, k // 9 - 1)
            px, py, pz = ((c + d) // 2 for c, d in zip(corner, step, strict=True))
            seen.append((px + 1) + 3 * (py + 1) + 9 * (pz + 1))
        columns = tuple(sorted(set(seen)))
        table.append((columns, tuple(columns.index(s) for s in seen)))
    return table


class _GatherMatmul(torch.autograd.Function):
    """``out[p] = sum over j of feats[neighbor_map[p, columns[j]]] @ weight[j]``."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        feats: Tensor,  # [N, I]
        weight: Tensor,  # [J, I, O]
        neighbor_map: Tensor,  # [N, K]
        columns: tuple[int, ...],  # J of the K offsets
    ) -> Tensor:
        ctx.save_for_backward(feats, weight, neighbor_map)
        ctx.columns = columns
        return _gather_matmul(feats, weight, neighbor_map, columns)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feats, weight, neighbor_map = ctx.saved_tensors
        grad = grad.contiguous()
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:
            last = neighbor_map.shape[1] - 1
            mirrored = tuple(last - k for k in ctx.columns)
            grad_feats = _gather_matmul(grad, weight.transpose(1, 2), neighbor_map, mirrored)
        if ctx.needs_input_grad[1]:
            total = torch.zeros(weight.shape[0] * weight.shape[1], weight.shape[2], device=grad.device)
            for rows, gathered in _gather_chunks(feats, neighbor_map, ctx.columns):
                total += gathered.t() @ grad[rows]
            grad_weight = total.view(weight.shape).to(weight.dtype)
        return grad_feats, grad_weight, None, None


def _gather_matmul(
    feats: Tensor,  # [N, I]
    weight: Tensor,  # [J, I, O]
    neighbor_map: Tensor,  # [N, K]
    columns: tuple[int, ...],
) -> Tensor:
    """The forward pass, [N, O]."""
    out = feats.new_empty(feats.shape[0], weight.shape[2])
    stacked = weight.reshape(-1, weight.shape[2])  # [J I, O]
    for rows, gathered in _gather_chunks(feats, neighbor_map, columns):
        if (missing := MIN_ROWS - gathered.shape[0]) > 0:
            out[rows] = (F.pad(gathered, (0, 0, 0, missing)) @ stacked)[:-missing]
        else:
            torch.mm(gathered, stacked, out=out[rows])
    return out


def _gather_chunks(
    feats: Tensor,  # [N, I]
    neighbor_map: Tensor,  # [N, K]
    columns: tuple[int, ...],
) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of voxels with the features of their neighbours side by side, zero where there is none: [rows, J I]."""
    n, channels = feats.shape
    step = max(gathered_elements(feats.device) // (len(columns) * channels), 64)
    padded = torch.cat([feats.new_zeros(1, channels), feats])  # row 0 stands for "no neighbour"
    in_order = columns == tuple(range(neighbor_map.shape[1]))
    chosen = None if in_order else torch.tensor(columns, device=feats.device)
    for start in range(0, n, step):
        rows = slice(start, min(start + step, n))
        index = neighbor_map[rows] if chosen is None else neighbor_map[rows].index_select(1, chosen)
        gathered = padded.index_select(0, (index + 1).reshape(-1))
        yield rows, gathered.view(-1, len(columns) * channels)
