"""Training side of the rectified flow (Liu et al., 2022; Esser et al., 2024, for the logit-normal times).

R rows: samples of a dense batch, or voxels of a sparse one, whose times the caller repeats per voxel.
"""

from typing import Literal

import torch
from torch import Tensor

from core.flow.prediction import SIGMA_FLOOR
from core.flow.schedule import shifted

TimeDistribution = Literal["uniform", "logit-normal"]


def sample_times(
    batch: int,
    distribution: TimeDistribution,
    shift: float = 1.0,
    generator: torch.Generator | None = None,
    *,
    mean: float = 0.0,
    std: float = 1.0,
) -> Tensor:
    """Training times [batch] float32 in 0..1, on the generator's device (the CPU without one).

    ``uniform`` or ``logit-normal`` (sigmoid of a normal of ``mean`` and ``std``), then moved towards noise by
    ``shift`` as the sampler's schedule is.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    if distribution == "uniform":
        t = torch.rand(batch, generator=generator, device=device)
    elif distribution == "logit-normal":
        t = torch.sigmoid(mean + std * torch.randn(batch, generator=generator, device=device))
    else:
        raise ValueError(f"distribution is {distribution!r}; it must be 'uniform' or 'logit-normal'.")
    return shifted(t, shift)


def noised(
    x0: Tensor,  # [R, ...] data
    noise: Tensor,  # [R, ...] standard normal, the shape of x0
    t: Tensor,  # [R] times in 0..1
) -> Tensor:
    """x_t = (1 - t) x_0 + t noise: [R, ...], the dtype of ``x0``."""
    assert x0.shape == noise.shape and t.shape == x0.shape[:1]
    t = _over_rows(t, x0)
    return ((1 - t) * x0 + t * noise).to(x0.dtype)


def velocity_target(
    x0: Tensor,  # [R, ...]
    noise: Tensor,  # [R, ...]
) -> Tensor:
    """The velocity dx_t/dt = noise - x_0: [R, ...]."""
    return noise - x0


def sample_loss_weight(
    t: Tensor,  # [R]
    floor: float = SIGMA_FLOOR,
) -> Tensor:
    """Weights [R] that turn the squared error of a predicted x_0 into that of the velocity it implies: 1 / t^2.

    ``floor`` bounds t from below, as ``as_velocity`` does when sampling.
    """
    return t.clamp_min(floor) ** -2


def dropped_conditions(batch: int, probability: float, generator: torch.Generator | None = None) -> Tensor:
    """Which samples lose their condition, for guidance: [batch] bool, on the generator's device."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.rand(batch, generator=generator, device=device) < probability


def without_dropped(
    cond: Tensor,  # [B, ...] condition tokens
    dropped: Tensor,  # [B] bool
) -> Tensor:
    """``cond`` with all-zero tokens for the dropped samples: the unconditional input of the released models."""
    return cond.masked_fill(_over_rows(dropped.to(cond.device), cond), 0)


def _over_rows(per_row: Tensor, like: Tensor) -> Tensor:
    """[R] as [R, 1, ...], to broadcast over ``like`` [R, ...]."""
    return per_row.reshape(-1, *[1] * (like.ndim - 1))
