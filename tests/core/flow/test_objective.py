"""The training side agrees with the sampling side."""

import pytest
import torch

from core.flow.objective import (
    dropped_conditions,
    noised,
    sample_loss_weight,
    sample_times,
    velocity_target,
    without_dropped,
)
from core.flow.prediction import as_velocity


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_distributions():
    uniform = sample_times(20_000, "uniform", generator=seeded())
    assert abs(uniform.mean() - 0.5) < 0.01 and abs(uniform.var() - 1 / 12) < 0.003
    normal = sample_times(20_000, "logit-normal", generator=seeded(), mean=1.0)
    assert abs(torch.logit(normal).mean() - 1) < 0.03 and abs(torch.logit(normal).std() - 1) < 0.03
    assert sample_times(1000, "uniform", 6.0, seeded()).mean() > 0.7
    assert torch.equal(sample_times(9, "uniform", 2.0, seeded(3)), sample_times(9, "uniform", 2.0, seeded(3)))
    with pytest.raises(ValueError, match="must be"):
        sample_times(1, "beta")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(4, 8, 2, 2, 2), (4, 16)])
def test_ends_and_velocity(shape):
    x0, noise = torch.randn(shape, generator=seeded()), torch.randn(shape, generator=seeded(1))
    assert torch.equal(noised(x0, noise, torch.zeros(4)), x0)
    assert torch.equal(noised(x0, noise, torch.ones(4)), noise)
    step = (noised(x0, noise, torch.full((4,), 0.75)) - noised(x0, noise, torch.full((4,), 0.25))) / 0.5
    torch.testing.assert_close(step, velocity_target(x0, noise))
    assert noised(x0.bfloat16(), noise.bfloat16(), torch.zeros(4)).dtype == torch.bfloat16


def test_weight_makes_a_sample_error_a_velocity_error():
    x0, noise = torch.randn(1, 6, generator=seeded()), torch.randn(1, 6, generator=seeded(1))
    for t in (0.9, 0.3, 0.01):
        times = torch.tensor([t])
        x_t = noised(x0, noise, times)
        guess = x0 + 0.1
        implied = as_velocity(lambda x, _, guess=guess: guess, "sample")(x_t, t)
        exact = as_velocity(lambda x, _: x0, "sample")(x_t, t)
        weighted = sample_loss_weight(times) * (guess - x0).square().mean()
        torch.testing.assert_close(weighted[0], (implied - exact).square().mean(), rtol=1e-3, atol=0)


def test_dropped_conditions_become_zero_tokens():
    dropped = dropped_conditions(1000, 0.1, seeded())
    assert dropped.dtype == torch.bool and 60 < dropped.sum() < 140
    cond = torch.ones(3, 4, 5)
    kept = without_dropped(cond, torch.tensor([False, True, False]))
    assert kept.sum(dim=(1, 2)).tolist() == [20, 0, 20]
