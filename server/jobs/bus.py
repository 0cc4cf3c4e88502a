"""Wakes who waits for news of a job. What the news is, is read from the store: nothing is lost, nothing piles up."""

import threading
import time


class Bus:
    """A counter of changes for each job that somebody watches."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._watchers: dict[str, int] = {}
        self._closed = False

    def publish(self, job_id: str) -> None:
        """Something about the job has changed."""
        with self._changed:
            if job_id in self._watchers:
                self._counts[job_id] += 1
                self._changed.notify_all()

    def close(self) -> None:
        """Wakes everybody for good: the server ends."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed

    def watch(self, job_id: str) -> "Watch":
        """A context in which no change of the job is missed."""
        return Watch(self, job_id)


class Watch:
    """One who waits for changes of one job."""

    def __init__(self, bus: Bus, job_id: str) -> None:
        self._bus, self._job_id = bus, job_id
        self._seen = 0

    def __enter__(self) -> "Watch":
        with self._bus._changed:
            self._bus._watchers[self._job_id] = self._bus._watchers.get(self._job_id, 0) + 1
            self._seen = self._bus._counts.setdefault(self._job_id, 0)
        return self

    def __exit__(self, *exception: object) -> None:
        with self._bus._changed:
            self._bus._watchers[self._job_id] -= 1
            if not self._bus._watchers[self._job_id]:
                del self._bus._watchers[self._job_id], self._bus._counts[self._job_id]

    def wait(self, timeout_s: float) -> bool:
        """Waits for a change since the last call (or the start); False when there was none in time."""
        deadline = time.monotonic() + timeout_s
        with self._bus._changed:
            while self._bus._counts[self._job_id] == self._seen and not self._bus._closed:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._bus._changed.wait(left)
            self._seen = self._bus._counts[self._job_id]
            return not self._bus._closed
