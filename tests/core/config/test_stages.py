"""Names of stages, and the share of the work that is done."""

import pytest

from core.config.presets import PRESETS, V1_1
from core.config.stages import DEFAULT_WEIGHTS, EXPORT, LOAD, Fraction, stage_names
from core.errors import ConfigError
from tests.support.tiny_presets import TINY, TINY_REFINED, TINY_TWO

STAGES = [LOAD, *stage_names(TINY_REFINED), EXPORT]  # as a job of the server has them


def shares(fraction: Fraction, stages=STAGES) -> list[float]:
    return [fraction.after(stage, step, 4) for stage in stages for step in range(5)]


def test_stages_follow_the_preset():
    assert stage_names(TINY) == ["image", "structure", "detail 32", "decode 32", "surface 32", "cleanup"]
    refined = stage_names(TINY_REFINED)
    assert refined.index("refine 32") < refined.index("surface 32") < refined.index("detail 64")


def test_stages_end_with_those_of_the_resolution():
    assert stage_names(TINY_TWO, 32) == stage_names(TINY)
    assert stage_names(TINY_TWO, 64) == stage_names(TINY_TWO)
    assert stage_names(V1_1, 512)[-4:] == ["decode 512", "refine 512", "surface 512", "cleanup"]
    with pytest.raises(ConfigError, match=r"'direct3d-s2-v1.1' has 512, 1024\."):
        stage_names(V1_1, 256)


def test_a_preset_up_to_a_resolution_is_a_preset_with_fewer_networks():
    small = V1_1.up_to(512)
    assert small.resolutions == (512,) and (small.name, small.dense) == (V1_1.name, V1_1.dense)
    assert "sparse_dit_1024" in V1_1.networks() and "sparse_dit_1024" not in small.networks()
    assert V1_1.up_to(None) is V1_1 and V1_1.up_to(1024) is V1_1


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_later_stages_need_more_memory(preset):
    needed = [stage.memory_gb for stage in preset.sparse]
    assert needed == sorted(needed) and needed[0] > 0


def test_every_stage_of_every_preset_has_a_weight():
    names = {name for preset in PRESETS.values() for name in [LOAD, *stage_names(preset), EXPORT]}
    assert {name.split()[0] for name in names} == set(DEFAULT_WEIGHTS)


@pytest.mark.parametrize("weights", [None, {}, {"load": 3.0, "structure": 0.5}, dict.fromkeys(STAGES, 2.0)])
def test_the_share_rises_from_nothing_to_all(weights):
    reached = shares(Fraction(STAGES, weights))
    assert reached == sorted(reached)
    assert reached[0] == 0 and reached[-1] == pytest.approx(1)


def test_the_share_does_not_fall_when_a_stage_turns_out_longer():
    fraction = Fraction(STAGES)
    before = fraction.after("decode 64", 1, 1)
    assert fraction.after("decode 64", 2, 8) == before


def test_a_stage_without_steps_and_one_with_too_many():
    fraction = Fraction(["a", "b"])
    assert fraction.after("a", 0, 0) == 0
    assert fraction.after("a", 9, 3) == pytest.approx(0.5)


def test_measured_seconds_decide():
    seconds = {"image": 1.0, "structure": 2.0, "detail 32": 5.0, "surface 32": 1.0, "decode 32": 1.0, "cleanup": 0.0}
    fraction = Fraction(stage_names(TINY), {**seconds, "of another preset": 1e9})
    known = Fraction(list(seconds)[:5], seconds)
    assert known.after("structure", 2, 2) == pytest.approx(0.3)
    # cleanup was not measured: 4 of the 94 that the others weigh by default, so of their 10 s
    assert fraction.after("surface 32", 1, 1) == pytest.approx(10 / (10 + 10 * 4 / 94))
