"""Events of a running generation, and how to stop it.

Core says the stage and the step; what share of the whole that is, is for those who draw a bar. A token may be
cancelled from any thread; the generation stops at its next step.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.config.presets import ModelPreset
from core.errors import GenerationCancelled

IMAGE = "image"  # picture prepared, then looked at by the image encoder
STRUCTURE = "structure"  # steps of the dense stage's sampler, and its decoder
CLEANUP = "cleanup"  # floaters and interior removed, then the face budget


def detail(resolution: int) -> str:
    """Steps of a sparse stage's sampler."""
    return f"detail {resolution}"


def decode(resolution: int) -> str:
    """Chunks of a sparse stage's decoder."""
    return f"decode {resolution}"


def refine(resolution: int) -> str:
    """Tiles of a sparse stage's refiner."""
    return f"refine {resolution}"


def surface(resolution: int) -> str:
    """The mesh of a sparse stage, and the voxels of the stage after it."""
    return f"surface {resolution}"


def stage_names(preset: ModelPreset) -> list[str]:
    """The stages that a generation with ``preset`` reports, in order."""
    names = [IMAGE, STRUCTURE]
    for stage in preset.sparse:
        names += [detail(stage.resolution), decode(stage.resolution)]
        names += [refine(stage.resolution)] if stage.refiner is not None else []
        names += [surface(stage.resolution)]
    return [*names, CLEANUP]


@dataclass(frozen=True)
class Progress:
    """``step`` of ``steps`` of ``stage`` are done. Each stage starts with step 0 and ends with step == steps."""

    stage: str
    step: int
    steps: int


OnProgress = Callable[[Progress], None]
Step = Callable[[int, int], None]  # (steps done, steps in all)


class CancelToken:
    """Set from any thread, asked by the generation at every step."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        self._event.set()

    @property
    def cancelled(self) -> bool:
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Raises GenerationCancelled once ``cancel`` was called."""
        if self.cancelled:
            raise GenerationCancelled("the generation was cancelled; nothing was written.")


class StageReporter:
    """Sends the events of one generation, asks its token, and measures its stages (``timings``, in seconds)."""

    def __init__(self, on_progress: OnProgress | None = None, cancel: CancelToken | None = None) -> None:
        self.timings: dict[str, float] = {}
        self._on_progress = on_progress
        self._cancel = cancel

    @contextmanager
    def stage(self, name: str, steps: int) -> Iterator[Step]:
        """Reports the stage's start and end; the body calls what it is given after each step.

        Raises:
            GenerationCancelled: at any of these points.
        """
        started, last = time.perf_counter(), 0

        def step(done: int, total: int) -> None:
            nonlocal last, steps
            last, steps = done, total
            self._report(Progress(name, done, total))

        self._report(Progress(name, 0, steps))
        yield step
        if last < steps:
            step(steps, steps)
        self.timings[name] = time.perf_counter() - started

    def _report(self, progress: Progress) -> None:
        if self._cancel is not None:
            self._cancel.raise_if_cancelled()
        if self._on_progress is not None:
            self._on_progress(progress)
