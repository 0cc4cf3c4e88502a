# SPDX-License-Identifier: GPL-3.0-or-later
"""What the poller's thread does: connect, send pictures, follow jobs, bring files, look at the server; now and again.

``handle`` takes one command, ``step`` does what is due, ``wait_s`` says when there is something to do again. While the
server is away everything waits and is taken up when it is back; nothing is lost.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from .client import ClientSettings
from .client_errors import Offline, Refused, S2MeshError, Stopped
from .poller_events import (
    COARSE,
    INPUT,
    MESH,
    PREVIEW,
    CommandFailed,
    Event,
    FetchFailed,
    Gone,
    JobChanged,
    JobList,
    SubmitFailed,
    Submitted,
    SubmitWaiting,
    Unloaded,
)
from .poller_files import Fetch, bring
from .poller_link import Link, Pace, Shared, Unconnected
from .wire import Job, JobRequest

_PASSING = ("draining", "database_busy", "request_timeout", "queue_full")  # refusals that are worth another try
_MAX_BREAKS = 10  # of the connection while one file comes
_MISTAKE = S2MeshError(
    "The extension made a mistake of its own", "Open Blender's system console and tell the developers."
)
_FIRST = {MESH: 0, COARSE: 1}  # of the files to bring; pictures come last


@dataclass(frozen=True, kw_only=True)
class Command:
    """From the main thread."""

    verb: str
    ticket: int = 0
    job_id: str = ""
    name: str = ""
    number: int = 0
    seconds: float = 0.0
    request: JobRequest | None = None
    bring: frozenset[str] = frozenset()


@dataclass(kw_only=True)
class _Submission:
    ticket: int
    request: JobRequest
    until: float  # after which it is given up
    next_at: float = 0.0
    said: S2MeshError | None = None


@dataclass(kw_only=True)
class _Followed:
    id: str
    bring: set[str]  # files that are still to come
    job: Job | None = None
    next_at: float = 0.0


class Work:
    """The state of the thread, which alone uses it."""

    def __init__(
        self, settings: Callable[[], ClientSettings], post: Callable[[Event], None], shared: Shared, pace: Pace
    ) -> None:
        self._post = post
        self._shared = shared
        self._pace = pace
        self._link = Link(settings, post, pace, self._is_watched)
        self._submissions: list[_Submission] = []
        self._sent: dict[int, str] = {}  # ticket to job
        self._followed: dict[str, _Followed] = {}
        self._fetches: list[Fetch] = []

    def close(self) -> None:
        self._link.close()

    # --- when ---

    def wait_s(self) -> float:
        """How long there is nothing to do."""
        dues = [self._link.line_at, *(item.next_at for item in self._submissions)]
        dues += [followed.next_at for followed in self._followed.values()]
        due = 0.0 if self._fetches else min(dues)
        return min(max(max(due, self._link.retry_at) - time.monotonic(), 0.0), self._pace.idle_s)

    def _is_watched(self) -> bool:
        """Whether anybody would notice what happens at the server."""
        busy = bool(self._submissions or self._followed or self._fetches)
        return busy or time.monotonic() - self._shared.looked_at <= self._pace.looking_s

    def step(self) -> None:
        """Does what is due, until the server does not answer or the thread is to stop."""
        for due in (self._send_pictures, self._poll_jobs, self._bring_files, self._look):
            if self._shared.stopping.is_set() or time.monotonic() < self._link.retry_at:
                return
            due()

    # --- commands ---

    def handle(self, command: Command) -> None:
        """Takes one command; a server that is away is tried at once."""
        self._link.retry_at = 0.0
        if command.verb in ("cancel", "delete", "refresh", "unload"):
            self._do(command)
        elif command.verb == "submit":
            assert command.request is not None
            until = time.monotonic() + command.seconds
            self._submissions.append(_Submission(ticket=command.ticket, request=command.request, until=until))
        elif command.verb == "withdraw":
            self._withdraw(command)
        elif command.verb == "fetch":
            self._fetches.append(Fetch(ticket=command.ticket, id=command.job_id, name=command.name))
        elif command.verb == "follow":
            self._follow(command.job_id, set(command.bring))
        elif command.verb == "forget":
            self._forget(command.job_id)
        elif command.verb == "connect":
            self._link.begin_anew()
        elif command.verb == "wake":
            self._link.line_at = 0.0

    def _do(self, command: Command) -> None:
        """A command that is one request; its answer, or why there is none, is told."""
        ask = self._link.ask
        try:
            if command.verb == "cancel":
                self._changed(ask(lambda client: client.cancel(command.job_id)), command.ticket)
            elif command.verb == "delete":
                ask(lambda client: client.delete(command.job_id))
                self._gone(command.job_id, command.ticket)
            elif command.verb == "unload":
                done = ask(lambda client: client.unload(wait=bool(command.number)))
                self._post(Unloaded(ticket=command.ticket, done=done))
                self._link.line_at = 0.0
            else:
                self._link.look(command.ticket, anew=True)
                jobs, _ = ask(lambda client: client.jobs(limit=command.number))
                self._post(JobList(ticket=command.ticket, jobs=tuple(jobs)))
        except Unconnected as away:
            self._failed(command, away.error)
        except S2MeshError as error:
            if isinstance(error, Refused) and error.code == "job_not_found":
                self._gone(command.job_id, command.ticket)
            else:
                self._failed(command, error)

    def _failed(self, command: Command, error: S2MeshError) -> None:
        self._shared.dropped.discard(command.job_id)  # not deleted: its files may still be wanted
        self._post(CommandFailed(ticket=command.ticket, command=command.verb, id=command.job_id, error=error))

    def _withdraw(self, command: Command) -> None:
        for item in [item for item in self._submissions if item.ticket == command.number]:
            self._submissions.remove(item)
            self._post(SubmitFailed(ticket=item.ticket, error=Stopped("The submission")))
        if job_id := self._sent.get(command.number):
            self._do(Command(verb="cancel", job_id=job_id, ticket=command.ticket))

    def report(self, error: Exception, command: Command | None) -> None:
        """A mistake of ours: told, with a pause, so that it does not come in floods."""
        traceback.print_exc()
        told = S2MeshError(
            f"The extension made a mistake of its own ({type(error).__name__}: {str(error)[:200]})",
            "Press Doctor and send its report to the developers, please.",
        )
        if command is not None and command.verb in ("cancel", "delete", "refresh", "unload"):
            self._failed(command, told)
        self._link.trouble(told)

    # --- the server ---

    def _look(self) -> None:
        """At the server's line, if it is time."""
        if time.monotonic() >= self._link.line_at:
            try:
                self._link.look()
            except Unconnected:
                pass
            except S2MeshError as error:
                self._link.trouble(error)

    # --- pictures ---

    def _send_pictures(self) -> None:
        for item in list(self._submissions):
            if self._shared.stopping.is_set() or time.monotonic() < self._link.retry_at:
                return
            if time.monotonic() >= item.next_at:
                self._send_picture(item)

    def _send_picture(self, item: _Submission) -> None:
        try:
            job = self._link.ask(lambda client: client.submit(item.request))
        except Unconnected as away:
            self._not_sent(item, away.error, passing=isinstance(away.error, Offline))
        except S2MeshError as error:
            self._not_sent(item, error, passing=isinstance(error, Refused) and error.code in _PASSING)
        except Exception:
            self._submissions.remove(item)
            self._post(SubmitFailed(ticket=item.ticket, error=_MISTAKE))
            raise
        else:
            self._submissions.remove(item)
            self._sent[item.ticket] = job.id
            self._post(Submitted(ticket=item.ticket, job=job))
            self._follow(job.id, {COARSE, MESH, PREVIEW})
            self._followed[job.id].job = job

    def _not_sent(self, item: _Submission, error: S2MeshError, passing: bool) -> None:
        if not passing or time.monotonic() >= item.until:
            self._submissions.remove(item)
            self._post(SubmitFailed(ticket=item.ticket, error=error))
            return
        item.next_at = time.monotonic() + (getattr(error, "retry_after_s", None) or self._pace.first_retry_s)
        if item.said != error:
            item.said = error
            self._post(SubmitWaiting(ticket=item.ticket, error=error))

    # --- jobs ---

    def _follow(self, job_id: str, wanted: set[str]) -> None:
        if PREVIEW in wanted:
            wanted.add(INPUT)
        followed = self._followed.setdefault(job_id, _Followed(id=job_id, bring=set()))
        followed.bring |= wanted
        followed.next_at = 0.0

    def _forget(self, job_id: str) -> None:
        self._followed.pop(job_id, None)
        self._fetches = [fetch for fetch in self._fetches if fetch.id != job_id]

    def _gone(self, job_id: str, ticket: int = 0) -> None:
        self._forget(job_id)
        self._post(Gone(ticket=ticket, id=job_id))

    def _poll_jobs(self) -> None:
        for followed in list(self._followed.values()):
            if self._shared.stopping.is_set() or time.monotonic() < self._link.retry_at:
                return
            if time.monotonic() < followed.next_at or followed.id not in self._followed:
                continue
            try:
                job, _ = self._link.ask(lambda client, job_id=followed.id: client.job(job_id))
            except Unconnected:
                return
            except S2MeshError as error:
                followed.next_at = time.monotonic() + self._pace.waiting_job_s
                if isinstance(error, Refused) and error.code == "job_not_found":
                    self._gone(followed.id)
                elif not isinstance(error, Refused):  # an answer that cannot be read will not be another next time
                    self._failed(Command(verb="follow", job_id=followed.id), error)
                    self._forget(followed.id)
            else:
                self._changed(job)

    def _changed(self, job: Job, ticket: int = 0) -> None:
        """Takes over a job's state: tells of it, and asks for the files that are there now."""
        followed = self._followed.get(job.id)
        if followed is None:
            self._post(JobChanged(ticket=ticket, job=job))
            return
        if ticket or followed.job != job:
            self._post(JobChanged(ticket=ticket, job=job))
        followed.job = job
        waits = job.state == "queued" and (job.queue_position or 1) > 1
        followed.next_at = time.monotonic() + (self._pace.waiting_job_s if waits else self._pace.job_s)
        if job.finished:
            followed.bring -= {COARSE, INPUT} if job.state == "succeeded" else {COARSE, MESH, PREVIEW}
            if job.state == "succeeded" and MESH in followed.bring and job.artifact(MESH) is None:
                self._fetches.append(Fetch(id=job.id, name=MESH, job=job))  # which says that there is none
            del self._followed[job.id]
        for name in sorted(followed.bring, key=lambda name: name != MESH):
            if job.artifact(name) is not None and (name != MESH or job.finished):  # else it may fail yet
                followed.bring.discard(name)
                self._fetches.append(Fetch(id=job.id, name=name, job=job))

    # --- files ---

    def _bring_files(self) -> None:
        """One file: the next step goes on with the rest, so that jobs are not left alone for long."""
        if not self._fetches:
            return
        fetch = min(self._fetches, key=lambda fetch: _FIRST.get(fetch.name, 2))

        def should_stop() -> bool:
            return self._shared.stopping.is_set() or fetch.id in self._shared.dropped

        def failed(error: S2MeshError) -> list[Event]:
            return [FetchFailed(ticket=fetch.ticket, id=fetch.id, name=fetch.name, error=error)]

        try:
            events = self._link.ask(lambda client: bring(client, self._link.settings, fetch, should_stop))
        except Unconnected as away:
            fetch.breaks += 1
            if fetch.breaks < _MAX_BREAKS:
                return  # again when the server is back
            events = failed(away.error)
        except Exception:
            events = failed(_MISTAKE)
            traceback.print_exc()
        self._fetches = [other for other in self._fetches if other is not fetch]
        for event in events:
            self._post(event)
