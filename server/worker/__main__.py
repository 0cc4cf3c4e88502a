"""The worker process: reads commands, runs one job at a time, writes events, beats.

    python -m server.worker --device auto --dtype auto [--models-dir DIR]

Only the server starts it. It ends when its standard input does, so that it never outlives the server.
"""

import argparse
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from server.worker import protocol

if TYPE_CHECKING:
    from server.worker.engine import Engine


class Pipes:
    """The two ends that this process talks through, taken from the standard streams."""

    def __init__(self) -> None:
        self.commands: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._events: BinaryIO = os.fdopen(os.dup(1), "wb", buffering=0)
        self._lock = threading.Lock()
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)  # what libraries print goes to the log

    def send(self, event: protocol.Event) -> None:
        """Writes one event; ends the process if nobody reads any more."""
        try:
            with self._lock:
                self._events.write(protocol.encode(event))
        except OSError:
            os._exit(1)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m server.worker", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--models-dir", type=Path)
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # they reach the whole group; the server decides what becomes of us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(os, "nice"):
        os.nice(5)  # the server answers first
    pipes = Pipes()
    jobs: queue.Queue[protocol.Run | None] = queue.Queue()

    from core.errors import CoreError
    from server.worker.engine import Engine  # torch is loaded here

    try:
        engine = Engine(arguments.device, arguments.dtype, arguments.models_dir, pipes.send)
        engine.warm_up()
        pipes.send(engine.ready())
    except (CoreError, ImportError) as error:
        pipes.send(protocol.StartFailed(message=str(error)))
        return 1
    threading.Thread(target=_listen, args=(pipes, engine, jobs), daemon=True, name="commands").start()
    threading.Thread(target=_beat, args=(pipes, engine), daemon=True, name="heartbeat").start()
    while (job := jobs.get()) is not None:
        engine.run(job)
    return 0


def _listen(pipes: Pipes, engine: "Engine", jobs: "queue.Queue[protocol.Run | None]") -> None:
    """Commands as they come, so that a cancel is heard while a job runs."""
    for line in pipes.commands:
        command = protocol.decode(line)
        if isinstance(command, protocol.Run):
            jobs.put(command)
        elif isinstance(command, protocol.Cancel):
            engine.cancel(command.job_id)
        else:
            jobs.put(None)
    os._exit(0)  # the server is gone; nobody wants what is being computed


def _beat(pipes: Pipes, engine: "Engine") -> None:
    while True:
        pipes.send(engine.heartbeat())
        threading.Event().wait(protocol.HEARTBEAT_S)


if __name__ == "__main__":
    sys.exit(main())
