"""The share that is done and the time left, on a clock that the test turns."""

import pytest

from core.config.stages import EXPORT, LOAD, STRUCTURE, stage_names
from server.jobs.estimate import Estimate, job_stages
from server.worker.protocol import Progress
from tests.support.tiny_presets import TINY, TINY_TWO

SECONDS = {  # of one step
    "load": 2.0,
    "image": 1.0,
    "structure": 3.0,
    "detail": 5.0,
    "decode": 0.5,
    "surface": 4.0,
    "cleanup": 1.0,
    "export": 0.25,
}
STEPS = 4


@pytest.fixture
def clock(monkeypatch):
    """``clock["now"]`` is the time."""
    times = {"now": 50.0}
    monkeypatch.setattr("time.monotonic", lambda: times["now"])
    return times


def walk(estimate: Estimate, stages: list[str], clock, *, slowness: float = 1.0) -> list[tuple]:
    """Every step of a job: (seconds that it really has left, fraction, time left as told)."""
    total = sum(slowness * SECONDS[stage.split()[0]] * STEPS for stage in stages)
    started, told = clock["now"], []
    for stage in stages:
        for step in range(STEPS + 1):
            if step:
                clock["now"] += slowness * SECONDS[stage.split()[0]]
            event = Progress(job_id="a" * 32, stage=stage, step=step, steps=STEPS)
            told.append((total - (clock["now"] - started), *estimate.after(event)))
    return told


def test_a_job_has_the_server_s_stages_around_those_of_the_generation():
    for preset in (TINY, TINY_TWO):
        for resolution in (None, 32):
            assert job_stages(preset, resolution) == [LOAD, *stage_names(preset, resolution), EXPORT]
    assert len(job_stages(TINY_TWO)) > len(job_stages(TINY_TWO, 32))


@pytest.mark.parametrize("measured", [False, True])
def test_the_fraction_never_falls_and_ends_at_one(clock, measured):
    stages = job_stages(TINY_TWO)
    times = {stage: (SECONDS[stage.split()[0]] * STEPS, STEPS) for stage in stages} if measured else {}
    told = walk(Estimate(stages, times), stages, clock)
    fractions = [fraction for _, fraction, _ in told]
    assert fractions[0] == 0.0 and fractions == sorted(fractions) and fractions[-1] == pytest.approx(1.0)
    assert len(set(fractions)) == len(stages) * STEPS + 1, "every step moves it"
    assert all(left is None or left >= -1e-9 for _, _, left in told)
    assert told[-1][2] == pytest.approx(0.0, abs=1e-6)


def test_a_step_back_in_the_reports_does_not_take_the_bar_back(clock):
    stages = job_stages(TINY)
    estimate = Estimate(stages, {})
    reached, _ = estimate.after(Progress(job_id="a", stage=STRUCTURE, step=3, steps=4))
    assert estimate.after(Progress(job_id="a", stage=STRUCTURE, step=1, steps=4))[0] == reached
    assert estimate.after(Progress(job_id="a", stage=LOAD, step=0, steps=1))[0] == reached
    assert estimate.fraction == reached


def test_with_measured_times_the_time_left_is_right_from_the_start(clock):
    stages = job_stages(TINY_TWO)
    times = {stage: (SECONDS[stage.split()[0]] * STEPS, STEPS) for stage in stages}
    for real, _, left in walk(Estimate(stages, times), stages, clock):
        assert left == pytest.approx(real, abs=1e-6)


def test_a_slower_machine_is_noticed_on_the_way(clock):
    """Told at first as if it were the usual pace; by the last tenth, at most a fifth beside the truth."""
    stages = job_stages(TINY)
    times = {stage: (SECONDS[stage.split()[0]] * STEPS, STEPS) for stage in stages}
    told = walk(Estimate(stages, times), stages, clock, slowness=3.0)
    assert told[0][2] == pytest.approx(told[0][0] / 3)
    for real, fraction, left in told:
        if 0.9 < fraction < 0.999:
            assert left == pytest.approx(real, rel=0.2)


def test_planned_steps_scale_the_measured_times(clock):
    stages = job_stages(TINY)
    times = {stage: (SECONDS[stage.split()[0]] * STEPS, STEPS) for stage in stages}
    usual = Estimate(stages, times).after(Progress(job_id="a", stage=LOAD, step=0, steps=1))[1]
    longer = Estimate(stages, times, {STRUCTURE: 3 * STEPS}).after(Progress(job_id="a", stage=LOAD, step=0, steps=1))[1]
    assert longer - usual == pytest.approx(2 * STEPS * SECONDS["structure"])


def test_the_first_job_tells_no_time_before_it_has_a_pace(clock):
    stages = job_stages(TINY)
    told = walk(Estimate(stages, {}), stages, clock)
    assert told[0][2] is None
    assert all((left is None) == (fraction < 0.15) for _, fraction, left in told)


def test_times_without_the_structure_stage_are_not_trusted(clock):
    """They are of a job that failed early, or of another version's stages."""
    stages = job_stages(TINY)
    assert Estimate(stages, {LOAD: (9.0, 1)}).after(Progress(job_id="a", stage=LOAD, step=0, steps=1))[1] is None


def test_what_a_job_took_is_measured_for_the_next(clock):
    stages = job_stages(TINY_TWO)
    estimate = Estimate(stages, {})
    walk(estimate, stages, clock)
    assert estimate.measured == {stage: (pytest.approx(SECONDS[stage.split()[0]] * STEPS), STEPS) for stage in stages}
    unfinished = Estimate(stages, {})
    unfinished.after(Progress(job_id="a", stage=LOAD, step=0, steps=2))
    unfinished.after(Progress(job_id="a", stage=LOAD, step=1, steps=2))
    assert unfinished.measured == {}, "a stage counts when it is through"
