"""Residual, norm and modulation, one formula each. The specification of ``core.ops.modulated_norm``.

Letters: N rows, B samples, n rows of each sample of a dense batch, C channels. Arithmetic is float32 (float64 for
float64); the result is rounded once.
"""

import torch
from torch import Tensor


def gated_residual(
    x: Tensor,  # [B, n, C] or [N, C]
    branch: Tensor,  # like x
    gate: Tensor | None,  # [B, C]
    index: Tensor | None,  # [N] sample of each row; None: x is dense or one sample
) -> Tensor:
    """``x + gate * branch``."""
    wide = _wide(x)
    added = branch.to(wide) if gate is None else _rows(gate.to(wide), x, index) * branch.to(wide)
    dtype = x.dtype
    for other in (branch, gate):
        dtype = dtype if other is None else torch.promote_types(dtype, other.dtype)
    return (x.to(wide) + added).to(dtype)


def modulated_norm(
    x: Tensor,  # [B, n, C] or [N, C]
    shift: Tensor | None,  # [B, C]
    scale: Tensor | None,  # [B, C]
    weight: Tensor | None,  # [C]
    bias: Tensor | None,  # [C]
    index: Tensor | None,  # [N] sample of each row
    eps: float,
) -> Tensor:
    """``((x - mean) / sqrt(variance + eps) * weight + bias) * (1 + scale) + shift``."""
    wide = _wide(x)
    values = x.to(wide)
    centered = values - values.mean(-1, keepdim=True)
    out = centered / (centered.square().mean(-1, keepdim=True) + eps).sqrt()
    if weight is not None:
        out = out * weight.to(wide)
    if bias is not None:
        out = out + bias.to(wide)
    if scale is not None:
        out = out * (1 + _rows(scale.to(wide), x, index)) + _rows(shift.to(wide), x, index)
    return out.to(x.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _rows(vectors: Tensor, x: Tensor, index: Tensor | None) -> Tensor:
    """Every row's vector of [B, C]."""
    if index is not None:
        return vectors[index]
    return vectors[:, None] if x.ndim == 3 else vectors
