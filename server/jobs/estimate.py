"""How far a job is and how long it will take, from what its stages took before on this device.

The first job of a preset on a device is measured against rough default weights; its time left is told once enough
is done to tell it from the pace. Every finished job improves what the next one is told.
"""

import time

from core.config.presets import ModelPreset
from core.config.stages import EXPORT, LOAD, STRUCTURE, Fraction, stage_names
from server.worker.protocol import Progress

_ENOUGH = 0.15  # share of the work from which the pace alone gives a time


def job_stages(preset: ModelPreset, resolution: int | None = None) -> list[str]:
    """The stages of a job in order: the networks loaded, those of the generation, the files written."""
    return [LOAD, *stage_names(preset, resolution), EXPORT]


class Estimate:
    """Of one running job.

    Args:
        stages: its stages, in order.
        measured: stage to (seconds, steps) of earlier jobs; empty if there was none.
        planned: stage to the steps that this job will take, where the options say so.
    """

    def __init__(
        self, stages: list[str], measured: dict[str, tuple[float, int]], planned: dict[str, int] | None = None
    ) -> None:
        expected = {}
        for stage in stages:
            seconds, steps = measured.get(stage, (0.0, 1))
            expected[stage] = max(seconds * (planned or {}).get(stage, steps) / max(steps, 1), 0.01)
        self._expected_s = sum(expected.values()) if measured.keys() >= {STRUCTURE} else None
        self._fraction = Fraction(stages, expected if self._expected_s is not None else None)
        self._started = time.monotonic()
        self._stage_started = self._started
        self._stage: str | None = None
        self.fraction = 0.0
        self.measured: dict[str, tuple[float, int]] = {}  # of this job

    def after(self, progress: Progress) -> tuple[float, float | None]:
        """(share of the work that is done, seconds that are left or None)."""
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._stage_started = progress.stage, now
        if progress.step == progress.steps:
            self.measured[progress.stage] = (now - self._stage_started, max(progress.steps, 1))
        self.fraction = self._fraction.after(progress.stage, progress.step, progress.steps)
        return self.fraction, self._left(now - self._started)

    def _left(self, elapsed: float) -> float | None:
        """From the times of earlier jobs at first, more and more from this job's own pace."""
        done = self.fraction
        if self._expected_s is not None:
            return (1 - done) * (elapsed + (1 - done) * self._expected_s)
        return elapsed * (1 - done) / done if done >= _ENOUGH else None
