# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread that speaks to the server, so that Blender never waits: commands go in, events come out.

The thread owns the client and touches no Blender data. ``connect``, which it calls for the settings, must not do so
either: give it a snapshot. Events are taken out on the main thread, by a timer or, where no timers run, by waiting.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Iterable

from .client import ClientSettings
from .poller_events import (
    COARSE,
    INPUT,
    MESH,
    PREVIEW,
    CoarseReady,
    CommandFailed,
    Event,
    FetchFailed,
    Gone,
    JobChanged,
    JobList,
    ResultReady,
    ServerSeen,
    SubmitFailed,
    Submitted,
    SubmitWaiting,
    ThumbnailReady,
    Unloaded,
)
from .poller_link import Pace, Shared
from .poller_work import Command, Work
from .wire import JobRequest

__all__ = [
    "COARSE",
    "INPUT",
    "MESH",
    "PREVIEW",
    "ClientSettings",
    "CoarseReady",
    "CommandFailed",
    "Event",
    "FetchFailed",
    "Gone",
    "JobChanged",
    "JobList",
    "Pace",
    "Poller",
    "ResultReady",
    "ServerSeen",
    "SubmitFailed",
    "SubmitWaiting",
    "Submitted",
    "ThumbnailReady",
    "Unloaded",
]


class Poller:
    """All methods may be called on the main thread and return at once, but for ``stop`` and ``wait``.

    Those that send a command return its ticket, which the events that answer it carry.

    Args:
        connect: the settings; called on the worker thread at every new connection. May raise S2MeshError.
    """

    def __init__(self, connect: Callable[[], ClientSettings], *, pace: Pace | None = None) -> None:
        self._connect = connect
        self._pace = pace or Pace()
        self._commands: queue.Queue[Command] = queue.Queue()
        self._events: queue.Queue[Event] = queue.Queue()
        self._tickets = itertools.count(1)
        self._shared = Shared()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins; at the second call does nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="s2mesh-poller", daemon=True)
            self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Ends the thread, in the middle of a download too. False: it still waits for an answer, and ends after it."""
        self._shared.stopping.set()
        self._commands.put(Command(verb="stop"))
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    # --- commands ---

    def submit(self, request: JobRequest, *, patience_s: float = 60.0) -> int:
        """Sends a picture and follows its job. Answers: Submitted, or SubmitFailed; SubmitWaiting in between.

        Args:
            patience_s: how long it is tried again where no server answers. What a server refuses fails at once.
        """
        return self._send("submit", request=request, seconds=patience_s)

    def withdraw(self, ticket: int) -> int:
        """Gives up a submission; if it became a job in the meantime, that is cancelled."""
        return self._send("withdraw", number=ticket)

    def cancel(self, job_id: str) -> int:
        """Answers: JobChanged, or CommandFailed."""
        return self._send("cancel", job_id)

    def delete(self, job_id: str) -> int:
        """Removes a finished job from the server. Answers: Gone, or CommandFailed."""
        self._shared.dropped.add(job_id)
        return self._send("delete", job_id)

    def refresh(self, limit: int = 20) -> int:
        """Answers: ServerSeen, JobList; or CommandFailed."""
        return self._send("refresh", number=limit)

    def unload(self, wait: bool = False) -> int:
        """Frees the device's memory. Answers: Unloaded, or CommandFailed."""
        return self._send("unload", number=int(wait))

    def fetch(self, job_id: str, name: str = MESH) -> int:
        """Brings a file of a job. Answers: ResultReady, CoarseReady or ThumbnailReady; or FetchFailed.

        Args:
            name: MESH, COARSE, or PREVIEW, for which INPUT comes where there is none yet.
        """
        self._shared.dropped.discard(job_id)
        return self._send("fetch", job_id, name=name)

    def follow(self, job_ids: Iterable[str], *, bring: Iterable[str] = (COARSE, MESH, PREVIEW)) -> None:
        """Tells of these jobs until they have ended, and brings these files as soon as they are there."""
        for job_id in job_ids:
            self._shared.dropped.discard(job_id)
            self._send("follow", job_id, bring=frozenset(bring))

    def forget(self, job_id: str) -> None:
        """Follows a job no longer and stops its downloads; it goes on at the server."""
        self._shared.dropped.add(job_id)
        self._send("forget", job_id)

    def connect(self) -> int:
        """Begins anew with other settings. Answer: ServerSeen."""
        return self._send("connect")

    def look(self) -> None:
        """Somebody looks at the server's line now (call it at every draw): it is kept fresh for some seconds."""
        now, last = time.monotonic(), self._shared.looked_at
        self._shared.looked_at = now
        if now - last > self._pace.looking_s:
            self._send("wake")

    # --- events ---

    def drain(self, limit: int = 64) -> list[Event]:
        """The events that wait, the oldest first; at most ``limit``."""
        events: list[Event] = []
        with contextlib.suppress(queue.Empty):
            while len(events) < limit:
                events.append(self._events.get_nowait())
        return events

    def wait(self, timeout_s: float, limit: int = 64) -> list[Event]:
        """As ``drain``, but waits for the first one; empty after ``timeout_s``."""
        try:
            first = self._events.get(timeout=timeout_s)
        except queue.Empty:
            return []
        return [first, *self.drain(limit - 1)]

    # --- the thread ---

    def _send(self, verb: str, job_id: str = "", **more: object) -> int:
        command = Command(verb=verb, job_id=job_id, ticket=next(self._tickets), **more)
        self._commands.put(command)
        return command.ticket

    def _run(self) -> None:
        """Nothing may get out of here."""
        work = Work(self._connect, self._events.put, self._shared, self._pace)
        while not self._shared.stopping.is_set():
            command = None
            try:
                with contextlib.suppress(queue.Empty):
                    command = self._commands.get(timeout=work.wait_s())
                if command is not None:
                    work.handle(command)
                work.step()
            except Exception as error:  # a mistake of ours; the artist's work goes on
                work.report(error, command)
        with contextlib.suppress(Exception):
            work.close()
