"""The Python client against a real server: jobs, events that resume, files, broken connections."""

import hashlib
import socket

import pytest

from core.errors import InputError
from server import client as client_module
from server.client import Client
from server.client_errors import Damaged, JobFailed, Refused, StillRunning, Unreachable
from tests.support.cutting_proxy import CuttingProxy
from tests.support.live_server import picture_bytes, wait_for


@pytest.fixture
def client(server):
    with Client(data_dir=server.data_dir) as client:
        yield client


@pytest.fixture
def proxied(server):
    """(client that speaks through a proxy, the proxy)."""
    with CuttingProxy(server.url) as proxy, Client(proxy.url, data_dir=server.data_dir) as client:
        yield client, proxy


@pytest.fixture
def faults(server):
    """The server, whose worker is whole again afterwards."""
    yield server
    server.no_fault()
    server.worker_idle()


@pytest.fixture(scope="module")
def done(server):
    """A job that has succeeded."""
    with Client(data_dir=server.data_dir) as client:
        return client.wait(client.submit(picture_bytes(), {"seed": 7})["id"])


# --- jobs ---


def test_from_picture_to_mesh(client, tmp_path):
    (tmp_path / 'Tässe "1".png').write_bytes(picture_bytes())
    sent = client.submit(tmp_path / 'Tässe "1".png', {"seed": 3, "formats": ["stl"]})
    assert (sent["state"], sent["title"]) == ("queued", 'Tässe "1".png')
    events = []
    job = client.wait(sent["id"], on_event=events.append)
    assert [event["id"] for event in events] == list(range(1, job["last_event"] + 1))
    assert events[-1]["state"] == job["state"] == "succeeded"
    assert {event["type"] for event in events} == {"state", "progress", "artifact"}
    path = client.download(job["id"], "mesh.stl", tmp_path / "box.stl")
    entry = next(entry for entry in job["artifacts"] if entry["name"] == "mesh.stl")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry["sha256"]
    assert client.artifact(job["id"], "mesh.stl") == path.read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ['Tässe "1".png', "box.stl"]


def test_the_seed_is_drawn_and_told_and_a_title_given(client):
    job = client.submit(picture_bytes(), title="from memory.png")
    assert isinstance(job["options"]["seed"], int) and job["title"] == "from memory.png"
    client.wait(job["id"])


def test_what_the_server_says_of_itself(client, server):
    assert client.health()["service"] == "s2mesh"
    assert client.ready()["ready"] is True
    assert "tiny" in [preset["name"] for preset in client.capabilities()["presets"]]
    server.worker_idle()
    assert client.unload() is True


def test_all_pages_of_the_list_without_a_gap(client, monkeypatch):
    ids = [client.submit(picture_bytes())["id"] for _ in range(5)]
    for job_id in ids:
        client.cancel(job_id)
    monkeypatch.setattr(client_module, "_PAGE", 2)
    listed = [job["id"] for job in client.jobs()]
    assert listed[:5] == ids[::-1] and len(set(listed)) == len(listed)
    assert [job["id"] for job in client.jobs(limit=3)] == listed[:3]
    assert [job["id"] for job in client.jobs(limit=0)] == []
    wait_for(lambda: all(job["state"] != "running" for job in client.jobs(limit=5)), "the end of what ran")
    assert all(job["state"] == "cancelled" for job in client.jobs("cancelled"))
    client.delete(ids[0])
    with pytest.raises(Refused) as refused:
        client.job(ids[0])
    assert refused.value.code == "job_not_found"


def test_the_same_key_is_the_same_job(client):
    one = client.submit(picture_bytes(), {"seed": 1}, idempotency_key="only once")
    assert client.submit(picture_bytes(), {"seed": 1}, idempotency_key="only once")["id"] == one["id"]
    with pytest.raises(Refused) as refused:
        client.submit(picture_bytes(), {"seed": 2}, idempotency_key="only once")
    assert refused.value.code == "idempotency_conflict" and refused.value.status == 409
    client.wait(one["id"])


# --- refusals and failures ---


@pytest.mark.parametrize(
    "options, code, field",
    [
        ({"dense_steps": 0}, "option_out_of_range", "dense_steps"),
        ({"seed": "7"}, "option_wrong_type", "seed"),
        ({"sed": 7}, "unknown_option", "sed"),
        ({"background": "blue"}, "option_not_allowed", "background"),
    ],
)
def test_a_refusal_has_code_message_and_details(client, options, code, field):
    with pytest.raises(Refused) as refused:
        client.submit(picture_bytes(), options)
    error = refused.value
    assert (error.code, error.status, error.exit_status, error.details["field"]) == (code, 422, 2, field)
    assert field in error.message and str(error) == error.message


def test_a_job_that_fails_says_why_and_what_to_do(client, faults):
    faults.fault("memory", "structure")
    job = client.submit(picture_bytes())
    with pytest.raises(JobFailed) as failed:
        client.wait(job["id"])
    assert failed.value.code == "out_of_memory" and failed.value.exit_status == 1
    assert "smaller resolution" in str(failed.value) and failed.value.job["state"] == "failed"


