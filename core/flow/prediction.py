"""What a network predicts, turned into the velocity that the sampler follows."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from core.flow.sampler import Velocity

Prediction = Literal["velocity", "sample"]
SIGMA_FLOOR = 0.02  # below this a predicted sample is not divided by sigma any more


def as_velocity(
    network: Callable[[Tensor, float], Tensor],  # (x_t, sigma) -> prediction, the shape of x_t
    prediction: Prediction,
    floor: float = SIGMA_FLOOR,
) -> Velocity:
    """Wrap ``network`` as a velocity.

    ``velocity``: the network's answer is the velocity already. ``sample``: it is the clean data x_0, and since
    x_t = (1 - t) x_0 + t noise, the velocity is (x_t - x_0) / t; t is kept above ``floor``.
    """
    if prediction == "velocity":
        return network
    if prediction != "sample":
        raise ValueError(f"prediction is {prediction!r}; it must be 'velocity' or 'sample'.")

    def velocity(x: Tensor, sigma: float) -> Tensor:
        clean = network(x, sigma)
        return ((x.to(torch.float32) - clean.to(torch.float32)) / max(sigma, floor)).to(x.dtype)

    return velocity
