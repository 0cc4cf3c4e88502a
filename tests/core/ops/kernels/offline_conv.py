"""Sparse convolutions at the shapes of the released decoder, for tests/support/offline_compile.py."""

import torch

from core.ops.conv_plan import ConvPlan
from core.ops.kernels.brick_conv import brick_conv
from core.ops.kernels.conv_weight_gradient import weight_gradient
from core.ops.kernels.implicit_gemm import implicit_gemm

SHAPES = ((512, 128), (128, 128), (128, 64), (64, 64), (64, 32), (32, 32))  # input, output channels
DECODER = ((0, 128, 128, 64), (1, 128, 64, 27), (1, 64, 64, 64), (2, 64, 32, 27), (2, 32, 32, 64))  # level, .., taps
ROWS = 128 * 300


def _plan() -> ConvPlan:
    return ConvPlan(torch.full((27, ROWS), -1, dtype=torch.int32).t())


def forward() -> None:
    """Bias and activation in the epilogue."""
    plan = _plan()
    for dtype in (torch.float16, torch.bfloat16):
        for inputs, outputs in SHAPES:
            feats, weight = torch.zeros(ROWS, inputs, dtype=dtype), torch.zeros(27, inputs, outputs, dtype=dtype)
            implicit_gemm(feats, weight, plan, weight[0, 0], silu=True)


def weights() -> None:
    """Gradients of the weights."""
    plan = _plan()
    for dtype in (torch.float16, torch.bfloat16):
        for inputs, outputs in SHAPES:
            feats, grad = torch.zeros(ROWS, inputs, dtype=dtype), torch.zeros(ROWS, outputs, dtype=dtype)
            weight_gradient(feats, grad, plan)


def bricks() -> None:
    """The decoder's convolutions at the levels that they run at."""
    neighbors = _plan().by_offset[:, :64].contiguous()
    for dtype in (torch.float16, torch.bfloat16):
        for level, inputs, outputs, taps in DECODER:
            feats = torch.zeros(64 * 8**level, inputs, dtype=dtype)
            weight = torch.zeros(taps, inputs, outputs, dtype=dtype)
            brick_conv(feats, neighbors, weight, weight[0, 0], level, silu=True)
