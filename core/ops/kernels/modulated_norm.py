"""Residual, gate, layer norm, shift and scale in one pass over memory, and their gradients in another.

Letters: N rows, B samples, P programs of a sample, C channels.

One program walks a run of rows of one sample with the sample's vectors in registers; nothing is copied to the rows.
Arithmetic is float32. Rounded are the residual stream (the norm reads it rounded, so that the backward pass sees what
the forward pass saw) and the result; of the gradients only those that are returned. Sums over rows are made by
each program for its own rows, in order, and then over the programs: the same bits in every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from core.ops.kernels import launch

ROWS_FORWARD, ROWS_BACKWARD = 8, 32  # about so many rows a program
PROGRAMS_BACKWARD = 1024  # at most, of all samples: each has sums to store
ELEMENTS_PER_WARP = 256


def modulated_norm(
    x: Tensor,  # [B, n, C], or [N, C]
    shift: Tensor | None,  # [B, C]
    scale: Tensor | None,  # [B, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    cu_seqlens: Tensor | None,  # [B + 1] int32 for [N, C] of several samples
    eps: float,
) -> Tensor:
    """See ``core.ops.modulated_norm.modulated_norm``."""
    return _ModulatedNorm.apply(x, None, None, shift, scale, weight, bias, cu_seqlens, eps, True)


def gated_residual_norm(
    x: Tensor,
    branch: Tensor,  # like x
    gate: Tensor | None,  # [B, C]
    shift: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    cu_seqlens: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See ``core.ops.modulated_norm.gated_residual_norm``."""
    return _ModulatedNorm.apply(x, branch, gate, shift, scale, weight, bias, cu_seqlens, eps, True)


