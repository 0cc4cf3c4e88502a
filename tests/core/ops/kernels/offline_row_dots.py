"""Calls of ``row_dots`` for the offline compiler; shapes as in test_offline_compile."""

import torch

from core.ops.kernels.row_dots import row_dots


def shipped() -> None:
    """What ships, what needs padding, one branch of many heads."""
    for heads, channels, dtype in [(32, 32, torch.bfloat16), (6, 40, torch.float16), (64, 128, torch.float32)]:
        x = torch.empty(64, heads, channels, dtype=dtype)
        row_dots(x, (x, x, x))
        row_dots(x, (None, x, None))
