"""Guidance in an interval and an unconditional branch that is kept: which branch is evaluated where, and what comes."""

import pytest
import torch

from core.flow.guidance import guided, guided_together
from core.flow.sampler import sample_euler

LEVELS = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])


def towards(x, sigma):
    return x * (1 + sigma)


def away(x, sigma):
    return x.sin() * sigma + 1


class Watched:
    """A velocity that notes the levels it is asked for."""

    def __init__(self, velocity):
        self.velocity, self.levels = velocity, []

    def __call__(self, x, sigma):
        self.levels.append(sigma)
        return self.velocity(x, sigma)


def both_ways(scale, **savings):
    """The end of a walk, the conditional and the unconditional levels; held to the walk with both in one evaluation."""
    c, u = Watched(towards), Watched(away)
    x = torch.linspace(-1, 1, 6)
    end = sample_euler(guided(c, u, scale, **savings), x, LEVELS)

    sizes = []

    def together(x, sigma):
        sizes.append(len(x))
        half = len(x) // 2
        return torch.cat([towards(x[:half], sigma), away(x[half:], sigma)]) if len(x) > 6 else towards(x, sigma)

    assert torch.equal(sample_euler(guided_together(together, scale, **savings), x, LEVELS), end)
    assert sizes == [12 if level in u.levels else 6 for level in c.levels]
    return end, c.levels, u.levels


def test_without_savings_it_is_the_plain_formula_bit_for_bit():
    end, conditional, unconditional = both_ways(3.0)
    assert conditional == unconditional == LEVELS[:-1].tolist()
    x = torch.linspace(-1, 1, 6)
    for a, b in zip(LEVELS, LEVELS[1:], strict=False):
        c, u = towards(x, a.item()), away(x, a.item())
        x = x + (b - a) * (u + 3.0 * (c - u))
    assert torch.equal(end, x)


@pytest.mark.parametrize(
    "interval, expected",
    [((0.0, 1.0), [1.0, 0.75, 0.5, 0.25]), ((0.5, 0.75), [0.75, 0.5]), ((0.3, 0.4), []), ((0.5, 0.5), [0.5])],
)
def test_outside_the_interval_the_conditional_branch_is_alone(interval, expected):
    end, conditional, unconditional = both_ways(3.0, interval=interval)
    assert conditional == LEVELS[:-1].tolist() and unconditional == expected
    x = torch.linspace(-1, 1, 6)
    for a, b in zip(LEVELS.tolist(), LEVELS.tolist()[1:], strict=False):
        c, u = towards(x, a), away(x, a)
        x = x + (b - a) * (u + 3.0 * (c - u) if a in expected else c)
    torch.testing.assert_close(end, x)


@pytest.mark.parametrize(
    "every, expected", [(1, [1.0, 0.75, 0.5, 0.25]), (2, [1.0, 0.5]), (3, [1.0, 0.25]), (9, [1.0])]
)
def test_between_its_evaluations_the_difference_of_the_branches_is_the_last(every, expected):
    end, conditional, unconditional = both_ways(4.0, every=every)
    assert conditional == LEVELS[:-1].tolist() and unconditional == expected
    x = torch.linspace(-1, 1, 6)
    for a, b in zip(LEVELS.tolist(), LEVELS.tolist()[1:], strict=False):
        if a in expected:
            difference = towards(x, a) - away(x, a)
        x = x + (b - a) * (towards(x, a) + 3.0 * difference)
    torch.testing.assert_close(end, x)


def test_guided_evaluations_are_counted_and_each_walk_begins_anew():
    _, _, unconditional = both_ways(4.0, every=2, interval=(0.0, 0.8))
    assert unconditional == [0.75, 0.25]
    u = Watched(away)
    for _ in range(2):
        sample_euler(guided(towards, u, 4.0, every=3), torch.ones(2), LEVELS)
    assert u.levels == [1.0, 0.25] * 2


@pytest.mark.parametrize("savings", [{"every": 0}, {"interval": (0.6, 0.4)}, {"interval": (float("nan"), 1.0)}])
@pytest.mark.parametrize(
    "wrap", [lambda **s: guided(towards, away, 2.0, **s), lambda **s: guided_together(away, 2.0, **s)]
)
def test_what_makes_no_sense(wrap, savings):
    with pytest.raises(ValueError, match="interval is .* and every is "):
        wrap(**savings)


def test_without_guidance_nothing_is_wrapped():
    assert guided(towards, away, 1.0, every=2, interval=(0.1, 0.2)) is towards
    assert guided_together(towards, 0.0, every=2) is towards
