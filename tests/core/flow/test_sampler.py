"""The Euler walk, guidance and kinds of prediction."""

import json
from pathlib import Path

import pytest
import torch

from core.flow.guidance import guided, guided_together
from core.flow.prediction import as_velocity
from core.flow.sampler import sample_euler
from core.flow.schedule import sigmas

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "flow_match_euler.json").read_text())


def test_traced_run_of_diffusers():
    run = GOLDEN["euler_trace_shift6_steps15"]
    factor, trace = torch.tensor(run["v_times_x"]), []
    sample_euler(
        lambda x, _: x * factor, torch.tensor(run["x0"]), sigmas(15, 6.0), on_step=lambda _, __, x: trace.append(x)
    )
    torch.testing.assert_close(torch.stack(trace), torch.tensor(run["trace"]), atol=1e-6, rtol=0)


def test_half_precision_rounds_once_a_step():
    x = torch.linspace(-2, 2, 64).half()
    levels = sigmas(3, 6.0)
    ours = sample_euler(lambda x, s: (x * s).half(), x, levels)
    for i in range(3):
        v = (x * levels[i].item()).half()
        x = (x.float() + (levels[i + 1] - levels[i]) * v).half()  # as diffusers writes it
    assert ours.dtype == torch.float16 and torch.equal(ours, x)


def test_steps_are_counted_and_may_be_stopped():
    seen = []
    sample_euler(lambda x, _: x, torch.ones(2), sigmas(4, 1.0), on_step=lambda i, n, _: seen.append((i, n)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(step, steps, x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample_euler(lambda x, _: x, torch.ones(2), sigmas(4, 1.0), on_step=stop)


@pytest.mark.parametrize("scale", [0.0, -1.0, 1.0])
def test_without_guidance_the_unconditional_branch_is_never_run(scale):
    velocity = guided(lambda x, _: x + 1, lambda x, _: pytest.fail("evaluated"), scale)
    assert velocity(torch.zeros(1), 1.0) == 1


def test_guidance_extrapolates():
    velocity = guided(lambda x, _: x + 3, lambda x, _: x + 1, 7.0)
    assert velocity(torch.zeros(1), 1.0) == 1 + 7 * 2


def test_predicted_sample_reaches_the_data():
    data = torch.randn(5, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(5, generator=torch.Generator().manual_seed(1))
    levels = torch.linspace(1, 0, 11)  # the last step is above the floor
    reached = sample_euler(as_velocity(lambda x, _: data, "sample"), noise, levels)
    torch.testing.assert_close(reached, data)


def test_velocity_passes_through_and_floor_holds():
    network = lambda x, _: x  # noqa: E731 - identity of the object matters here
    assert as_velocity(network, "velocity") is network
    x = torch.ones(1, dtype=torch.float16)
    v = as_velocity(lambda x, _: torch.zeros(1, dtype=torch.float16), "sample", floor=0.5)(x, 0.001)
    assert v == 2 and v.dtype == torch.float16
    with pytest.raises(ValueError, match="must be"):
        as_velocity(network, "noise")


def test_both_branches_in_one_evaluation():
    """The first half of what is evaluated has the condition."""
    seen = []

    def together(x, sigma):
        seen.append(x.shape)
        return torch.cat([x[: len(x) // 2] + 3, x[len(x) // 2 :] + 1]) if len(x) > 2 else x + 3

    x = torch.randn(2, 4)
    separate = guided(lambda x, _: x + 3, lambda x, _: x + 1, 7.0)(x, 0.5)
    torch.testing.assert_close(guided_together(together, 7.0)(x, 0.5), separate)
    assert torch.equal(guided_together(together, 1.0)(x, 0.5), x + 3)
    assert seen == [(4, 4), (2, 4)]
