"""The circuit breaker of the worker: after a few deaths in a row nothing is started for a while."""

import time


class Breaker:
    """Counts deaths without a success between them.

    Args:
        deaths: so many in a row open it.
        cooldown_s: until one more start is tried; doubles with each failed try, up to 16 times.
    """

    def __init__(self, deaths: int, cooldown_s: float) -> None:
        self._limit, self._cooldown_s = deaths, cooldown_s
        self._deaths = 0
        self._opened_at: float | None = None
        self._openings = 0
        self._cause = ""

    def died(self, cause: str, *, hopeless: bool = False) -> bool:
        """Counts a death; ``hopeless`` opens at once. Returns whether the breaker is open now."""
        self._deaths += 1
        self._cause = cause
        if hopeless or self._deaths >= self._limit or self._openings:
            self._opened_at = time.monotonic()
            self._openings += 1
        return self._opened_at is not None

    def succeeded(self) -> None:
        """A job came to an end: all is forgotten."""
        self._deaths, self._openings, self._opened_at = 0, 0, None

    @property
    def retry_after_s(self) -> float:
        """Seconds until the next try; 0 when a start is allowed."""
        if self._opened_at is None:
            return 0.0
        pause = self._cooldown_s * 2 ** min(self._openings - 1, 4)
        return max(0.0, self._opened_at + pause - time.monotonic())

    @property
    def message(self) -> str | None:
        """Why there is no worker, while the breaker is open."""
        left = self.retry_after_s
        if not left:
            return None
        times = f"ended {self._deaths} times in a row" if self._deaths > 1 else "cannot start"
        return (
            f"the worker {times} ({self._cause}); the next try is in {left:.0f} s. "
            "Run `s2mesh doctor` and look at the server's log."
        )
