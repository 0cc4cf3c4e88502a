"""Events of a running generation, and how to stop it.

Core says the stage and the step; the stages' names and their shares of the whole stand in ``core.config.stages``. A
token may be cancelled from any thread; the generation stops at its next step.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from core.errors import GenerationCancelled


@dataclass(frozen=True)
class Progress:
    """``step`` of ``steps`` of ``stage`` are done. Each stage starts with step 0 and ends with step == steps."""

    stage: str  # one of core.config.stages.stage_names
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


@contextmanager
def reported_together(reporters: Sequence[StageReporter], name: str, steps: int) -> Iterator[Step]:
    """A stage of several generations at once: each step is one of all."""
    with ExitStack() as stack:
        own = [stack.enter_context(reporter.stage(name, steps)) for reporter in reporters]

        def step(done: int, total: int) -> None:
            for tell in own:
                tell(done, total)

        yield step
