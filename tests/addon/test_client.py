"""The extension's client against a real server: the whole walk, and what it does when things break."""

import hashlib
import uuid

import pytest

from blender_addon import disk
from blender_addon.client import Client, ClientSettings
from blender_addon.client_errors import (
    Damaged,
    DiskFull,
    Offline,
    Refused,
    S2MeshError,
    Stopped,
    WrongToken,
)
from blender_addon.glb import read_glb
from blender_addon.wire import JobRequest
from tests.support.cutting_proxy import CuttingProxy
from tests.support.live_server import picture_bytes, wait_for


def request(shade: int = 200, key: str | None = None, **options) -> JobRequest:
    return JobRequest(
        picture=picture_bytes(shade), title="box.png", options=options, idempotency_key=key or uuid.uuid4().hex
    )


@pytest.fixture
def client(server):
    client = Client(server.url, server.token)
    yield client
    client.close()


@pytest.fixture(scope="module")
def done(server):
    """A job that has succeeded."""
    client = Client(server.url, server.token)
    job = client.submit(request())
    yield wait_for(lambda: (now := client.job(job.id)[0]).finished and now, "the job")
    client.close()


def part_files(folder):
    return [path.name for path in folder.iterdir()]


def test_the_whole_walk(client, done, tmp_path):
    assert done.state == "succeeded" and done.title == "box.png" and done.result["faces"] > 0
    path = client.download(done.id, done.artifact("mesh.glb"), tmp_path / "deep" / "mesh.glb")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == done.artifact("mesh.glb").sha256
    data = read_glb(path)
    assert len(data.triangles) == done.result["faces"] and len(data.positions) == done.result["vertices"]
    assert data.extras["seed"] == done.options["seed"] if "seed" in data.extras else data.extras
    coarse = read_glb(client.download(done.id, done.artifact("coarse.glb"), tmp_path / "coarse.glb"))
    assert len(coarse.triangles) > 0
    assert part_files(tmp_path / "deep") == ["mesh.glb"]


def test_events_after_a_number(client, done):
    job, events = client.job(done.id, after=0)
    assert [event["id"] for event in events] == list(range(1, job.last_event + 1))
    assert client.job(done.id)[1] == []
    assert client.job(done.id, after=job.last_event - 1)[1] == events[-1:]


def test_what_the_server_is(client):
    assert client.health()["service"] == "s2mesh"
    ready = client.ready()
    assert ready.ready and ready.problem is None and ready.queue_limit == 100
    can = client.capabilities()
    assert can.default_preset == "tiny" and can.preset("tiny").installed and can.preset("none") is None
    seed = can.option("seed")
    assert seed.type == "integer" and seed.minimum == 0 and seed.nullable and seed.help
    assert can.option("background").choices == ("auto", "alpha", "none")
    assert can.limits["body_bytes"] == 32 * 2**20


def test_every_page_of_the_list(client, done):
    other = client.submit(request(shade=10))
    first, following = client.jobs(limit=1)
    second, _ = client.jobs(limit=1, before=following)
    assert [job.id for job in (*first, *second)] == [other.id, done.id]
    assert client.cancel(other.id).id == other.id
    wait_for(lambda: client.job(other.id)[0].finished, "the cancelled job")
    client.delete(other.id)
    with pytest.raises(Refused) as error:
        client.job(other.id)
    assert error.value.code == "job_not_found" and error.value.remedy


def test_the_same_key_is_one_job(client):
    first, second = (client.submit(request(key="k" * 30, seed=5)) for _ in range(2))
    assert first.id == second.id and first.options["seed"] == 5


def test_a_refusal_says_what_and_where(client):
    with pytest.raises(Refused) as error:
        client.submit(request(dense_steps=0))
    assert error.value.code == "option_out_of_range" and error.value.details["field"] == "dense_steps"
    assert "between 1 and 1000" in str(error.value) and error.value.status == 422
    with pytest.raises(Refused, match="(?i)picture"):
        client.submit(JobRequest(picture=b"no picture", title="x", options={}, idempotency_key="q" * 20))


def test_a_picture_that_is_too_large_is_not_sent(client):
    huge = JobRequest(picture=bytes(33 * 2**20), title="x", options={}, idempotency_key="z" * 20)
    with pytest.raises(Refused, match="33 MB.*smaller"):
        client.submit(huge)


def test_odd_titles_and_options_arrive(client):
    job = client.submit(
        JobRequest(
            picture=picture_bytes(), title='Bäcker "1"\n日本.png', options={"seed": 2**62}, idempotency_key="t" * 20
        )
    )
    assert "日本" in job.title and job.options["seed"] == 2**62


def test_the_memory_is_freed(client, server):
    wait_for(lambda: server.ready()["queue"]["running"] == 0 and server.ready()["queue"]["queued"] == 0, "idle")
    assert client.unload() is True


# --- who is asked ---


def test_a_server_is_found_with_its_token(server, tmp_path):
    found = Client.from_settings(ClientSettings(cache_dir=tmp_path, data_dir=server.data_dir))
    assert (found.url, found.token, found.is_local) == (server.url, server.token, True)
    assert found.ready().ready and found.server_version
    found.close()
    given = Client.from_settings(ClientSettings(cache_dir=tmp_path, data_dir=server.data_dir, url=server.url))
    assert given.token == server.token
    given.close()


