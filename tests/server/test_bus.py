"""Waiting for news of a job: no change is missed, the end of the server wakes everybody, nothing is left behind."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.jobs.bus import Bus

LONG_S = 60.0  # for waits that something ends


def test_a_change_between_two_waits_is_not_missed():
    bus = Bus()
    with bus.watch("a") as watch:
        bus.publish("a")
        assert watch.wait(0)
        assert not watch.wait(0), "each change wakes once"
        bus.publish("a")
        bus.publish("a")
        assert watch.wait(0)
        assert not watch.wait(0), "what piled up is one wake-up: the news is read from the store"


def test_only_changes_after_the_start_and_of_the_own_job_count():
    bus = Bus()
    bus.publish("a")
    with bus.watch("a") as watch:
        bus.publish("b")
        assert not watch.wait(0)


def test_a_late_watcher_does_not_see_what_the_first_one_saw():
    bus = Bus()
    with bus.watch("a") as early:
        bus.publish("a")
        with bus.watch("a") as late:
            assert not late.wait(0)
            assert early.wait(0)
            bus.publish("a")
            assert late.wait(0) and early.wait(0)


def test_a_wait_ends_with_the_change_and_not_with_others():
    bus = Bus()
    with bus.watch("a") as watch, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(watch.wait, LONG_S)
        bus.publish("b")
        assert not waiting.done()
        bus.publish("a")
        assert waiting.result(LONG_S) is True


def test_a_wait_without_news_ends_in_time():
    bus = Bus()
    with bus.watch("a") as watch:
        assert watch.wait(0.01) is False


def test_no_wake_up_is_missed_however_the_threads_meet():
    """Each round is published while the watchers look at the last one: a lost wake-up would never be made good."""
    bus, rounds, watchers = Bus(), 200, 4
    state = {"round": 0}
    seen = threading.Semaphore(0)

    def follow() -> None:
        with bus.watch("a") as watch:
            seen.release()
            for number in range(1, rounds + 1):
                while state["round"] < number:
                    assert watch.wait(LONG_S), "a change was missed"
                seen.release()

    with ThreadPoolExecutor(watchers) as pool:
        following = [pool.submit(follow) for _ in range(watchers)]
        for _ in range(rounds):
            assert all(seen.acquire(timeout=LONG_S) for _ in range(watchers))
            state["round"] += 1
            bus.publish("a")
        for each in following:
            each.result(LONG_S)


def test_close_wakes_everybody_for_good():
    bus = Bus()
    with bus.watch("a") as first, bus.watch("b") as second, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(first.wait, LONG_S), pool.submit(second.wait, LONG_S)]
        assert not bus.closed
        bus.close()
        assert [each.result(LONG_S) for each in waiting] == [False, False] and bus.closed
        assert first.wait(LONG_S) is False, "nobody waits after that"
        bus.publish("a")
        assert first.wait(LONG_S) is False
    with bus.watch("c") as late:
        assert late.wait(LONG_S) is False


def test_nothing_is_kept_of_jobs_that_nobody_watches():
    bus = Bus()
    for number in range(100):
        bus.publish(str(number))
        with bus.watch(str(number)) as watch, bus.watch(str(number)):
            bus.publish(str(number))
            assert watch.wait(0)
    with pytest.raises(RuntimeError, match="the reader failed"), bus.watch("a"):
        raise RuntimeError("the reader failed")
    assert bus._counts == bus._watchers == {}
