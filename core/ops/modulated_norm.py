"""What stands between the branches of a transformer block: residual, gate, layer norm, shift and scale (adaLN).

Letters: N rows (tokens) of all samples, B samples, n rows of each sample of a dense batch, C channels.

Rows are ``x`` [B, n, C], or [N, C] with the rows of a sample next to each other. Vectors of a sample are [B, C] and
are never copied to the rows. The norm works in float32 and divides by sqrt(variance + eps).

Where numbers are rounded: torch rounds after every operation, as the layers always did: the product of gate and
branch, the sum, the norm, ``1 + scale``, its product and the shift each become ``x.dtype``. The kernels round twice:
the residual stream, which the norm then reads as rounded, and the result. In float32 the two differ by the last bits.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.backend import Backend, backend_for
from core.ops.reference import modulated_norm as reference

KERNEL_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
KERNEL_CHANNELS = 4096


class SampleRows(NamedTuple):
    """Which sample each of the rows [N, C] belongs to. A single sample, or a dense batch, needs none."""

    index: Tensor  # [N] int64, ascending
    cu_seqlens: Tensor  # [B + 1] int32: first row of each sample, then N


def modulated_norm(
    x: Tensor,  # [B, n, C] or [N, C]
    shift: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]; shift and scale come together
    *,
    weight: Tensor | None = None,  # [C]
    bias: Tensor | None = None,  # [C]
    samples: SampleRows | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """``norm(x) * (1 + scale) + shift``; the norm has the weights of a layer norm, or none. Returns the shape of x."""
    _check(x, shift, scale, None, samples)
    backend = _backend(x)
    if backend is Backend.REFERENCE:
        return reference.modulated_norm(x, shift, scale, weight, bias, samples and samples.index, eps)
    if backend is Backend.TRITON:
        from core.ops.kernels import modulated_norm as kernels

        return kernels.modulated_norm(x, shift, scale, weight, bias, samples and samples.cu_seqlens, eps)
    return _norm(x, shift, scale, weight, bias, samples, eps)


def gated_residual_norm(
    x: Tensor,  # [B, n, C] or [N, C]
    branch: Tensor,  # like x; may be one row [C] expanded to that shape
    gate: Tensor | None = None,  # [B, C]; None is 1
    shift: Tensor | None = None,  # [B, C]
    scale: Tensor | None = None,  # [B, C]
    *,
    weight: Tensor | None = None,  # [C]
    bias: Tensor | None = None,  # [C]
    samples: SampleRows | None = None,
    eps: float = 1e-6,
) -> tuple[Tensor, Tensor]:
    """The residual stream ``x + gate * branch``, and its ``modulated_norm``. Both have the shape of x."""
    _check(x, shift, scale, gate, samples)
    backend = _backend(x)
    if backend is Backend.TRITON:
        from core.ops.kernels import modulated_norm as kernels

        cu_seqlens = samples and samples.cu_seqlens
        return kernels.gated_residual_norm(x, branch, gate, shift, scale, weight, bias, cu_seqlens, eps)
    if backend is Backend.REFERENCE:
        index = samples and samples.index
        stream = reference.gated_residual(x, branch, gate, index)
        return stream, reference.modulated_norm(stream, shift, scale, weight, bias, index, eps)
    stream = _residual(x, branch, gate, samples)
    return stream, _norm(stream, shift, scale, weight, bias, samples, eps)


def gated_residual(
    x: Tensor,  # [B, n, C] or [N, C]
    branch: Tensor,  # like x
    gate: Tensor | None = None,  # [B, C]; None is 1
    *,
    samples: SampleRows | None = None,
) -> Tensor:
    """``x + gate * branch``, the shape of x."""
    _check(x, None, None, gate, samples)
    backend = _backend(x)
    if backend is Backend.REFERENCE:
        return reference.gated_residual(x, branch, gate, samples and samples.index)
    if backend is Backend.TRITON and gate is not None:  # without a gate it is one pass over memory anyway
        from core.ops.kernels import modulated_norm as kernels

        return kernels.gated_residual(x, branch, gate, samples and samples.cu_seqlens)
    return _residual(x, branch, gate, samples)


def _backend(x: Tensor) -> Backend:
    """As for every op; what no kernel is made for (float64, very many channels) runs in torch."""
    backend = backend_for("modulated_norm", x.device)
    fits = x.dtype in KERNEL_DTYPES and x.shape[-1] <= KERNEL_CHANNELS
    return Backend.TORCH if backend is Backend.TRITON and not fits else backend


def _check(
    x: Tensor, shift: Tensor | None, scale: Tensor | None, gate: Tensor | None, samples: SampleRows | None
) -> None:
    assert x.ndim in (2, 3), f"rows are [N, C] or [B, n, C], got {tuple(x.shape)}"
    assert (shift is None) == (scale is None), "shift and scale come together"
    if samples is not None:
        assert x.ndim == 2 and samples.index.shape[0] == x.shape[0], "a dense batch needs no SampleRows"
        batch = samples.cu_seqlens.shape[0] - 1
    else:
        batch = x.shape[0] if x.ndim == 3 else 1
    for vectors in (shift, scale, gate):
        assert vectors is None or vectors.shape == (batch, x.shape[-1]), (
            f"vectors {tuple(vectors.shape)} for {batch} samples of {x.shape[-1]} channels"
        )


def _residual(x: Tensor, branch: Tensor, gate: Tensor | None, samples: SampleRows | None) -> Tensor:
    if gate is None:
        return x + branch
    product = _to_rows(gate, x, samples) * branch
    if not torch.is_grad_enabled() and product.dtype == torch.promote_types(x.dtype, product.dtype):
        return product.add_(x)  # it is nobody else's
    return x + product


def _norm(
    x: Tensor,
    shift: Tensor | None,
    scale: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    samples: SampleRows | None,
    eps: float,
) -> Tensor:
    weight, bias = (None if parameter is None else parameter.float() for parameter in (weight, bias))
    normed = F.layer_norm(x.float(), x.shape[-1:], weight, bias, eps).to(x.dtype)
    if scale is None:
        return normed
    factor = _to_rows((1 + scale).to(x.dtype), x, samples)
    shift = _to_rows(shift.to(x.dtype), x, samples)
    if torch.is_grad_enabled():
        return normed * factor + shift
    return normed.mul_(factor).add_(shift)


def _to_rows(vectors: Tensor, x: Tensor, samples: SampleRows | None) -> Tensor:
    """[B, C] to what broadcasts with x."""
    if x.ndim == 3:
        return vectors[:, None]
    return vectors if samples is None else vectors.index_select(0, samples.index)
