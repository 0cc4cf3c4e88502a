"""Which finished jobs are removed, and what becomes of jobs that a dead server left."""

import pytest

from server.jobs.files import JobFiles
from server.jobs.model import JobState, new_id
from server.jobs.retention import apply_retention, reconcile, remove_job
from server.jobs.store import JobStore
from server.settings import Limits
from tests.support.jobs import add_job

MANY = 10**9


@pytest.fixture
def store(tmp_path):
    opened = JobStore(tmp_path / "jobs.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def files(tmp_path):
    return JobFiles(tmp_path / "jobs")


def finished(store, files, *sizes: int) -> list[str]:
    """Jobs that ended one after the other, with so many bytes each; their ids."""
    ids = []
    for number, size in enumerate(sizes):
        job = add_job(store, JobState.RUNNING)
        files.create(job.id, b"x" * size)
        store.transition(job.id, JobState.SUCCEEDED, finished_at=1000.0 + number)
        ids.append(job.id)
    return ids


def left(store, files) -> list[str]:
    """Ids of finished jobs that are still there, oldest first; rows and folders agree."""
    ids = [job.id for job in store.finished()]
    assert {path.name for path in files.root.iterdir()} == store.ids()
    return ids


@pytest.mark.parametrize(("keep", "stay"), [(0, 1), (1, 1), (3, 3), (4, 4), (5, 5), (6, 5)])
def test_the_oldest_go_until_the_number_is_kept(store, files, keep, stay):
    ids = finished(store, files, 1, 1, 1, 1, 1)
    assert apply_retention(store, files, Limits(keep_jobs=keep, keep_bytes=MANY)) == 5 - stay
    assert left(store, files) == ids[5 - stay :]


@pytest.mark.parametrize(("keep_bytes", "stay"), [(0, 1), (39, 1), (40, 1), (69, 1), (70, 2), (99, 2), (100, 3)])
def test_the_oldest_go_until_the_bytes_are_kept(store, files, keep_bytes, stay):
    ids = finished(store, files, 30, 30, 40)
    assert apply_retention(store, files, Limits(keep_jobs=100, keep_bytes=keep_bytes)) == 3 - stay
    assert left(store, files) == ids[3 - stay :]


def test_the_newest_stays_though_it_is_too_large_alone(store, files):
    ids = finished(store, files, 10, 1000)
    assert apply_retention(store, files, Limits(keep_jobs=100, keep_bytes=500)) == 1
    assert left(store, files) == ids[1:]


def test_all_files_of_a_job_count(store, files):
    ids = finished(store, files, 10, 10, 10)
    files.artifact(ids[2], "mesh.glb").write_bytes(b"x" * 70)
    assert apply_retention(store, files, Limits(keep_jobs=100, keep_bytes=80)) == 2
    assert left(store, files) == ids[2:]


def test_jobs_that_are_not_finished_are_neither_counted_nor_removed(store, files):
    waiting, running = add_job(store), add_job(store, JobState.RUNNING)
    for job in (waiting, running):
        files.create(job.id, b"x" * 1000)
    ids = finished(store, files, 1, 1)
    assert apply_retention(store, files, Limits(keep_jobs=2, keep_bytes=500)) == 0
    assert apply_retention(store, files, Limits(keep_jobs=1, keep_bytes=500)) == 1
    assert left(store, files) == ids[1:] and {waiting.id, running.id} < store.ids()


def test_nothing_to_remove(store, files):
    assert apply_retention(store, files, Limits(keep_jobs=0, keep_bytes=0)) == 0


def test_remove_job_takes_finished_ones_alone(store, files):
    (done,) = finished(store, files, 1)
    waiting = add_job(store)
    files.create(waiting.id, b"x")
    assert not remove_job(store, files, waiting.id) and files.source(waiting.id).exists()
    assert remove_job(store, files, done) and not files.folder(done).exists()
    assert not remove_job(store, files, done) and not remove_job(store, files, new_id())


# --- after a server that died ---


def crash(store, job_id: str) -> None:
    """The next try of the job begins, and the server ends without a word."""
    store.transition(
        job_id, JobState.RUNNING, attempt=store.get(job_id).attempt + 1, stage="structure", step=2, steps=5,
        fraction=0.3, eta_s=9.0,
    )  # fmt: skip


def test_a_job_that_ran_is_run_again_once(store, files):
    job = add_job(store)
    files.create(job.id, b"picture")
    crash(store, job.id)
    reconcile(store, files)
    again = store.get(job.id)
    assert again.state is JobState.QUEUED and again.attempt == 1 and files.source(job.id).exists()
    assert (again.stage, again.step, again.steps, again.fraction, again.eta_s) == (None, None, None, 0.0, None)
    assert [event["state"] for event in store.events(job.id)] == ["queued", "running", "interrupted", "queued"]

    crash(store, job.id)
    reconcile(store, files)
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED and failed.error["code"] == "interrupted_twice"
    assert failed.error["details"]["advice"] and failed.finished_at is not None
    assert [event["state"] for event in store.events(job.id)][-2:] == ["interrupted", "failed"]
    assert store.events(job.id)[-1]["error"] == failed.error


def test_a_job_that_was_put_off_in_order_does_not_use_up_its_second_try(store, files):
    job = add_job(store)
    for _ in range(3):
        crash(store, job.id)
        store.transition(job.id, JobState.INTERRUPTED, attempt=store.get(job.id).attempt - 1)  # as a drain does
        reconcile(store, files)
        assert store.get(job.id).state is JobState.QUEUED and store.get(job.id).attempt == 0


def test_a_job_that_was_about_to_be_cancelled_is_cancelled(store, files):
    job = add_job(store)
    crash(store, job.id)
    store.request_cancel(job.id)
    reconcile(store, files)
    done = store.get(job.id)
    assert done.state is JobState.CANCELLED and not done.cancelling and done.error is None


def test_all_are_settled_however_many_and_the_rest_is_left_alone(store, files):
    running = [add_job(store) for _ in range(120)]
    for job in running:
        crash(store, job.id)
    others = [add_job(store, state) for state in JobState if state.finished or state is JobState.QUEUED]
    interrupted = add_job(store, JobState.INTERRUPTED)
    reconcile(store, files)
    assert {store.get(job.id).state for job in (*running, interrupted)} == {JobState.QUEUED}
    assert [store.get(job.id) for job in others] == others
    reconcile(store, files)
    assert {store.get(job.id).attempt for job in running} == {1}


def test_folders_of_no_job_go(store, files):
    job = add_job(store)
    files.create(job.id, b"mine")
    files.create(new_id(), b"of a request that was cut off")
    reconcile(store, files)
    assert [path.name for path in files.root.iterdir()] == [job.id]