def gated_residual(x: Tensor, branch: Tensor, gate: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """See ``core.ops.modulated_norm.gated_residual``."""
    return _ModulatedNorm.apply(x, branch, gate, None, None, None, None, cu_seqlens, 0.0, False)


class _ModulatedNorm(torch.autograd.Function):
    """All three, by which arguments there are. Returns (stream, normed), or the one that is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        branch: Tensor | None,
        gate: Tensor | None,
        shift: Tensor | None,
        scale: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        cu_seqlens: Tensor | None,
        eps: float,
        norm: bool,
    ) -> Any:
        x, branch = x.contiguous(), _rows_or_one(branch)
        gate, shift, scale = (_unit_stride(vectors) for vectors in (gate, shift, scale))
        kind = _Kind(x, branch, gate, scale, weight, bias, cu_seqlens, norm)
        dtype = x.dtype
        for other in (branch, gate):
            dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
        stream = None if branch is None else torch.empty_like(x, dtype=dtype)
        normed = torch.empty_like(x, dtype=dtype) if norm else None
        keep = norm and any(ctx.needs_input_grad)
        stats = torch.empty((2, kind.num_rows), dtype=torch.float32, device=x.device) if keep else None
        launch.run(
            _forward, kind.grid(ROWS_FORWARD), x, branch, gate, shift, scale, weight, bias, stream, normed, stats,
            *kind.layout(cu_seqlens), kind.num_rows, *(_stride(vectors) for vectors in (gate, shift, scale)), eps,
            KEEP=keep, num_warps=kind.num_warps, **kind.constants,
        )  # fmt: skip
        normalised = None if not norm else x if stream is None else stream
        gated = None if gate is None else branch
        ctx.save_for_backward(normalised, gated, gate, scale, weight, bias, cu_seqlens, stats)
        ctx.kind = kind
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (x, branch, gate, shift, scale)]
        if not norm:
            return stream
        return normed if stream is None else (stream, normed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normalised, gated, gate, scale, weight, bias, cu_seqlens, stats = ctx.saved_tensors
        kind: _Kind = ctx.kind
        x_dtype, branch_dtype, gate_dtype, shift_dtype, scale_dtype = ctx.dtypes
        grads = tuple(grad.contiguous() for grad in grads)
        grad_stream = None if branch_dtype is None else grads[0]
        grad_normed = grads[-1] if kind.norm else None
        grad_x = torch.empty_like(grads[0], dtype=x_dtype)
        grad_branch = None if branch_dtype is None else torch.empty_like(grads[0], dtype=branch_dtype)
        grid = kind.grid(ROWS_BACKWARD, PROGRAMS_BACKWARD)
        shape = (len(kind.sums), grid[1], grid[0], grads[0].shape[-1])
        partial = torch.empty(shape, dtype=torch.float32, device=grad_x.device)
        launch.run(
            _backward, grid, normalised, gated, gate, scale, weight, bias, stats, grad_stream, grad_normed,
            grad_x, grad_branch, partial, *kind.layout(cu_seqlens), kind.num_rows, _stride(gate), _stride(scale),
            num_warps=kind.num_warps, **kind.constants,
        )  # fmt: skip
        totals = dict(zip(kind.sums, partial.sum(2), strict=True))  # each [B, C]
        of_samples = {"gate": gate_dtype, "shift": shift_dtype, "scale": scale_dtype}
        vectors = [None if dtype is None else totals[name].to(dtype) for name, dtype in of_samples.items()]
        affine = {"weight": weight, "bias": bias}
        shared = [None if of is None else totals[name].sum(0).to(of.dtype) for name, of in affine.items()]
        return grad_x, grad_branch, *vectors, *shared, None, None, None


class _Kind:
    """Which of the arguments there are, and how the rows are cut."""

    def __init__(
        self,
        x: Tensor,
        branch: Tensor | None,
        gate: Tensor | None,
        scale: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        cu_seqlens: Tensor | None,
        norm: bool,
    ) -> None:
        channels = x.shape[-1]
        self.norm = norm
        self.num_rows = x.numel() // channels
        self.batch = cu_seqlens.shape[0] - 1 if cu_seqlens is not None else x.shape[0] if x.ndim == 3 else 1
        there = {"gate": gate, "shift": scale, "scale": scale, "weight": weight, "bias": bias}
        self.sums = [name for name, tensor in there.items() if tensor is not None]
        block = launch.next_power_of_2(channels)
        self.num_warps = min(max(block // ELEMENTS_PER_WARP, 1), 8)
        self.constants = {
            "UNIFORM": cu_seqlens is None,
            "BRANCH": branch is not None,
            "CONSTANT_BRANCH": branch is not None and branch.ndim == 1,
            "GATED": gate is not None,
            "NORM": norm,
            "MODULATED": scale is not None,
            "WEIGHT": weight is not None,
            "BIAS": bias is not None,
            "C": channels,
            "BLOCK": block,
        }

    def grid(self, rows: int, most: int = 2**24) -> tuple[int, int]:
        """(P, B) programs, about one for so many rows."""
        if self.num_rows == 0:
            return 0, self.batch
        return max(1, min(launch.cdiv(self.num_rows, rows * self.batch), most // self.batch)), self.batch

    def layout(self, cu_seqlens: Tensor | None) -> tuple[Tensor | None, int]:
        """What tells a program its rows: first rows on the device, or the equal number of every sample."""
        return cu_seqlens, self.num_rows // max(self.batch, 1)


def _stride(vectors: Tensor | None) -> int:
    return 0 if vectors is None else vectors.stride(0)


def _unit_stride(vectors: Tensor | None) -> Tensor | None:
    """[B, C] with channels next to each other; parts of one projection stay where they are."""
    return vectors if vectors is None or vectors.stride(-1) == 1 else vectors.contiguous()


def _rows_or_one(branch: Tensor | None) -> Tensor | None:
    """A branch that is one row for all as that row [C], else contiguous."""
    if branch is not None and branch.numel() > branch.shape[-1] and not any(branch.stride()[:-1]):
        return branch[(0,) * (branch.ndim - 1)].contiguous()
    return None if branch is None else branch.contiguous()


@triton.jit
def _rows_of(cu, rows_per_sample, UNIFORM: tl.constexpr):
    """First row of this program, and the row after its last."""
    sample = tl.program_id(1)
    if UNIFORM:
        first = sample * rows_per_sample
        last = first + rows_per_sample
    else:
        first = tl.load(cu + sample)
        last = tl.load(cu + sample + 1)
    size = tl.cdiv(last - first, tl.num_programs(0))
    start = first + tl.program_id(0) * size
    return start, tl.minimum(start + size, last)


@triton.jit
def _vector(pointer, sample, stride, column, inside):
    """One sample's vector in float32."""
    return tl.load(pointer + sample.to(tl.int64) * stride + column, mask=inside, other=0).to(tl.float32)


@triton.jit
def _forward(
    x, branch, gate, shift, scale, weight, bias, stream, normed, stats,
    cu, rows_per_sample, num_rows, gate_stride, shift_stride, scale_stride, eps,
    KEEP: tl.constexpr, UNIFORM: tl.constexpr, BRANCH: tl.constexpr, CONSTANT_BRANCH: tl.constexpr,
    GATED: tl.constexpr, NORM: tl.constexpr, MODULATED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    start, stop = _rows_of(cu, rows_per_sample, UNIFORM)
    column = tl.arange(0, BLOCK)
    inside = column < C
    if GATED:
        gates = _vector(gate, sample, gate_stride, column, inside)
    if MODULATED:
        shifts = _vector(shift, sample, shift_stride, column, inside)
        factors = 1 + _vector(scale, sample, scale_stride, column, inside)
    if WEIGHT:
        weights = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    if BIAS:
        biases = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    place = start.to(tl.int64) * C + column
    for row in range(start, stop):
        value = tl.load(x + place, mask=inside, other=0).to(tl.float32)
        if BRANCH:
            added = tl.load(branch + (column if CONSTANT_BRANCH else place), mask=inside, other=0).to(tl.float32)
            if GATED:
                added = gates * added
            rounded = (value + added).to(stream.dtype.element_ty)
            tl.store(stream + place, rounded, mask=inside)
            value = rounded.to(tl.float32)
        if NORM:
            mean = tl.sum(value, axis=0) / C
            centered = tl.where(inside, value - mean, 0.0)
            inverse = tl.rsqrt(tl.sum(centered * centered, axis=0) / C + eps)
            out = centered * inverse
            if WEIGHT:
                out = out * weights
            if BIAS:
                out = out + biases
            if MODULATED:
                out = out * factors + shifts
            tl.store(normed + place, out.to(normed.dtype.element_ty), mask=inside)
            if KEEP:
                tl.store(stats + row, mean)
                tl.store(stats + num_rows + row, inverse)
        place += C


@triton.jit
def _backward(
    stream, branch, gate, scale, weight, bias, stats, grad_stream, grad_normed,
    grad_x, grad_branch, partial, cu, rows_per_sample, num_rows, gate_stride, scale_stride,
    UNIFORM: tl.constexpr, BRANCH: tl.constexpr, CONSTANT_BRANCH: tl.constexpr,
    GATED: tl.constexpr, NORM: tl.constexpr, MODULATED: tl.constexpr, WEIGHT: tl.constexpr, BIAS: tl.constexpr,
    C: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    start, stop = _rows_of(cu, rows_per_sample, UNIFORM)
    column = tl.arange(0, BLOCK)
    inside = column < C
    zero = tl.zeros((BLOCK,), tl.float32)
    sum_gate, sum_shift, sum_scale, sum_weight, sum_bias = zero, zero, zero, zero, zero
    if GATED:
        gates = _vector(gate, sample, gate_stride, column, inside)
    if MODULATED:
        factors = 1 + _vector(scale, sample, scale_stride, column, inside)
    if WEIGHT:
        weights = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
    if BIAS:
        biases = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
    place = start.to(tl.int64) * C + column
    for row in range(start, stop):
        gradient = zero
        if BRANCH:
            gradient = tl.load(grad_stream + place, mask=inside, other=0).to(tl.float32)
        if NORM:
            value = tl.load(stream + place, mask=inside, other=0).to(tl.float32)
            towards = tl.load(grad_normed + place, mask=inside, other=0).to(tl.float32)
            mean = tl.load(stats + row)
            inverse = tl.load(stats + num_rows + row)
            unit = tl.where(inside, (value - mean) * inverse, 0.0)
            if MODULATED:
                affine = unit
                if WEIGHT:
                    affine = affine * weights
                if BIAS:
                    affine = affine + biases
                sum_shift += towards
                sum_scale += towards * affine
                towards = towards * factors
            if BIAS:
                sum_bias += towards
            if WEIGHT:
                sum_weight += towards * unit
                towards = towards * weights
            along_one = tl.sum(towards, axis=0) / C
            along_unit = tl.sum(towards * unit, axis=0) / C
            gradient = gradient + inverse * (towards - along_one - unit * along_unit)
        tl.store(grad_x + place, gradient.to(grad_x.dtype.element_ty), mask=inside)
        if BRANCH:
            if GATED:
                added = tl.load(branch + (column if CONSTANT_BRANCH else place), mask=inside, other=0).to(tl.float32)
                sum_gate += gradient * added
                gradient = gradient * gates
            tl.store(grad_branch + place, gradient.to(grad_branch.dtype.element_ty), mask=inside)
        place += C
    # partial [sums, B, P, C], in the order of _Kind.sums
    samples, parts = tl.num_programs(1), tl.num_programs(0)
    out = partial + (sample * parts + tl.program_id(0)).to(tl.int64) * C + column
    step = samples.to(tl.int64) * parts * C
    if GATED:
        tl.store(out, sum_gate, mask=inside)
        out += step
    if MODULATED:
        tl.store(out, sum_shift, mask=inside)
        tl.store(out + step, sum_scale, mask=inside)
        out += 2 * step
    if WEIGHT:
        tl.store(out, sum_weight, mask=inside)
        out += step
    if BIAS:
        tl.store(out, sum_bias, mask=inside)
