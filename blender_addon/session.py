# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs that this Blender knows, in order. Used on the main thread only.

Blender's data is named here, never held: undo and another file make references to it invalid, names are looked up.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .client_errors import S2MeshError
from .placement import Placement
from .wire import Job


@dataclass(kw_only=True)
class JobRecord:
    """One job from the click to the object in the scene."""

    key: str = field(default_factory=lambda: uuid.uuid4().hex)  # of this record, for as long as it lives here
    id: str = ""  # the server's; empty until the server has taken it
    ticket: int = 0  # of the poller's submission; 0 for a job that somebody else sent
    job: Job | None = None  # as the server told it last
    title: str = ""
    placement: Placement = field(default_factory=Placement)
    purpose: Literal["new", "replace"] = "new"
    target_name: str = ""  # object that is to be replaced
    target_uid: int = 0
    scene_name: str = ""
    collection_name: str = ""
    stand_in_name: str = ""  # object that shows the coarse structure; empty: none
    object_name: str = ""  # that the result became
    mesh_path: Path | None = None
    thumbnail_path: Path | None = None
    state_text: str = ""  # what the panel says
    error: S2MeshError | None = None
    wanted: bool = False  # whether its result is to be put into the scene when it comes
    imported: bool = False

    @property
    def finished(self) -> bool:
        """Whether the server does nothing more for it."""
        return (self.job is not None and self.job.finished) or (not self.id and self.error is not None)

    @property
    def state(self) -> str:
        """The server's word, or "sending" before it has one, or "failed" where it was not taken."""
        if self.job is not None:
            return self.job.state
        return "failed" if self.error is not None else "sending"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Of the records."""

    active: int
    finished: int

    @property
    def total(self) -> int:
        return self.active + self.finished


class Session:
    """Records, newest first: those of this Blender and those adopted from the server's list."""

    def __init__(self) -> None:
        self._records: list[JobRecord] = []

    def __iter__(self) -> Iterator[JobRecord]:
        return iter(list(self._records))

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: JobRecord) -> JobRecord:
        """Puts a record first."""
        self._records.insert(0, record)
        return record

    def find(self, name: str) -> JobRecord | None:
        """By the job's id or the record's own key."""
        return next((record for record in self._records if name and name in (record.id, record.key)), None)

    def by_ticket(self, ticket: int) -> JobRecord | None:
        return next((record for record in self._records if ticket and record.ticket == ticket), None)

    def remove(self, record: JobRecord) -> None:
        """Forgets a record; the job stays on the server."""
        self._records = [other for other in self._records if other is not record]

    def update(self, job: Job) -> JobRecord | None:
        """Takes over what the server says about a job; None where it is not one of ours."""
        record = self.find(job.id)
        if record is not None and (record.job is None or not _is_older(job, record.job)):
            record.job = job
            record.title = record.title or job.title
        return record

    def adopt(self, jobs: Iterable[Job]) -> list[JobRecord]:
        """Takes over the server's list, newest first; returns the records that are new here.

        Of those that are not new only the state changes: what this Blender wants of them stays.
        """
        jobs, new = list(jobs), []
        for job in jobs:
            if self.update(job) is None:
                new.append(JobRecord(id=job.id, job=job, title=job.title))
        self._records += new
        order = {job.id: index for index, job in enumerate(jobs)}
        own = [record for record in self._records if record.id not in order]
        listed = sorted((r for r in self._records if r.id in order), key=lambda record: order[record.id])
        self._records = [r for r in own if not r.finished] + listed + [r for r in own if r.finished]
        return new

    def copy(self) -> list[JobRecord]:
        """The records as they are now; changes to the copies change nothing here."""
        return [dataclasses.replace(record) for record in self._records]

    @property
    def active(self) -> list[JobRecord]:
        return [record for record in self._records if not record.finished]

    @property
    def counts(self) -> Counts:
        active = len(self.active)
        return Counts(active=active, finished=len(self._records) - active)


def _is_older(job: Job, than: Job) -> bool:
    """An answer that was overtaken by a later one."""
    return (job.attempt, job.last_event) < (than.attempt, than.last_event) or (than.finished and not job.finished)
