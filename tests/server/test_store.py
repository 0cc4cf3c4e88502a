"""The store of jobs, method by method: queue, pages, events, artifacts, idempotency, times of stages."""

import itertools
import sqlite3
import time

import pytest

from server.jobs.model import Artifact, IllegalTransition, JobState, check_transition, failure, new_id
from server.jobs.store import JobStore
from tests.support.jobs import add_job, new_job


@pytest.fixture
def store(tmp_path):
    opened = JobStore(tmp_path / "jobs.sqlite")
    yield opened
    opened.close()


def test_a_job_comes_back_as_it_was_given(store):
    options = {"seed": 2**63 - 1, "formats": ["glb"], "iso_level": 0.1, "faces": None, "title": "größe ✓"}
    given = new_job(title="täßchen.png", options=options)
    added = store.add(given, max_queued=5, idempotency_key=None, request_digest="")
    assert added == store.get(given.id)
    assert (added.title, added.options, added.created_at) == (given.title, options, given.created_at)
    assert added.state is JobState.QUEUED and added.number == 1 and added.last_event == 1
    assert store.get(new_id()) is None


def test_a_full_queue_takes_nothing_and_only_waiting_jobs_fill_it(store):
    first = store.add(new_job(), max_queued=2, idempotency_key=None, request_digest="")
    add_job(store)
    refused = new_job()
    assert store.add(refused, max_queued=2, idempotency_key=None, request_digest="") is None
    assert store.get(refused.id) is None and store.count(JobState.QUEUED) == 2
    store.transition(first.id, JobState.RUNNING)
    assert store.add(refused, max_queued=2, idempotency_key=None, request_digest="").id == refused.id


def test_an_id_is_taken_once(store):
    job = add_job(store)
    with pytest.raises(sqlite3.IntegrityError):
        add_job(store, id=job.id)
    assert len(store.events(job.id)) == 1


def test_the_queue_is_in_order_of_arrival(store):
    first, second, third = (add_job(store) for _ in range(3))
    assert store.next_queued().id == first.id
    assert [store.queue_position(job) for job in (first, second, third)] == [1, 2, 3]
    running = store.transition(first.id, JobState.RUNNING)
    assert store.queue_position(running) is None and store.next_queued().id == second.id
    store.transition(first.id, JobState.INTERRUPTED)
    again = store.transition(first.id, JobState.QUEUED)
    assert store.queue_position(again) == 1 and store.next_queued().id == first.id, "it waited longest"
    assert store.ids() == {first.id, second.id, third.id}


def test_an_empty_store(store):
    assert store.next_queued() is None and store.ids() == set() and store.finished() == []
    assert store.page() == ([], None) and store.count(JobState.QUEUED) == 0


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobState, JobState)))
def test_transitions_are_checked_and_a_refused_one_changes_nothing(store, old, new):
    before = add_job(store, old)
    try:
        check_transition(old, new)
    except IllegalTransition:
        with pytest.raises(IllegalTransition):
            store.transition(before.id, new, notes=["never"])
        assert store.get(before.id) == before
        return
    after = store.transition(before.id, new)
    assert after.state is new and after.last_event == before.last_event + 1
    last = store.events(before.id)[-1]
    assert last == {"id": after.last_event, "at": last["at"], "type": "state", "state": new.value, "error": None}


def test_transitions_keep_the_times(store):
    job = add_job(store)
    assert job.started_at is None
    running = store.transition(job.id, JobState.RUNNING, attempt=1)
    assert job.created_at <= running.started_at <= time.time() and running.finished_at is None
    store.update(job.id, eta_s=3.0, cancelling=True)
    error = failure("no_surface", "Nothing is there.")
    done = store.transition(job.id, JobState.FAILED, error=error)
    assert running.started_at <= done.finished_at <= time.time()
    assert done.eta_s is None and not done.cancelling and done.error == error and done.attempt == 1
    assert store.events(job.id)[-1]["error"] == error


def test_a_transition_of_no_job(store):
    with pytest.raises(KeyError):
        store.transition(new_id(), JobState.RUNNING)


def test_update_changes_columns_and_adds_events(store):
    job = add_job(store, JobState.RUNNING)
    store.update(job.id, stage="structure", step=2, steps=5, fraction=0.4, notes=["one", "two"])
    quiet = store.get(job.id)
    assert (quiet.stage, quiet.step, quiet.steps, quiet.fraction) == ("structure", 2, 5, 0.4)
    assert quiet.notes == ("one", "two") and quiet.last_event == job.last_event
    store.update(job.id, {"type": "note", "message": "three"})
    assert store.events(job.id)[-1]["message"] == "three" and store.get(job.id).last_event == job.last_event + 1
    store.update(new_id(), {"type": "note", "message": "of a deleted job"}, step=1)
    with pytest.raises(AssertionError):
        store.update(job.id, state="succeeded")
    with pytest.raises(AssertionError):
        store.update(job.id, **{"step = 1; --": 1})


def test_events_are_numbered_from_one_and_read_from_anywhere(store):
    job, other = add_job(store), add_job(store)
    for number in range(5):
        store.update(job.id, {"type": "note", "message": str(number)})
    assert [event["id"] for event in store.events(job.id)] == [1, 2, 3, 4, 5, 6]
    assert [event["message"] for event in store.events(job.id, 4)] == ["3", "4"]
    assert store.events(job.id, 6) == store.events(job.id, 10**9) == store.events(new_id()) == []
    assert [event["id"] for event in store.events(other.id)] == [1]
    assert all(event["at"].endswith("Z") for event in store.events(job.id))


