"""Events of a generation, and cancelling."""

import threading

import pytest

from core.errors import GenerationCancelled
from core.pipeline.progress import CancelToken, Progress, StageReporter


def test_every_stage_starts_at_zero_and_ends_whole():
    events = []
    report = StageReporter(events.append)
    with report.stage("a", 2) as step:
        step(1, 2)
    with report.stage("b", 1) as step:
        step(1, 5)  # the total is known only now
    assert events == [
        Progress("a", 0, 2), Progress("a", 1, 2), Progress("a", 2, 2),
        Progress("b", 0, 1), Progress("b", 1, 5), Progress("b", 5, 5),
    ]  # fmt: skip
    assert set(report.timings) == {"a", "b"}


def test_a_failed_stage_is_not_reported_as_done():
    events = []
    with pytest.raises(ValueError), StageReporter(events.append).stage("a", 2):
        raise ValueError
    assert events == [Progress("a", 0, 2)]


def test_cancelled_from_another_thread():
    token = CancelToken()
    report = StageReporter(cancel=token)
    with pytest.raises(GenerationCancelled), report.stage("a", 3) as step:
        step(1, 3)
        thread = threading.Thread(target=token.cancel)
        thread.start()
        thread.join()
        step(2, 3)
    assert token.cancelled
