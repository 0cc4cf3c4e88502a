"""A poller as a test sees it: events collected, and waited for by kind."""

import time
import uuid
from collections.abc import Callable
from typing import Any

from blender_addon.poller import ClientSettings, Event, Pace, Poller
from blender_addon.wire import JobRequest
from tests.support.live_server import PATIENCE_S, picture_bytes

QUICK = Pace(job_s=0.05, waiting_job_s=0.1, line_s=0.1, idle_s=0.3, first_retry_s=0.05, last_retry_s=0.2)


def job_request(shade: int = 200, key: str | None = None, **options: Any) -> JobRequest:
    return JobRequest(
        picture=picture_bytes(shade), title="box.png", options=options, idempotency_key=key or uuid.uuid4().hex
    )


class Watched:
    """A started poller; ``seen`` are all its events so far. Used as a context, it is stopped at the end."""

    def __init__(self, settings: ClientSettings | Callable[[], ClientSettings], pace: Pace = QUICK) -> None:
        self.settings = settings
        self.poller = Poller(settings if callable(settings) else lambda: self.settings, pace=pace)
        self.seen: list[Event] = []

    def __enter__(self) -> "Watched":
        self.poller.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self.poller.stop(10)

    def until(self, kind: type, patience_s: float = PATIENCE_S, **fields: Any) -> Any:
        """The first event of this kind with these fields, also one that came before, after the last one asked for."""
        deadline, looked = time.monotonic() + patience_s, 0
        while True:
            for event in self.seen[looked:]:
                if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items()):
                    self.seen.remove(event)
                    return event
            looked = len(self.seen)
            assert time.monotonic() < deadline, f"waited in vain for {kind.__name__} {fields}: {self.seen}"
            self.seen += self.poller.wait(0.2)

    def of(self, kind: type) -> list[Any]:
        self.seen += self.poller.drain(10_000)
        return [event for event in self.seen if isinstance(event, kind)]
