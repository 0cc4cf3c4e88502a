"""What comes off the wire: the server's own documents are understood, anything else is refused."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blender_addon.client_errors import WireError
from blender_addon.wire import Artifact, Capabilities, ErrorInfo, Job, Option, Preset, Ready
from server.jobs import model

JOB = model.Job(
    id="0e9fe69736304199a9be9cc122ea94ef",
    title="mug.png",
    state=model.JobState.RUNNING,
    options={"seed": 7},
    created_at=1.0,
    started_at=2.0,
    stage="structure",
    step=3,
    steps=13,
    fraction=0.17,
    eta_s=12.3,
    last_event=10,
    attempt=1,
    notes=("a note",),
    error=model.failure("no_surface", "nothing seen.", "Try another."),
    artifacts=(model.Artifact(name="mesh.glb", bytes=5, sha256="ab" * 32),),
).to_dict(queue_position=2)


def test_every_field_of_a_job_arrives():
    job = Job.from_json(JOB)
    told = {**JOB, "events": None, "error": None, "notes": None, "artifacts": None}
    for name, value in told.items():
        if name != "events" and value is not None:
            assert getattr(job, name) == value, name
    assert set(JOB) - {"events"} == set(job.__dataclass_fields__)
    assert job.notes == ("a note",) and job.error.advice == "Try another." and job.error.code == "no_surface"
    mesh = job.artifact("mesh.glb")
    assert (mesh.bytes, mesh.sha256, mesh.url) == (5, "ab" * 32, JOB["artifacts"][0]["url"])
    assert job.artifact("coarse.glb") is None


def test_the_job_of_the_manual_is_read():
    text = (__import__("pathlib").Path(__file__).parents[2] / "server" / "API.md").read_text()
    job = json.loads(text.split("## Job\n\n```json\n")[1].split("```")[0])
    assert Job.from_json(job).artifact("input.png").bytes == job["artifacts"][0]["bytes"]


@pytest.mark.parametrize("state", list(model.JobState))
def test_states_are_finished_where_the_server_says_so(state):
    assert Job.from_json({**JOB, "state": state.value}).finished == state.finished


def test_a_job_of_few_words_and_of_many():
    assert Job.from_json({"id": "0" * 32, "state": "queued"}).fraction == 0
    assert Job.from_json({**JOB, "mood": "good", "artifacts": [{**JOB["artifacts"][0], "smell": 1}]}) == Job.from_json(
        JOB
    )


@pytest.mark.parametrize(
    "change",
    [
        {"id": "../../etc"},
        {"id": "0" * 31},
        {"id": "0" * 32 + "\n"},
        {"id": None},
        {"state": "dreaming"},
        {"state": ["queued"]},
        {"state": None},
        {"cancelling": 1},
        {"attempt": "1"},
        {"attempt": True},
        {"attempt": 1.5},
        {"attempt": -1},
        {"last_event": 2**70},
        {"fraction": "half"},
        {"fraction": math.nan},
        {"fraction": None},
        {"eta_s": math.inf},
        {"eta_s": 10**400},
        {"queue_position": [1]},
        {"title": 5},
        {"stage": {}},
        {"options": []},
        {"error": "broken"},
        {"error": {"code": 5, "message": ""}},
        {"notes": "a note"},
        {"notes": [1]},
        {"result": 7},
        {"artifacts": {}},
        {"artifacts": [None]},
        {"artifacts": [{**JOB["artifacts"][0], "name": "../mesh.glb"}]},
        {"artifacts": [{**JOB["artifacts"][0], "name": ".."}]},
        {"artifacts": [{**JOB["artifacts"][0], "name": "a/b.glb"}]},
        {"artifacts": [{**JOB["artifacts"][0], "name": "mesh.glb\0"}]},
        {"artifacts": [{**JOB["artifacts"][0], "sha256": "ab"}]},
        {"artifacts": [{**JOB["artifacts"][0], "bytes": -5}]},
        {"artifacts": [{**JOB["artifacts"][0], "bytes": None}]},
    ],
    ids=str,
)
def test_a_job_that_cannot_be_right(change):
    with pytest.raises(WireError) as error:
        Job.from_json({**JOB, **change})
    assert error.value.remedy


def test_the_fraction_stays_on_the_bar():
    assert Job.from_json({**JOB, "fraction": 7}).fraction == 1.0
    assert Job.from_json({**JOB, "fraction": -1}).fraction == 0.0


@pytest.mark.parametrize("kind", [Artifact, Capabilities, ErrorInfo, Job, Option, Preset, Ready])
@pytest.mark.parametrize("document", [None, [], "text", 5, {}])
def test_what_is_no_document(kind, document):
    with pytest.raises(WireError):
        kind.from_json(document)


def test_ready_in_few_words():
    ready = Ready.from_json({"ready": True, "worker": {"state": "idle", "pid": None}, "device": None, "memory": None})
    assert ready.ready and ready.device is None and ready.memory_free is None
    with pytest.raises(WireError):
        Ready.from_json({"ready": True, "worker": "idle"})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(JOB)), JSON)
def test_any_value_in_a_job_is_read_or_refused(name, value):
    try:
        job = Job.from_json({**JOB, name: value})
    except WireError:
        return
    assert 0.0 <= job.fraction <= 1.0 and isinstance(job.title, str)
