"""Sparse convolutions of the Triton backend, with their gradients.

Letters: N voxels, K kernel offsets, I input channels, O output channels, L level.
"""

import torch
from torch import Tensor

from core.ops.conv_plan import ConvPlan, fold_subdivided, unfold_subdivided
from core.ops.kernels.brick_conv import brick_conv
from core.ops.kernels.conv_weight_gradient import weight_gradient
from core.ops.kernels.implicit_gemm import implicit_gemm


def submanifold_conv3d(
    feats: Tensor,  # [N, I]
    weight: Tensor,  # [K, I, O]
    bias: Tensor | None,  # [O]
    plan: ConvPlan,
) -> Tensor:
    """See core.ops.submanifold_conv. Returns [N, O]."""
    return _Submanifold.apply(feats, weight, bias, plan)


def subdivided_conv3d(
    feats: Tensor,  # [N, I] of the parents
    weight: Tensor,  # [27, I, O]
    bias: Tensor | None,  # [O]
    plan: ConvPlan,  # of the parents
) -> Tensor:
    """See core.ops.submanifold_conv. Returns [8 N, O]."""
    return _Subdivided.apply(feats, weight, bias, plan)


def brick_conv3d(
    feats: Tensor,  # [N * 8^L, I]
    weight: Tensor,  # [27, I, O]
    bias: Tensor | None,  # [O]
    plan: ConvPlan,  # of the N latents
    level: int,
    *,
    subdivide: bool,
    silu: bool,
) -> Tensor:
    """See core.ops.brick_conv; without gradients. Returns [N * 8^L, O], or the children's [8 N * 8^L, O]."""
    if subdivide:
        return brick_conv(feats, plan.by_offset, fold_subdivided(weight), bias, level, silu=silu)
    if level == 0:  # here a third of the neighbors may be missing: rows that miss the same are worth sorting
        return implicit_gemm(feats, weight, plan, bias, silu=silu)
    return brick_conv(feats, plan.by_offset, weight, bias, level, silu=silu)


class _Submanifold(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        feats: Tensor,  # [N, I]
        weight: Tensor,  # [K, I, O]
        bias: Tensor | None,  # [O]
        plan: ConvPlan,
    ) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.plan = plan
        return implicit_gemm(feats, weight, plan, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feats, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:  # p is at offset K - 1 - k of its neighbor at offset k
            grad_feats = implicit_gemm(grad, weight.flip(0).transpose(1, 2), ctx.plan)
        if ctx.needs_input_grad[1]:
            grad_weight = weight_gradient(feats, grad, ctx.plan).to(weight.dtype)
        return grad_feats, grad_weight, _grad_bias(ctx.needs_input_grad[2], grad), None


class _Subdivided(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        feats: Tensor,  # [N, I]
        weight: Tensor,  # [27, I, O]
        bias: Tensor | None,  # [O]
        plan: ConvPlan,
    ) -> Tensor:
        ctx.save_for_backward(feats, weight)
        ctx.plan = plan
        return brick_conv(feats, plan.by_offset, fold_subdivided(weight), bias, level=0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        feats, weight = ctx.saved_tensors
        grad = grad.contiguous()  # [8 N, O]
        grad_feats = grad_weight = None
        if ctx.needs_input_grad[0]:
            folded = fold_subdivided(weight).transpose(1, 2)  # [64, O, I]
            grad_feats = implicit_gemm(grad, folded, ctx.plan, subdivided=True)
        if ctx.needs_input_grad[1]:
            folded = weight_gradient(feats, grad, ctx.plan, subdivided=True)  # [64, I, O]
            grad_weight = unfold_subdivided(folded).to(weight.dtype)
        return grad_feats, grad_weight, _grad_bias(ctx.needs_input_grad[2], grad), None


def _grad_bias(wanted: bool, grad: Tensor) -> Tensor | None:
    return grad.sum(0, dtype=torch.float32).to(grad.dtype) if wanted else None
