"""Sparse convolutions at the shapes of the released VAE, for tests/support/offline_compile.py."""

import torch

from core.ops.conv_plan import ConvPlan
from core.ops.kernels import implicit_gemm as product
from core.ops.kernels.brick_conv import brick_conv
from core.ops.kernels.conv_weight_gradient import weight_gradient
from core.ops.kernels.implicit_gemm import implicit_gemm

ROWS = 128 * 300
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
GENERAL = ((512, 128, BF16), (64, 32, FP16), (32, 32, BF16), (5, 9, BF16), (32, 64, FP32))  # input, output channels
DECODER = (  # level, input and output channels, taps
    (0, 128, 128, 64, BF16),
    (1, 128, 64, 27, FP16),
    (1, 64, 64, 64, BF16),
    (2, 64, 32, 27, FP16),
    (2, 32, 32, 64, BF16),
    (2, 32, 32, 64, FP32),
)


def shipped_forward() -> None:
    """Bias and activation in the epilogue."""
    plan = _plan()
    for inputs, outputs, dtype in GENERAL:
        weight = torch.zeros(27, inputs, outputs, dtype=dtype)
        implicit_gemm(torch.zeros(ROWS, inputs, dtype=dtype), weight, plan, weight[0, 0], silu=True)


def input_gradients() -> None:
    """Channels the other way round; few rows; the children's gradients given to their parents."""
    plan = _plan()
    implicit_gemm(torch.zeros(ROWS, 128, dtype=BF16), torch.zeros(27, 128, 512, dtype=BF16), plan)
    implicit_gemm(torch.zeros(8 * ROWS, 64, dtype=BF16), torch.zeros(64, 64, 64, dtype=BF16), plan, subdivided=True)
    implicit_gemm(torch.zeros(6000, 64, dtype=BF16), torch.zeros(27, 64, 64, dtype=BF16), _plan(6000))


def weight_gradients() -> None:
    """Of plain and subdivided convolutions."""
    plan = _plan()
    for inputs, outputs, dtype in GENERAL:
        weight_gradient(torch.zeros(ROWS, inputs, dtype=dtype), torch.zeros(ROWS, outputs, dtype=dtype), plan)
    weight_gradient(torch.zeros(ROWS, 64, dtype=BF16), torch.zeros(8 * ROWS, 64, dtype=BF16), plan, subdivided=True)


def shipped_bricks() -> None:
    """The decoder's convolutions at the levels that they run at."""
    for case in DECODER:
        _brick(*case)


def wide_addresses() -> None:
    """Tensors of 2^31 elements and more."""
    narrow, product.NARROW_ELEMENTS = product.NARROW_ELEMENTS, 1
    try:
        plan = _plan()
        implicit_gemm(torch.zeros(ROWS, 64, dtype=BF16), torch.zeros(27, 64, 32, dtype=BF16), plan)
        weight_gradient(torch.zeros(ROWS, 64, dtype=BF16), torch.zeros(ROWS, 32, dtype=BF16), plan)
        _brick(2, 32, 32, 64, BF16)
    finally:
        product.NARROW_ELEMENTS = narrow


def _plan(rows: int = ROWS) -> ConvPlan:
    return ConvPlan(torch.full((27, rows), -1, dtype=torch.int32).t())


def _brick(level: int, inputs: int, outputs: int, taps: int, dtype: torch.dtype) -> None:
    neighbors = torch.full((27, 64), -1, dtype=torch.int32)
    weight = torch.zeros(taps, inputs, outputs, dtype=dtype)
    brick_conv(torch.zeros(64 * 8**level, inputs, dtype=dtype), neighbors, weight, weight[0, 0], level, silu=True)
