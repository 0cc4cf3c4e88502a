"""Noise levels against diffusers' own numbers."""

import json
from pathlib import Path

import pytest
import torch

from core.flow.schedule import rounded_timestep, shifted, sigmas, timestep

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "flow_match_euler.json").read_text())
SCHEDULES = [name for name in GOLDEN if name.startswith("shift")]


@pytest.mark.parametrize("name", SCHEDULES)
def test_equals_diffusers(name):
    shift, steps = name.removeprefix("shift").split("_steps")
    levels = sigmas(int(steps), float(shift))
    assert levels.dtype == torch.float32
    torch.testing.assert_close(levels, torch.tensor(GOLDEN[name]["sigmas"]), atol=1e-7, rtol=0)  # stored to 7 digits
    times = [timestep(level) for level in levels.tolist()[:-1]]
    assert times == pytest.approx(GOLDEN[name]["timesteps"], abs=6e-5)


def test_timesteps_in_half_precision_are_those_of_the_release():
    times = [rounded_timestep(level, torch.float16) for level in sigmas(15, 8.0).tolist()[:-1]]
    expected = [1000, 990.5, 980, 967.5, 953, 936, 915.5, 890.5, 859.5, 819.5, 767, 693.5, 584.5, 406.25, 60.21875]
    assert times == expected
    assert rounded_timestep(0.5, torch.float32) == 500


def test_one_step_and_bad_arguments():
    assert sigmas(1, 3.0).tolist() == [1, 0]
    for steps, shift in ((0, 1.0), (5, 0.0), (5, float("nan"))):
        with pytest.raises(ValueError, match="positive"):
            sigmas(steps, shift)


def test_shift_keeps_the_ends():
    t = torch.linspace(0, 1, 11)
    moved = shifted(t, 6.0)
    assert moved[0] == 0 and moved[-1] == 1 and (moved[1:-1] > t[1:-1]).all()
    torch.testing.assert_close(shifted(t, 1.0), t)
