"""The worker's circuit breaker, on a clock that the test turns."""

import pytest

from server.jobs.breaker import Breaker


@pytest.fixture
def clock(monkeypatch):
    """``clock["now"]`` is the time."""
    times = {"now": 1000.0}
    monkeypatch.setattr("time.monotonic", lambda: times["now"])
    return times


def test_it_opens_with_the_last_of_so_many_deaths_in_a_row(clock):
    breaker = Breaker(3, 60.0)
    assert breaker.message is None and breaker.retry_after_s == 0.0
    assert [breaker.died("it was killed by signal 9") for _ in range(3)] == [False, False, True]
    assert breaker.retry_after_s == 60.0
    assert "ended 3 times in a row (it was killed by signal 9)" in breaker.message
    assert "next try is in 60 s" in breaker.message and "s2mesh doctor" in breaker.message


def test_a_success_between_deaths_starts_the_count_again(clock):
    breaker = Breaker(2, 60.0)
    for _ in range(5):
        assert not breaker.died("x")
        breaker.succeeded()
    assert not breaker.died("x") and breaker.died("x")


def test_it_lets_one_try_through_after_the_cooldown(clock):
    breaker = Breaker(1, 60.0)
    breaker.died("x")
    clock["now"] += 59.0
    assert breaker.retry_after_s == 1.0 and breaker.message is not None
    clock["now"] += 1.0
    assert breaker.retry_after_s == 0.0 and breaker.message is None
    clock["now"] += 1000.0
    assert breaker.retry_after_s == 0.0, "never below nought"


def test_each_failed_try_doubles_the_pause_up_to_sixteen_times(clock):
    breaker = Breaker(3, 10.0)
    for _ in range(2):
        breaker.died("x")
    pauses = []
    for _ in range(7):
        assert breaker.died("x"), "once open, one death is enough"
        pauses.append(breaker.retry_after_s)
        clock["now"] += pauses[-1]
        assert breaker.message is None
    assert pauses == [10.0, 20.0, 40.0, 80.0, 160.0, 160.0, 160.0]


def test_a_success_closes_it_and_forgets_the_doubling(clock):
    breaker = Breaker(2, 10.0)
    for _ in range(4):
        breaker.died("x")
    assert breaker.retry_after_s == 40.0
    breaker.succeeded()
    assert breaker.message is None and breaker.retry_after_s == 0.0
    assert not breaker.died("x")
    assert breaker.died("x") and breaker.retry_after_s == 10.0


def test_what_cannot_work_opens_it_at_once(clock):
    breaker = Breaker(3, 10.0)
    assert breaker.died("there is no device 'cuda:99'", hopeless=True)
    assert "cannot start (there is no device 'cuda:99')" in breaker.message
    clock["now"] += 10.0
    assert breaker.died("it ended with status 1"), "the try after that must succeed"
    assert breaker.retry_after_s == 20.0
