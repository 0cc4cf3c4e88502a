"""States and which may follow which, ids, times, and a job as clients see it."""

import itertools
import json

import pytest

from server.errors import FAILURES
from server.jobs.model import (
    ARTIFACTS,
    TRANSITIONS,
    Artifact,
    IllegalTransition,
    JobState,
    check_transition,
    failure,
    is_id,
    new_id,
    timestamp,
)
from tests.support.jobs import new_job

ALLOWED = {  # written out here a second time: a slip in the table must show
    ("queued", "running"),
    ("queued", "cancelled"),
    ("queued", "failed"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("running", "cancelled"),
    ("running", "interrupted"),
    ("interrupted", "queued"),
    ("interrupted", "failed"),
    ("interrupted", "cancelled"),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobState, JobState)))
def test_every_pair_of_states(old, new):
    if (old.value, new.value) in ALLOWED:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"^{old.value} -> {new.value}$"):
            check_transition(old, new)


def test_every_state_has_its_row_and_three_are_the_end():
    assert TRANSITIONS.keys() == set(JobState)
    assert {state.value for state in JobState if state.finished} == {"succeeded", "failed", "cancelled"}


def test_ids_are_random_and_recognised():
    ids = {new_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(map(is_id, ids))


@pytest.mark.parametrize(
    "text",
    ["", "a" * 31, "a" * 33, "A" * 32, "g" * 32, "a" * 32 + "\n", "../" + "a" * 29, "٣" * 32, "a" * 31 + "/", " " * 32],
)
def test_what_is_no_id(text):
    assert not is_id(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, None),
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1795643414.123, "2026-11-25T21:50:14.123Z"),
        (1795643414.0, "2026-11-25T21:50:14.000Z"),
    ],
)
def test_times_are_utc_with_milliseconds(seconds, text):
    assert timestamp(seconds) == text


def test_a_failure_has_the_shape_of_every_error():
    assert failure("internal", "It broke.") == {"code": "internal", "message": "It broke.", "details": {}}
    assert failure("internal", "It broke.", "Mend it.")["details"] == {"advice": "Mend it."}
    assert all(sentence.endswith(".") for sentence in FAILURES.values())


def test_artifacts_know_their_type_and_address():
    for name, media_type in ARTIFACTS.items():
        shown = Artifact(name=name, bytes=3, sha256="ab").to_dict("0" * 32)
        assert shown == {
            "name": name,
            "bytes": 3,
            "sha256": "ab",
            "media_type": media_type,
            "url": f"/v1/jobs/{'0' * 32}/artifacts/{name}",
        }
    with pytest.raises(KeyError):
        Artifact(name="../token", bytes=3, sha256="ab").to_dict("0" * 32)


def test_a_job_as_clients_see_it():
    artifact = Artifact(name="mesh.glb", bytes=1, sha256="ff")
    job = new_job(
        id="a" * 32, created_at=0.0, fraction=1 / 3, eta_s=12.3456, notes=("a note",), artifacts=(artifact,), number=9
    )
    shown = job.to_dict(queue_position=2)
    assert json.loads(json.dumps(shown)) == shown
    assert " ".join(shown) == (
        "id title state cancelling attempt created_at started_at finished_at queue_position stage step steps "
        "fraction eta_s last_event options error notes result artifacts events"
    )
    assert shown["state"] == "queued" and shown["queue_position"] == 2 and shown["created_at"].startswith("1970")
    assert shown["fraction"] == 0.3333 and shown["eta_s"] == 12.3
    assert shown["notes"] == ["a note"] and shown["artifacts"] == [artifact.to_dict("a" * 32)]
    assert shown["events"] == [] and job.to_dict(events=[{"id": 1}])["events"] == [{"id": 1}]
    assert (
        job.to_dict()["queue_position"] is None and shown["started_at"] is None and new_job().to_dict()["eta_s"] is None
    )
