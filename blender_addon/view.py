# SPDX-License-Identifier: GPL-3.0-or-later
"""What the panel shows, computed from the state: the server's line and a row for each job. Draws nothing itself."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .client_errors import NoRequests, Offline, OnlineAccessNeeded, S2MeshError, WrongService, WrongToken, WrongVersion
from .translations import N_, t
from .words import byte_size, capital, queue_words, stage_words, state_words, time_left

if TYPE_CHECKING:
    from .app_state import AppState
    from .session import JobRecord
    from .wire import Job, Ready

_TITLES: dict[type[S2MeshError], str] = {
    Offline: N_("Offline"),
    WrongService: N_("Another program answers at this address"),
    WrongVersion: N_("The server is of another version"),
    WrongToken: N_("The server does not accept the token"),
    OnlineAccessNeeded: N_("Online Access is off"),
    NoRequests: N_("This Blender lacks a module"),
}
_JOB_ICONS = {
    "queued": "SORTTIME",
    "running": "PLAY",
    "succeeded": "CHECKMARK",
    "failed": "ERROR",
    "cancelled": "CANCEL",
    "interrupted": "PAUSE",
}


@dataclass(frozen=True, kw_only=True)
class ServerLine:
    """The server's state as the panel tells it."""

    text: str
    icon: str
    details: tuple[str, ...] = ()  # whole sentences, to be wrapped
    alert: bool = False
    online: bool = False  # it answers as it should, and takes jobs


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """One job as the panel tells it."""

    title: str
    text: str
    icon: str
    fraction: float | None  # of a bar; None: no bar
    bar: str = ""  # on the bar
    active: bool  # may be cancelled
    problem: tuple[str, ...] = ()  # sentences


def server_line(app: "AppState") -> ServerLine:
    """What is known of the server, the most important first."""
    if app.error is not None:
        return _of_error(app, app.error)
    if app.ready is None:
        if app.is_starting:
            return ServerLine(text=t("Starting"), icon="SORTTIME")
        return ServerLine(text=t("Looking for the server"), icon="SORTTIME")
    return _of_ready(app.ready)


def job_row(record: "JobRecord", *, online: bool) -> JobRow:
    """A record's line. One without a job is on its way to the server; nothing moves while that is away."""
    job, error = record.job, record.error
    problem = (_sentences(error),) if error else ()
    if job is None:
        text = t("Not sent") if error else record.state_text or t("Sending the picture")
        return JobRow(
            title=record.title, text=text, icon="ERROR" if error else "EXPORT", fraction=None, active=not error,
            problem=problem,
        )  # fmt: skip
    if job.error is not None and not problem:
        problem = (capital(f"{job.error.message} {job.error.advice}".strip()),)
    away = not online and not job.finished
    return JobRow(
        title=record.title or job.title,
        text=t("Waiting for the server") if away else job_text(job, record.state_text),
        icon="ERROR" if error else "UNLINKED" if away else _JOB_ICONS.get(job.state, "QUESTION"),
        fraction=job.fraction if job.state in ("running", "interrupted") else None,
        bar="" if away else bar_text(job),
        active=not job.finished,
        problem=problem,
    )


def job_text(job: "Job", own_words: str = "") -> str:
    """Where a job stands: its stage, its place in the queue, or its end."""
    if job.cancelling and not job.finished:
        return t("Cancelling")
    if job.state == "queued":
        return queue_words(job.queue_position)
    if job.state == "running" and job.stage:
        return stage_words(job.stage)
    if job.state == "succeeded":
        faces = (job.result or {}).get("faces")
        done = own_words or state_words(job.state)
        return f"{done}, {t('{count} faces').format(count=f'{faces:,}')}" if isinstance(faces, int) else done
    return state_words(job.state)


def bar_text(job: "Job") -> str:
    """Step and time left; short, for the sidebar is narrow."""
    parts = []
    if job.steps and job.steps > 1 and job.step is not None:
        parts.append(t("step {step} of {steps}").format(step=job.step, steps=job.steps))
    if job.eta_s is not None:
        parts.append(time_left(job.eta_s))
    return ", ".join(parts)


def memory_text(ready: "Ready") -> str:
    """Device and free memory; empty until the worker has told them."""
    title = ready.device_title or ready.device
    if not title:
        return ""
    if ready.memory_free is None:
        return title
    return t("{device}, {size} free").format(device=title, size=byte_size(ready.memory_free))


def _of_error(app: "AppState", error: S2MeshError) -> ServerLine:
    if isinstance(error, Offline):
        if app.is_starting:
            return ServerLine(text=t("Starting"), icon="SORTTIME")
        if app.process_problem is not None:
            return ServerLine(
                text=t("The server cannot start"), icon="ERROR", details=(_sentences(app.process_problem),), alert=True
            )
        if app.ready is not None and error.timed_out:  # a busy server is not a dead one
            return ServerLine(text=t("Busy"), icon="SORTTIME", details=(t("It answers slowly."),), online=True)
        return ServerLine(text=t("Offline"), icon="UNLINKED", details=(_sentences(error),))
    title = next((words for kind, words in _TITLES.items() if isinstance(error, kind)), None)
    return ServerLine(
        text=t(title) if title else t("The server reports an error"), icon="ERROR", details=(_sentences(error),),
        alert=True,
    )  # fmt: skip


def _of_ready(ready: "Ready") -> ServerLine:
    details = tuple(filter(None, (memory_text(ready),)))
    if ready.draining:
        return ServerLine(text=t("Stopping"), icon="SORTTIME", details=details)
    if ready.problem or not ready.ready:
        problem = capital(ready.problem or t("The server takes no jobs"))
        return ServerLine(text=t("The server cannot work"), icon="ERROR", details=(problem, *details), alert=True)
    if ready.running or ready.worker_state == "busy":
        text = t("Busy, {count} waiting").format(count=ready.queued) if ready.queued else t("Busy")
        return ServerLine(text=text, icon="SORTTIME", details=details, online=True)
    if ready.worker_state == "starting":
        return ServerLine(text=t("Loading weights"), icon="SORTTIME", details=details, online=True)
    return ServerLine(text=t("Ready"), icon="CHECKMARK", details=details, online=True)


def _sentences(error: "S2MeshError | str") -> str:
    """Message and remedy, each in the artist's language where it is known."""
    if isinstance(error, S2MeshError):
        return " ".join(filter(None, (t(error.message), t(error.remedy) if error.remedy else "")))
    return str(error)
