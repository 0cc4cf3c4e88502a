"""The worker's engine in the test's own process, with the tiny presets: jobs go in, events come out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from server.jobs.model import new_id
from server.schemas import parse_options
from server.worker import protocol
from server.worker.engine import Engine
from tests.support.live_server import picture_bytes

ENDS = (protocol.Done, protocol.Failed, protocol.Cancelled)


class Bench:
    """One engine.

    Args:
        folder: where jobs get their folders.
        models_dir: where the tiny presets' weights are; None is the user's own.
    """

    def __init__(self, folder: Path, models_dir: Path | None) -> None:
        self.folder = folder
        self.events: list[protocol.Event] = []
        self.watch: Callable[[protocol.Event], None] = lambda event: None  # called with each event
        self.engine = Engine("cpu", "float32", models_dir, self._send)

    def _send(self, event: protocol.Event) -> None:
        assert protocol.decode(protocol.encode(event)) == event, "it goes through the pipe"
        self.events.append(event)
        self.watch(event)

    def command(
        self, *, picture: bytes | None = None, job_id: str | None = None, max_bytes: int = 2**30, **options: Any
    ) -> protocol.Run:
        """A job with its folder and picture, as the server hands it over. Few faces, since each is drawn."""
        job_id = job_id or new_id()
        folder = self.folder / job_id
        folder.mkdir(exist_ok=True)
        (folder / "source").write_bytes(picture_bytes() if picture is None else picture)
        return protocol.Run(
            job_id=job_id,
            title="box.png",
            source=str(folder / "source"),
            folder=str(folder),
            options=parse_options({"seed": 7, "resolution": 32, "faces": 200, **options}, "tiny-two"),
            max_bytes=max_bytes,
        )

    def run(
        self, command: protocol.Run | None = None, **how: Any
    ) -> protocol.Done | protocol.Failed | protocol.Cancelled:
        """Runs a job; its end, which is one and the last event. ``events`` are those of this job alone."""
        self.events.clear()
        command = command or self.command(**how)
        self.engine.run(command)
        assert {event.job_id for event in self.events} == {command.job_id}
        assert [event for event in self.events if isinstance(event, ENDS)] == self.events[-1:]
        return self.events[-1]

    def of(self, kind: type) -> list:
        return [event for event in self.events if isinstance(event, kind)]
