"""Methods of second order: their arithmetic, their order on a velocity whose path is known, what they ask of it."""

import math

import pytest
import torch

from core.flow.sampler import SAMPLERS, sample_heun, sample_multistep
from core.flow.schedule import shifted, sigmas

UNEVEN = torch.tensor([1.0, 0.8, 0.5, 0.45, 0.0])


def uneven(steps: int) -> torch.Tensor:
    """Levels of a walk, [steps + 1], closer to each other near noise and getting finer everywhere with more steps."""
    return shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64), 3.0)


def error(solver: str, steps: int) -> float:
    """Of dx/ds = x (1 + s^2) from 1 to 0, whose end is x exp(-4 / 3)."""
    start = torch.tensor([1.0, -2.0])
    end = SAMPLERS[solver](lambda x, s: x * (1 + s * s), start, uneven(steps))
    return (end - start * math.exp(-4 / 3)).norm().item()


@pytest.mark.parametrize("solver, order", [("euler", 1), ("multistep", 2), ("heun", 2)])
def test_order_of_convergence(solver, order):
    errors = [error(solver, steps) for steps in (10, 20, 40, 80)]
    found = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert found[-1] == pytest.approx(order, abs=0.25), found
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("solver", SAMPLERS)
def test_a_straight_path_needs_no_second_order(solver):
    towards, start = torch.randn(5), torch.randn(5)
    end = SAMPLERS[solver](lambda x, s: towards, start, UNEVEN)
    torch.testing.assert_close(end, start - towards)


@pytest.mark.parametrize("solver", ["multistep", "heun"])
def test_a_velocity_that_changes_evenly_is_followed_exactly_once_it_is_known(solver):
    """Both are exact for v = s, but for the step that is Euler's: the first of the one, the last of the other."""
    end = SAMPLERS[solver](lambda x, s: torch.full_like(x, s), torch.zeros(1), UNEVEN)
    a, b = (UNEVEN[:2] if solver == "multistep" else UNEVEN[-2:]).tolist()
    euler_step = (b - a) * a - (b * b - a * a) / 2
    torch.testing.assert_close(end, torch.tensor([-0.5 + euler_step]))


def test_multistep_as_it_is_written():
    def v(x, s):
        return x.sin() * s + 1

    x = start = torch.randn(7)
    values = []
    for i, (a, b) in enumerate(zip(UNEVEN.tolist(), UNEVEN.tolist()[1:], strict=False)):
        values.append(v(x, a))
        if i == 0:
            x = x + (b - a) * values[0]
        else:  # the integral of the line through both over the step
            slope = (values[i] - values[i - 1]) / (a - UNEVEN[i - 1].item())
            x = x + (b - a) * values[i] + (b - a) ** 2 / 2 * slope
    torch.testing.assert_close(sample_multistep(v, start, UNEVEN), x)


def test_heun_as_it_is_written_and_never_at_zero():
    asked = []

    def v(x, s):
        asked.append(s)
        return x.sin() * s + 1

    x = start = torch.randn(7)
    for a, b in zip(UNEVEN.tolist(), UNEVEN.tolist()[1:], strict=False):
        first = x.sin() * a + 1
        second = first if b == 0 else (x + (b - a) * first).sin() * b + 1
        x = x + (b - a) * (first + second) / 2
    torch.testing.assert_close(sample_heun(v, start, UNEVEN), x)
    assert len(asked) == 2 * 4 - 1 and min(asked) > 0
    asked.clear()
    sample_heun(v, start, UNEVEN[:-1])  # ends above zero
    assert len(asked) == 2 * 3


@pytest.mark.parametrize("solver", SAMPLERS)
def test_steps_are_told_and_the_dtype_stays(solver):
    seen, evaluations = [], []

    def v(x, s):
        assert x.dtype == torch.float16
        evaluations.append(s)
        return x * 0.5

    end = SAMPLERS[solver](
        v, torch.ones(3).half(), sigmas(4, 6.0), on_step=lambda i, n, x: seen.append((i, n, x.dtype))
    )
    assert end.dtype == torch.float16 and seen == [(i, 4, torch.float16) for i in (1, 2, 3, 4)]
    assert len(evaluations) == {"euler": 4, "multistep": 4, "heun": 7}[solver]


@pytest.mark.parametrize("solver", SAMPLERS)
def test_a_walk_of_one_step(solver):
    start = torch.randn(3)
    end = SAMPLERS[solver](lambda x, s: 2 * x, start, sigmas(1, 1.0))
    torch.testing.assert_close(end, -start)