def test_the_token_is_in_no_text(server, tmp_path):
    settings = ClientSettings(cache_dir=tmp_path, url=server.url, token=server.token)
    assert server.token not in repr(settings)


def test_another_token(server, tmp_path):
    wrong = Client(server.url, "x" * 43)
    with pytest.raises(WrongToken, match="does not take the token.*s2mesh token"):
        wrong.ready()
    wrong.close()
    with pytest.raises(WrongToken, match="not in this user's data folder"):
        Client.from_settings(ClientSettings(cache_dir=tmp_path, data_dir=tmp_path, url=server.url))


def test_proxies_of_the_environment_are_passed_by(server, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    client = Client(server.url.replace("127.0.0.1", "localhost"), server.token)
    assert client.ready().ready
    client.close()


# --- files ---


def test_a_download_that_is_stopped_leaves_nothing(client, done, tmp_path):
    calls = iter([False, True])
    with pytest.raises(Stopped):
        client.download(done.id, done.artifact("mesh.glb"), tmp_path / "mesh.glb", lambda: next(calls))
    assert part_files(tmp_path) == []


def test_a_full_disk_is_told_before(client, done, tmp_path, monkeypatch):
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    with pytest.raises(DiskFull, match="The disk is full.*Free some space"):
        client.download(done.id, done.artifact("mesh.glb"), tmp_path / "mesh.glb")
    assert part_files(tmp_path) == []


def test_a_full_disk_is_told_in_the_middle(client, done, tmp_path):
    """A real limit of the size of files, as a full disk would be."""
    import resource
    import signal

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / "mesh.glb"
    path.write_bytes(b"older")
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        with pytest.raises(DiskFull, match="The disk is full"):
            client.download(done.id, done.artifact("mesh.glb"), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert part_files(tmp_path) == ["mesh.glb"] and path.read_bytes() == b"older"


def test_a_folder_that_cannot_be_written(client, done, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(S2MeshError, match="cannot be written.*cache folder"):
        client.download(done.id, done.artifact("mesh.glb"), tmp_path / "file" / "mesh.glb")
    (tmp_path / "mesh.glb").mkdir()
    with pytest.raises(S2MeshError, match="cannot be written"):
        client.download(done.id, done.artifact("mesh.glb"), tmp_path / "mesh.glb")


def test_a_download_that_breaks_leaves_nothing(server, done, tmp_path):
    with CuttingProxy(server.url) as proxy:
        client = Client(proxy.url, server.token)
        client.ready()
        proxy.cut(b"GET /v1/jobs/" + done.id.encode() + b"/artifacts", 1000)
        with pytest.raises(Offline, match="broke"):
            client.download(done.id, done.artifact("mesh.glb"), tmp_path / "mesh.glb")
        assert part_files(tmp_path) == []
        client.download(done.id, done.artifact("mesh.glb"), tmp_path / "mesh.glb")
        client.close()
    assert part_files(tmp_path) == ["mesh.glb"]


def test_a_file_that_is_not_what_was_told(client, done, tmp_path):
    import dataclasses

    mesh = done.artifact("mesh.glb")
    for lie in ({"sha256": "00" * 32}, {"bytes": mesh.bytes - 1}):
        with pytest.raises(Damaged, match="damaged.*Import the job again"):
            client.download(done.id, dataclasses.replace(mesh, **lie), tmp_path / "mesh.glb")
    assert part_files(tmp_path) == []


# --- the server goes and comes ---


def test_an_answer_that_got_lost_is_one_job(server):
    with CuttingProxy(server.url) as proxy:
        client = Client(proxy.url, server.token)
        client.ready()
        proxy.cut(b"POST /v1/jobs", 0)
        job = client.submit(request(key="lost" * 8))
        client.close()
        assert proxy.count(b"POST /v1/jobs ") == 2
    assert sum(known["id"] == job.id for known in server.get("/v1/jobs?limit=100").json()["jobs"]) == 1


def test_a_server_that_was_killed_and_started_again(start_server, tmp_path):
    live = start_server()
    client = Client(live.url, live.token)
    assert client.ready().ready
    live.kill()
    with pytest.raises(Offline, match="No server answers.*Press Start"):
        client.ready()
    with pytest.raises(Offline, match="No server"):
        Client.from_settings(ClientSettings(cache_dir=tmp_path, data_dir=live.data_dir, default_port=9))
    live.start()
    found = Client.from_settings(ClientSettings(cache_dir=tmp_path, data_dir=live.data_dir))
    assert found.ready().ready
    found.close()
    client.close()


def test_a_server_that_is_about_to_stop_tells_so(start_server):
    live = start_server()
    live.worker_idle()
    job = live.queued(dense_steps=1000)
    live.in_state(job, "running")
    client = Client(live.url, live.token)
    live.process.terminate()
    ready = wait_for(lambda: not (now := client.ready()).ready and now, "the end")
    assert ready.draining and "no new jobs" in ready.problem
    client.close()