def test_waiting_has_an_end_and_the_job_goes_on_until_it_is_cancelled(client, faults):
    faults.fault("slow", "structure")
    job = client.submit(picture_bytes(), {"dense_steps": 1000})
    with pytest.raises(StillRunning, match="goes on"):
        client.wait(job["id"], timeout_s=0.1)
    with pytest.raises(Refused) as refused:
        client.delete(job["id"])
    assert refused.value.code == "job_running"
    client.cancel(job["id"])
    with pytest.raises(JobFailed) as cancelled:
        client.wait(job["id"], timeout_s=60)
    assert cancelled.value.code == "cancelled"


def test_a_picture_that_is_no_file_is_not_sent(client, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        client.submit(tmp_path / "none.png")
    with pytest.raises(InputError, match="is no file"):
        client.submit(tmp_path)


# --- files ---


def test_a_file_that_was_changed_is_not_kept(client, server, tmp_path):
    job = client.wait(client.submit(picture_bytes())["id"])
    stored = server.data_dir / "jobs" / job["id"] / "mesh.glb"
    content = bytearray(stored.read_bytes())
    content[-1] ^= 1
    stored.write_bytes(content)
    (tmp_path / "mesh.glb").write_text("before")
    with pytest.raises(Damaged):
        client.download(job["id"], "mesh.glb", tmp_path / "mesh.glb")
    with pytest.raises(Damaged):
        client.artifact(job["id"], "mesh.glb")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


def test_a_download_that_breaks_leaves_nothing(proxied, done, tmp_path):
    client, proxy = proxied
    client.health()
    proxy.cut(b"GET /v1/jobs/" + done["id"].encode() + b"/artifacts", 3000)
    with pytest.raises(Unreachable, match="broke"):
        client.download(done["id"], "mesh.glb", tmp_path / "mesh.glb")
    assert list(tmp_path.iterdir()) == []
    client.download(done["id"], "mesh.glb", tmp_path / "mesh.glb")


def test_where_a_file_cannot_go(client, done, tmp_path):
    with pytest.raises(InputError, match="cannot write"):
        client.download(done["id"], "mesh.glb", tmp_path / "none" / "mesh.glb")
    with pytest.raises(InputError, match="is a folder"):
        client.download(done["id"], "mesh.glb", tmp_path)
    with pytest.raises(Refused) as refused:
        client.download(done["id"], "mesh.ply", tmp_path / "mesh.ply")
    assert refused.value.code == "artifact_not_found"
    assert list(tmp_path.iterdir()) == []


# --- events ---


def test_events_from_any_number_on(client, done):
    every = list(client.events(done["id"]))
    assert [event["id"] for event in every] == list(range(1, done["last_event"] + 1))
    assert list(client.events(done["id"], after=5)) == every[5:]
    assert list(client.events(done["id"], after=done["last_event"])) == []


def test_a_broken_stream_is_taken_up_where_it_broke(proxied, faults):
    client, proxy = proxied
    faults.fault("slow", "structure")
    job = client.submit(picture_bytes())
    path = f"GET /v1/jobs/{job['id']}/events".encode()
    for _ in range(3):
        proxy.cut(path, 700)  # in the middle of an event
    ids = [event["id"] for event in client.events(job["id"])]
    assert ids == list(range(1, client.job(job["id"])["last_event"] + 1))
    assert proxy.count(path) == 4


def test_without_a_free_stream_it_polls(start_server):
    server = start_server(limits={"event_streams": 0})
    with Client(data_dir=server.data_dir) as client:
        job = client.submit(picture_bytes())
        with pytest.raises(Refused) as refused:
            list(client._stream(job["id"], 0))
        assert refused.value.code == "too_many_streams" and refused.value.retry_after_s > 0
        events = list(client.events(job["id"]))
        assert [event["id"] for event in events] == list(range(1, client.job(job["id"])["last_event"] + 1))
        assert events[-1]["state"] == "succeeded"


def test_a_job_is_followed_over_the_death_of_its_server(start_server):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = start_server(port=port)
    server.fault("slow", "structure")
    states, killed = [], False
    with Client(data_dir=server.data_dir) as client:
        job = client.submit(picture_bytes(), {"dense_steps": 20})
        for event in client.events(job["id"]):
            if event["type"] == "state":
                states.append(event["state"])
            elif not killed and event["type"] == "progress" and event["stage"] == "structure":
                server.kill()
                server.no_fault()
                server.start()
                killed = True
    assert states == ["queued", "running", "interrupted", "queued", "running", "succeeded"]


# --- broken connections ---


def test_a_job_whose_answer_was_lost_is_sent_again_and_is_one_job(proxied):
    client, proxy = proxied
    before = len(list(client.jobs()))
    proxy.cut(b"POST /v1/jobs ", 0)
    job = client.submit(picture_bytes())
    assert proxy.count(b"POST /v1/jobs ") == 2
    assert len(list(client.jobs())) == before + 1
    client.wait(job["id"])


def test_a_connection_that_always_breaks_is_told(proxied):
    client, proxy = proxied
    client.health()
    for _ in range(2):
        proxy.cut(b"GET /v1/ready", 0)
    with pytest.raises(Unreachable):
        client.ready()
    assert client.ready()["ready"] is True


def test_the_environment_s_proxies_are_not_asked(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with Client(data_dir=server.data_dir) as client:
        assert client.ready()["ready"] is True
