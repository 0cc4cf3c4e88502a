"""The store where many write at once, another program holds it, the disk is full, or the file is not its own."""

import contextlib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.jobs.model import Artifact, IllegalTransition, JobState
from server.jobs.store import SCHEMA_VERSION, JobStore
from tests.support.jobs import add_job, new_job

THREADS = 12
BUSY_S = 0.05
HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
connection.execute("COMMIT")
connection.close()
"""


@pytest.fixture
def open_store(tmp_path):
    opened = []

    def open_one(name: str = "jobs.sqlite", **how) -> JobStore:
        opened.append(JobStore(tmp_path / name, **how))
        return opened[-1]

    yield open_one
    for store in opened:
        store.close()


def at_once(work: Callable[[int], object]) -> list[object]:
    """What ``work`` returns or raises in so many threads that start together."""
    barrier = threading.Barrier(THREADS)

    def start(number: int) -> object:
        barrier.wait(30)
        try:
            return work(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(start, range(THREADS)))


@contextlib.contextmanager
def held_by_another(path: Path) -> Iterator[None]:
    """Another process has the database for itself."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"held\n"
            yield
        finally:
            process.stdin.close()
            assert process.wait(30) == 0


# --- many at once ---


def test_the_queue_never_takes_more_than_its_limit(open_store):
    store = open_store(busy_s=30)
    added = at_once(
        lambda number: [
            store.add(new_job(), max_queued=20, idempotency_key=None, request_digest="") is not None for _ in range(5)
        ]
    )
    assert sum(map(sum, added)) == store.count(JobState.QUEUED) == 20
    jobs, _ = store.page(limit=100)
    assert sorted(store.queue_position(job) for job in jobs) == list(range(1, 21))


def test_a_job_is_claimed_by_one(open_store):
    store = open_store(busy_s=30)
    for _ in range(5):
        job = add_job(store)
        ends = at_once(lambda number, job=job: store.transition(job.id, JobState.RUNNING, attempt=number))
        winners = [end for end in ends if not isinstance(end, IllegalTransition)]
        assert len(winners) == 1 and winners[0] == store.get(job.id)
        assert [event["state"] for event in store.events(job.id)] == ["queued", "running"]


def test_of_cancel_and_claim_one_wins(open_store):
    store = open_store(busy_s=30)
    for _ in range(5):
        job = add_job(store)

        def work(number: int, job_id: str = job.id) -> object:
            return store.request_cancel(job_id) if number % 2 else store.transition(job_id, JobState.RUNNING)

        ends = at_once(work)
        claims = [end for end in ends[::2] if not isinstance(end, IllegalTransition)]
        now = store.get(job.id)
        assert not [end for end in ends[1::2] if isinstance(end, Exception)]
        assert len(claims) <= 1
        if claims:
            assert now.state is JobState.RUNNING
        else:
            assert now.state is JobState.CANCELLED
            assert [event["state"] for event in store.events(job.id)] == ["queued", "cancelled"]


def test_a_job_ends_once(open_store):
    store = open_store(busy_s=30)
    ends = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED]
    job = add_job(store, JobState.RUNNING)
    results = at_once(lambda number: store.transition(job.id, ends[number % len(ends)]))
    legal = [event["state"] for event in store.events(job.id)][2:]
    assert len([end for end in results if not isinstance(end, IllegalTransition)]) == len(legal)
    assert legal in (
        ["succeeded"],
        ["failed"],
        ["cancelled"],
        ["interrupted"],
        *(["interrupted", end.value] for end in ends),
    )


