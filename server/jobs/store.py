"""Jobs, their events and the measured stage times in SQLite. The queue is the oldest row that says ``queued``.

One connection a thread. Readers never wait for writers (WAL); writers wait up to ``busy_s`` for each other and for
other programs, then ``sqlite3.OperationalError`` says so. Every change of state goes through ``transition``, which
asks ``check_transition`` inside the write transaction, so that two threads cannot both win.
"""

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.jobs.bus import Bus
from server.jobs.model import Artifact, Job, JobState, check_transition, timestamp

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    title TEXT NOT NULL,
    state TEXT NOT NULL,
    options TEXT NOT NULL,
    created_at REAL NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 0,
    cancelling INTEGER NOT NULL DEFAULT 0,
    started_at REAL,
    finished_at REAL,
    stage TEXT,
    step INTEGER,
    steps INTEGER,
    fraction REAL NOT NULL DEFAULT 0,
    eta_s REAL,
    last_event INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    notes TEXT NOT NULL DEFAULT '[]',
    result TEXT,
    artifacts TEXT NOT NULL DEFAULT '[]',
    idempotency_key TEXT,
    request_digest TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, number);
CREATE INDEX IF NOT EXISTS jobs_by_key ON jobs (idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE TABLE IF NOT EXISTS events (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    id INTEGER NOT NULL,
    at REAL NOT NULL,
    content TEXT NOT NULL,
    PRIMARY KEY (job_id, id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS stage_times (
    preset TEXT NOT NULL,
    device TEXT NOT NULL,
    stage TEXT NOT NULL,
    seconds REAL NOT NULL,
    steps INTEGER NOT NULL,
    PRIMARY KEY (preset, device, stage)
) WITHOUT ROWID;
"""
_COLUMNS = (
    "number, id, title, state, options, created_at, attempt, cancelling, started_at, finished_at, stage, step, steps, "
    "fraction, eta_s, last_event, error, notes, result, artifacts"
)
_JSON = ("options", "error", "result")
_CHANGEABLE = {
    "attempt", "cancelling", "started_at", "finished_at", "stage", "step", "steps", "fraction", "eta_s", "error",
    "notes", "result", "artifacts",
}  # fmt: skip
_NEW_STAGE_SHARE = 0.5  # of a measurement in the kept time of its stage


class JobStore:
    """The database of one data directory. Safe to use from any thread.

    Raises:
        sqlite3.DatabaseError: at once, for a file that is no database or of a newer version.
    """

    def __init__(self, path: Path, bus: Bus | None = None, *, busy_s: float = 5.0) -> None:
        self.path = path
        self.bus = bus or Bus()
        self._busy_s = busy_s
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        try:
            self._prepare(self._connection())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes every thread's connection; nobody may use the store any more."""
        with self._guard:
            for connection in self._connections:
                connection.close()
            self._connections.clear()

    # --- reading ---

    def get(self, job_id: str) -> Job | None:
        row = self._connection().execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def page(
        self, *, state: JobState | None = None, limit: int = 20, before: int | None = None
    ) -> tuple[list[Job], int | None]:
        """The newest jobs first, and the ``before`` of the page after them (None: there is none)."""
        wanted, values = [], []
        if state is not None:
            wanted.append("state = ?")
            values.append(state.value)
        if before is not None:
            wanted.append("number < ?")
            values.append(before)
        where = f"WHERE {' AND '.join(wanted)}" if wanted else ""
        query = f"SELECT {_COLUMNS} FROM jobs {where} ORDER BY number DESC LIMIT ?"
        jobs = [_job(row) for row in self._connection().execute(query, (*values, limit + 1))]
        return jobs[:limit], jobs[limit - 1].number if len(jobs) > limit else None

    def events(self, job_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Events with an id above ``after``, in order."""
        query = "SELECT id, at, content FROM events WHERE job_id = ? AND id > ? ORDER BY id"
        rows = self._connection().execute(query, (job_id, after))
        return [{"id": number, "at": timestamp(at), **json.loads(content)} for number, at, content in rows]

    def queue_position(self, job: Job) -> int | None:
        """1 for the job that is next; None for one that does not wait."""
        if job.state is not JobState.QUEUED:
            return None
        query = "SELECT COUNT(*) FROM jobs WHERE state = 'queued' AND number < ?"
        return 1 + self._connection().execute(query, (job.number,)).fetchone()[0]

    def next_queued(self) -> Job | None:
        query = f"SELECT {_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1"
        row = self._connection().execute(query).fetchone()
        return None if row is None else _job(row)

    def count(self, state: JobState) -> int:
        return self._connection().execute("SELECT COUNT(*) FROM jobs WHERE state = ?", (state.value,)).fetchone()[0]

    def ids(self) -> set[str]:
        return {row[0] for row in self._connection().execute("SELECT id FROM jobs")}

    def finished(self) -> list[Job]:
        """All finished jobs, the one that ended first in front."""
        names = ", ".join(f"'{state.value}'" for state in JobState if state.finished)
        query = f"SELECT {_COLUMNS} FROM jobs WHERE state IN ({names}) ORDER BY finished_at, number"
        return [_job(row) for row in self._connection().execute(query)]

    def by_idempotency_key(self, key: str, since: float) -> tuple[str, str] | None:
        """(job id, digest of its request) of the newest job sent with ``key`` after ``since``."""
        query = (
            "SELECT id, request_digest FROM jobs WHERE idempotency_key = ? AND created_at > ? "
            "ORDER BY number DESC LIMIT 1"
        )
        return self._connection().execute(query, (key, since)).fetchone()

    def stage_times(self, preset: str, device: str) -> dict[str, tuple[float, int]]:
        """Stage to (seconds, steps) as measured here before."""
        query = "SELECT stage, seconds, steps FROM stage_times WHERE preset = ? AND device = ?"
        rows = self._connection().execute(query, (preset, device))
        return {stage: (seconds, steps) for stage, seconds, steps in rows}

    # --- writing ---

    def add(self, job: Job, *, max_queued: int, idempotency_key: str | None, request_digest: str) -> Job | None:
        """Inserts a queued job; None if ``max_queued`` jobs wait already."""
        with self._write() as connection:
            waiting = connection.execute("SELECT COUNT(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
            if waiting >= max_queued:
                return None
            connection.execute(
                "INSERT INTO jobs (id, title, state, options, created_at, idempotency_key, request_digest) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.id, job.title, job.state.value, json.dumps(job.options), job.created_at, idempotency_key,
                 request_digest),
            )  # fmt: skip
            self._append(connection, job.id, {"type": "state", "state": job.state.value, "error": None})
        self.bus.publish(job.id)
        return self.get(job.id)

    def transition(self, job_id: str, state: JobState, **changes: Any) -> Job:
        """Moves a job to another state, with other changed columns, and adds the event.

        Raises:
            IllegalTransition: if ``state`` may not follow the job's present one. KeyError: if there is no such job.
        """
        now = time.time()
        with self._write() as connection:
            row = connection.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                raise KeyError(job_id)
            check_transition(JobState(row[0]), state)
            times = {"started_at": now} if state is JobState.RUNNING else {}
            times |= {"finished_at": now, "eta_s": None, "cancelling": False} if state.finished else {}
            self._change(connection, job_id, {**times, **changes, "state": state.value})
            event = {"type": "state", "state": state.value, "error": changes.get("error")}
            self._append(connection, job_id, event)
        self.bus.publish(job_id)
        return self._known(job_id)

    def update(self, job_id: str, event: dict[str, Any] | None = None, **changes: Any) -> None:
        """Changes columns of a job that keeps its state, and adds ``event`` if there is one."""
        assert "state" not in changes, "that is what transition is for"
        with self._write() as connection:
            if changes:
                self._change(connection, job_id, changes)
            if event is not None:
                self._append(connection, job_id, event)
        if event is not None:
            self.bus.publish(job_id)

    def request_cancel(self, job_id: str) -> Job | None:
        """Cancels a job that waits; marks one that runs, for the supervisor to stop. Finished ones stay as they are."""
        with self._write() as connection:
            row = connection.execute("SELECT state FROM jobs WHERE id = ?", (job_id,)).fetchone()
            if row is None:
                return None
            state = JobState(row[0])
            if state is JobState.RUNNING:
                self._change(connection, job_id, {"cancelling": True})
            elif not state.finished:
                self._change(connection, job_id, {"state": JobState.CANCELLED.value, "finished_at": time.time()})
                self._append(connection, job_id, {"type": "state", "state": "cancelled", "error": None})
        self.bus.publish(job_id)
        return self._known(job_id)

    def add_artifact(self, job_id: str, artifact: Artifact) -> None:
        """Adds a file to a job, or replaces the one of that name."""
        with self._write() as connection:
            row = connection.execute("SELECT artifacts FROM jobs WHERE id = ?", (job_id,)).fetchone()
            kept = [entry for entry in json.loads(row[0]) if entry["name"] != artifact.name]
            entry = {"name": artifact.name, "bytes": artifact.bytes, "sha256": artifact.sha256}
            connection.execute("UPDATE jobs SET artifacts = ? WHERE id = ?", (json.dumps([*kept, entry]), job_id))
            self._append(connection, job_id, {"type": "artifact", **artifact.to_dict(job_id)})
        self.bus.publish(job_id)

    def delete(self, job_id: str) -> bool:
        """Removes a finished job; False if it is not finished (or not there)."""
        names = ", ".join(f"'{state.value}'" for state in JobState if state.finished)
        with self._write() as connection:
            done = connection.execute(f"DELETE FROM jobs WHERE id = ? AND state IN ({names})", (job_id,))
        self.bus.publish(job_id)
        return done.rowcount == 1

    def keep_stage_times(self, preset: str, device: str, measured: dict[str, tuple[float, int]]) -> None:
        """Blends measured (seconds, steps) of stages into what is kept."""
        known = self.stage_times(preset, device)
        with self._write() as connection:
            for stage, (seconds, steps) in measured.items():
                if stage in known and known[stage][1] > 0:
                    before = known[stage][0] / known[stage][1] * steps
                    seconds = before + _NEW_STAGE_SHARE * (seconds - before)
                connection.execute(
                    "INSERT OR REPLACE INTO stage_times VALUES (?, ?, ?, ?, ?)", (preset, device, stage, seconds, steps)
                )

    # --- inside ---

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"{self.path} was written by a newer version of S2 Mesh")
        connection.executescript(_SCHEMA)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _known(self, job_id: str) -> Job:
        job = self.get(job_id)
        if job is None:
            raise KeyError(job_id)
        return job

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = sqlite3.connect(self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False)
            with self._guard:
                self._connections.append(connection)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")  # a finished job survives a power cut
            connection.execute("PRAGMA foreign_keys = ON")
            self._local.connection = connection
        return connection

    @contextlib.contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite itself rolls back where the disk is full
                connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _change(connection: sqlite3.Connection, job_id: str, changes: dict[str, Any]) -> None:
        assert changes.keys() <= _CHANGEABLE | {"state"}, changes
        plain = {
            name: json.dumps(value)
            if name in ("error", "notes", "result", "artifacts") and value is not None
            else value
            for name, value in changes.items()
        }
        columns = ", ".join(f"{name} = ?" for name in plain)
        connection.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*plain.values(), job_id))

    @staticmethod
    def _append(connection: sqlite3.Connection, job_id: str, event: dict[str, Any]) -> None:
        query = "UPDATE jobs SET last_event = last_event + 1 WHERE id = ? RETURNING last_event"
        row = connection.execute(query, (job_id,)).fetchone()
        if row is not None:  # else the job was deleted in the meantime
            values = (job_id, row[0], time.time(), json.dumps(event))
            connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", values)


def _job(row: tuple) -> Job:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    for name in _JSON:
        values[name] = None if values[name] is None else json.loads(values[name])
    job = Job(
        **{
            **values,
            "state": JobState(values["state"]),
            "cancelling": bool(values["cancelling"]),
            "notes": tuple(json.loads(values["notes"])),
            "artifacts": tuple(Artifact(**entry) for entry in json.loads(values["artifacts"])),
        }
    )
    return replace(job, options=job.options or {})