def test_cancel_in_every_state(store):
    for state in JobState:
        before = add_job(store, state)
        after = store.request_cancel(before.id)
        if state in (JobState.QUEUED, JobState.INTERRUPTED):
            assert after.state is JobState.CANCELLED and after.finished_at is not None
            assert store.events(before.id)[-1]["state"] == "cancelled"
        elif state is JobState.RUNNING:
            assert after.state is JobState.RUNNING and after.cancelling
        else:
            assert after == before
        assert store.request_cancel(before.id) == after, "twice is as once"
    assert store.request_cancel(new_id()) is None


def test_artifacts_are_added_and_replaced_by_name(store):
    job = add_job(store, JobState.RUNNING)
    mesh, coarse = (Artifact(name=name, bytes=1, sha256="a") for name in ("mesh.glb", "coarse.glb"))
    better = Artifact(name="coarse.glb", bytes=2, sha256="b")
    for artifact in (coarse, mesh, better):
        store.add_artifact(job.id, artifact)
    assert store.get(job.id).artifacts == (mesh, better)
    told = [event for event in store.events(job.id) if event["type"] == "artifact"]
    assert [event["sha256"] for event in told] == ["a", "a", "b"]
    assert told[-1]["url"] == f"/v1/jobs/{job.id}/artifacts/coarse.glb"


def test_only_finished_jobs_are_deleted_with_their_events(store):
    for state in JobState:
        job = add_job(store, state)
        assert store.delete(job.id) is state.finished
        assert (store.get(job.id) is None) is state.finished
        assert (store.events(job.id) == []) is state.finished
    assert not store.delete(new_id())


def test_finished_jobs_come_in_order_of_their_end(store):
    jobs = [add_job(store, JobState.RUNNING) for _ in range(3)]
    for job, at in zip(jobs, (30.0, 10.0, 20.0), strict=True):
        store.transition(job.id, JobState.SUCCEEDED, finished_at=at)
    add_job(store)
    assert [job.id for job in store.finished()] == [jobs[1].id, jobs[2].id, jobs[0].id]


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8])
def test_pages_hold_every_job_once_newest_first(store, limit):
    jobs = [add_job(store) for _ in range(7)]
    seen, before, pages = [], None, 0
    while True:
        page, before = store.page(limit=limit, before=before)
        assert 0 < len(page) <= limit and pages < 7
        seen += [job.id for job in page]
        pages += 1
        if before is None:
            break
    assert seen == [job.id for job in reversed(jobs)] and pages == -(-7 // limit)


def test_pages_of_one_state_and_with_jobs_that_come_and_go(store):
    jobs = [add_job(store, JobState.CANCELLED if number % 2 else JobState.QUEUED) for number in range(8)]
    page, following = store.page(state=JobState.CANCELLED, limit=2)
    assert [job.id for job in page] == [jobs[7].id, jobs[5].id]
    add_job(store, JobState.CANCELLED)
    store.delete(jobs[5].id)
    page, following = store.page(state=JobState.CANCELLED, limit=2, before=following)
    assert [job.id for job in page] == [jobs[3].id, jobs[1].id] and following is None


def test_idempotency_keys_find_the_newest_job_within_their_life(store):
    add_job(store, key="k", digest="old", created_at=1000.0)
    newer = add_job(store, key="k", digest="new", created_at=2000.0)
    add_job(store, key="other", created_at=3000.0)
    add_job(store, created_at=3000.0)
    assert store.by_idempotency_key("k", 500.0) == (newer.id, "new")
    assert store.by_idempotency_key("k", 1999.9) == (newer.id, "new")
    assert store.by_idempotency_key("k", 2000.0) is None
    assert store.by_idempotency_key("K", 0.0) is None


def test_times_of_stages_are_blended_by_step(store):
    store.keep_stage_times("starter", "cpu", {"structure": (4.0, 4), "export": (1.0, 1)})
    assert store.stage_times("starter", "cpu") == {"structure": (4.0, 4), "export": (1.0, 1)}
    store.keep_stage_times("starter", "cpu", {"structure": (24.0, 8)})  # 1 s a step before, 3 s now
    times = store.stage_times("starter", "cpu")
    assert times == {"structure": (pytest.approx(16.0), 8), "export": (1.0, 1)}
    assert store.stage_times("starter", "cuda:0") == store.stage_times("other", "cpu") == {}


def test_changes_are_published_to_who_watches(store):
    job, other = add_job(store, JobState.RUNNING), add_job(store)
    changes = (
        lambda: store.update(job.id, {"type": "note", "message": ""}),
        lambda: store.add_artifact(job.id, Artifact(name="mesh.glb", bytes=1, sha256="a")),
        lambda: store.request_cancel(job.id),
        lambda: store.transition(job.id, JobState.CANCELLED),
        lambda: store.delete(job.id),
    )
    with store.bus.watch(job.id) as watch, store.bus.watch(other.id) as deaf:
        for change in changes:
            assert not watch.wait(0)
            change()
            assert watch.wait(0)
        assert not deaf.wait(0)


def test_everything_is_there_for_the_next_server(tmp_path):
    first = JobStore(tmp_path / "jobs.sqlite")
    job = add_job(first, JobState.SUCCEEDED, key="k")
    first.keep_stage_times("starter", "cpu", {"export": (1.0, 1)})
    first.close()
    second = JobStore(tmp_path / "jobs.sqlite")
    try:
        assert second.get(job.id) == job and len(second.events(job.id)) == 3
        assert second.by_idempotency_key("k", 0) == (job.id, "d")
        assert second.stage_times("starter", "cpu") == {"export": (1.0, 1)}
        assert add_job(second).number == job.number + 1
    finally:
        second.close()