def test_events_and_artifacts_of_many_threads_are_all_kept(open_store):
    store = open_store(busy_s=30)
    job = add_job(store, JobState.RUNNING)
    names = ["mesh.glb", "mesh.obj", "mesh.ply", "mesh.stl", "coarse.glb", "preview.png"]

    def work(number: int) -> None:
        for step in range(5):
            store.update(job.id, {"type": "note", "message": f"{number}.{step}"})
        store.add_artifact(job.id, Artifact(name=names[number % len(names)], bytes=number, sha256="a"))

    assert at_once(work) == [None] * THREADS
    events = store.events(job.id)
    assert [event["id"] for event in events] == list(range(1, 2 + THREADS * 6 + 1)), "no gap, no number twice"
    notes = {event["message"] for event in events if event["type"] == "note"}
    assert len(notes) == THREADS * 5
    assert {artifact.name for artifact in store.get(job.id).artifacts} == set(names)


# --- another program ---


def test_while_another_program_holds_the_database_readers_read_and_writers_say_so(open_store):
    store = open_store(busy_s=BUSY_S)
    job = add_job(store)
    writes = (
        lambda: add_job(store),
        lambda: store.transition(job.id, JobState.RUNNING),
        lambda: store.update(job.id, {"type": "note", "message": ""}),
        lambda: store.request_cancel(job.id),
        lambda: store.delete(job.id),
        lambda: store.keep_stage_times("starter", "cpu", {"export": (1.0, 1)}),
    )
    with held_by_another(store.path):
        for write in writes:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                write()
        assert store.get(job.id) == job and store.page()[0] == [job] and len(store.events(job.id)) == 1
        with ThreadPoolExecutor(1) as pool:  # a thread whose connection is opened only now
            assert pool.submit(store.get, job.id).result(30) == job
    assert store.transition(job.id, JobState.RUNNING).state is JobState.RUNNING, "nothing is left locked"


def test_a_writer_waits_for_another_program(open_store):
    store = open_store(busy_s=30)
    job = add_job(store)
    with ThreadPoolExecutor(1) as pool:
        with held_by_another(store.path):
            waiting = pool.submit(store.transition, job.id, JobState.RUNNING)
            assert not waiting.done() and store.get(job.id).state is JobState.QUEUED
        assert waiting.result(30).state is JobState.RUNNING


# --- a full disk, a wrong file ---


def test_a_full_disk_is_told_and_leaves_the_store_usable(open_store):
    store = open_store()
    job = add_job(store)
    connection = store._connection()
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own way to have no more room
    refused = new_job(options={"title": "x" * 100_000})
    with pytest.raises(sqlite3.OperationalError, match="full"):
        store.add(refused, max_queued=9, idempotency_key=None, request_digest="")
    assert store.get(refused.id) is None and store.page()[0] == [job]
    connection.execute("PRAGMA max_page_count = 1000000")
    assert store.add(refused, max_queued=9, idempotency_key=None, request_digest="").id == refused.id


def test_an_error_in_the_middle_changes_nothing(open_store):
    store = open_store()
    job = add_job(store, JobState.RUNNING)
    with pytest.raises(TypeError):
        store.transition(job.id, JobState.FAILED, error={"code": object()})
    with pytest.raises(TypeError):
        store.update(job.id, {"type": object()}, step=5)
    assert store.get(job.id) == job and len(store.events(job.id)) == 2
    assert store.transition(job.id, JobState.FAILED).state is JobState.FAILED


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be read as one" * 50, b"SQLite format 3\0x"]
)
def test_a_file_that_is_no_database(tmp_path, content):
    path = tmp_path / "jobs.sqlite"
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError, match="not a database|malformed"):
        JobStore(path)
    assert path.read_bytes() == content


def test_a_database_of_a_newer_version_is_left_alone(open_store, tmp_path):
    open_store().close()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(sqlite3.DatabaseError, match="newer version"):
        open_store()
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs.sqlite")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION + 1


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        JobStore(tmp_path / "nowhere" / "jobs.sqlite")


def test_a_closed_store_is_closed_for_every_thread(open_store):
    store = open_store()
    add_job(store)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(store.count, JobState.QUEUED).result(30) == 1
        store.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            pool.submit(store.count, JobState.QUEUED).result(30)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        store.count(JobState.QUEUED)
