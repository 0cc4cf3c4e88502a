"""The poller when things break: servers that die, come back, change their token, or are not ours; hostile files."""

import hashlib
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from blender_addon.client_errors import (
    Damaged,
    NoRequests,
    Offline,
    OnlineAccessNeeded,
    Stopped,
    WireError,
    WrongService,
    WrongToken,
    WrongVersion,
)
from blender_addon.poller import (
    ClientSettings,
    CommandFailed,
    FetchFailed,
    JobChanged,
    ResultReady,
    ServerSeen,
    SubmitFailed,
    Submitted,
    SubmitWaiting,
)
from tests.support.glb_files import document, glb
from tests.support.live_server import ROOT, wait_for
from tests.support.polling import Watched, job_request
from tests.support.stub_http import HEALTH, StubServer

JOB_ID = "ab" * 16
TOKEN = "t" * 40


def test_a_server_killed_in_the_middle_and_started_again_finishes_the_job(start_server, tmp_path):
    """At another port and with a new token: both are found by themselves."""
    live = start_server()
    with Watched(ClientSettings(cache_dir=tmp_path / "cache", data_dir=live.data_dir, default_port=9)) as watched:
        watched.poller.look()
        assert watched.until(ServerSeen).ready is not None
        job = watched.until(Submitted, ticket=watched.poller.submit(job_request(dense_steps=300))).job
        wait_for(lambda: any(event.job.state == "running" for event in watched.of(JobChanged)), "the run")
        live.kill()
        seen = watched.until(ServerSeen, ready=None)
        assert isinstance(seen.error, Offline) and "Start" in seen.error.remedy and seen.capabilities is not None
        failed = watched.until(CommandFailed, ticket=watched.poller.cancel("0" * 32))
        assert isinstance(failed.error, Offline)
        live.start()
        assert watched.until(ResultReady, id=job.id).data.triangles.size
        attempts = [event.job.attempt for event in watched.of(JobChanged) if event.job.id == job.id]
        assert attempts[-1] == 2
        assert [event for event in watched.of(ServerSeen) if event.error is None]


def test_a_picture_sent_before_the_server_is_there(start_server, tmp_path):
    """Start and Generate may be pressed one after the other."""
    live = start_server()
    live.stop(signal.SIGTERM)
    with Watched(ClientSettings(cache_dir=tmp_path / "cache", data_dir=live.data_dir, default_port=9)) as watched:
        ticket = watched.poller.submit(job_request())
        assert isinstance(watched.until(SubmitWaiting, ticket=ticket).error, Offline)
        withdrawn = watched.poller.submit(job_request())
        watched.until(SubmitWaiting, ticket=withdrawn)
        watched.poller.withdraw(withdrawn)
        assert isinstance(watched.until(SubmitFailed, ticket=withdrawn).error, Stopped)
        live.start()
        job = watched.until(Submitted, ticket=ticket).job
        watched.until(ResultReady, id=job.id)
    assert len(live.get("/v1/jobs").json()["jobs"]) == 1


def test_a_picture_that_nobody_takes_is_given_up(tmp_path):
    with Watched(ClientSettings(cache_dir=tmp_path, data_dir=tmp_path, default_port=9)) as watched:
        ticket = watched.poller.submit(job_request(), patience_s=0.3)
        assert isinstance(watched.until(SubmitFailed, ticket=ticket).error, Offline)


def test_a_new_token_is_found_by_itself(start_server, tmp_path):
    live = start_server()
    settings = ClientSettings(cache_dir=tmp_path / "cache", data_dir=live.data_dir)
    with Watched(settings) as watched:
        watched.until(ServerSeen, ticket=watched.poller.refresh())
        command = [sys.executable, "-m", "server.cli", "token", "--new", "--data-dir", str(live.data_dir)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        assert (live.data_dir / "token").read_text().strip() != live.token
        ticket = watched.poller.submit(job_request())
        watched.until(Submitted, ticket=ticket)
        assert not [event for event in watched.of(ServerSeen) if event.error]
    with Watched(
        replace(settings, url=live.url, token=live.token)
    ) as watched:  # an old one that was entered stays wrong
        ticket = watched.poller.submit(job_request())
        assert isinstance(watched.until(SubmitFailed, ticket=ticket).error, WrongToken)
        watched.poller.look()
        assert isinstance(watched.until(ServerSeen).error, WrongToken)


def test_stop_does_not_wait_for_a_server_that_is_stuck(start_server, tmp_path):
    live = start_server()
    watched = Watched(ClientSettings(cache_dir=tmp_path / "cache", data_dir=live.data_dir))
    watched.poller.start()
    watched.until(ServerSeen, ticket=watched.poller.refresh())
    live.process.send_signal(signal.SIGSTOP)
    try:
        watched.poller.refresh()
        time.sleep(0.3)
        begun = time.monotonic()
        ended = watched.poller.stop()
        assert time.monotonic() - begun < 10  # its limit is 2 s; the rest is for a machine that is busy
        assert not ended and watched.poller.alive
    finally:
        live.process.send_signal(signal.SIGCONT)
    wait_for(lambda: not watched.poller.alive, "the thread's end")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((200, {}, b"<html>"), WrongService),
        ((200, {}, {**HEALTH, "api": 9}), WrongVersion),
        ((200, {}, HEALTH), WrongToken),
    ],
    ids=["foreign", "version", "token"],
)
def test_who_else_is_at_the_port(tmp_path, answer, kind):
    with StubServer(**{"/v1/health": answer}) as stub:
        settings = ClientSettings(cache_dir=tmp_path, data_dir=tmp_path, default_port=stub.port)
        with Watched(settings) as watched:
            watched.poller.look()
            seen = watched.until(ServerSeen)
            assert type(seen.error) is kind and seen.error.remedy and seen.ready is None
            ticket = watched.poller.submit(job_request())
            assert type(watched.until(SubmitFailed, ticket=ticket).error) is kind
            time.sleep(0.5)
            assert not watched.of(ServerSeen), "the same is told once"


def test_without_requests(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with Watched(ClientSettings(cache_dir=tmp_path)) as watched:
        watched.poller.look()
        assert isinstance(watched.until(ServerSeen).error, NoRequests)
        assert isinstance(watched.until(CommandFailed, ticket=watched.poller.refresh()).error, NoRequests)


def test_online_access_is_asked_for_and_then_taken(tmp_path):
    watched = Watched(ClientSettings(cache_dir=tmp_path, url="http://203.0.113.1:1", token=TOKEN))
    with watched:
        watched.poller.look()
        error = watched.until(ServerSeen).error
        assert isinstance(error, OnlineAccessNeeded) and "Allow Online Access" in error.remedy
        with StubServer() as stub:
            watched.settings = ClientSettings(cache_dir=tmp_path, url=stub.url, token=TOKEN)
            watched.poller.connect()
            wait_for(lambda: stub.requests, "a request")


# --- a server that lies ---


def asking(stub, folder) -> Watched:
    return Watched(ClientSettings(cache_dir=folder, url=stub.url, token=TOKEN))


def job(**change):
    return {"id": JOB_ID, "state": "succeeded", "title": "x", "artifacts": [], **change}


def with_file(content: bytes, **lie):
    artifact = {"name": "mesh.glb", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **lie}
    return {
        f"/v1/jobs/{JOB_ID}": (200, {}, job(artifacts=[artifact])),
        f"/v1/jobs/{JOB_ID}/artifacts/mesh.glb": (200, {}, content),
    }


def fetched(answers, tmp_path):
    with StubServer(**answers) as stub:
        settings = ClientSettings(cache_dir=tmp_path / "cache", url=stub.url, token=TOKEN)
        with Watched(settings) as watched:
            ticket = watched.poller.fetch(JOB_ID)
            wait_for(lambda: watched.of(FetchFailed) or watched.of(ResultReady), "an end")
            found = [event for event in watched.seen if event.ticket == ticket]
            assert len(found) == 1
            return found[0], [path.name for path in (tmp_path / "cache").glob("*")], stub


def test_a_good_file(tmp_path):
    event, names, _ = fetched(with_file(glb(document())), tmp_path)
    assert isinstance(event, ResultReady) and len(names) == 1 and len(event.data.triangles) == 4


@pytest.mark.parametrize(
    "content",
    [b"", b"glTF", glb(document())[:-4], glb({"asset": {"version": "2.0"}})],
    ids=["empty", "short", "cut", "no mesh"],
)
def test_a_hostile_mesh(tmp_path, content):
    event, names, _ = fetched(with_file(content), tmp_path)
    assert isinstance(event, FetchFailed) and isinstance(event.error, Damaged) and names == []


def test_a_file_with_a_wrong_digest_is_asked_for_twice(tmp_path):
    event, names, stub = fetched(with_file(glb(document()), sha256="00" * 32), tmp_path)
    assert isinstance(event.error, Damaged) and names == []
    assert sum(path.endswith("mesh.glb") for _, path, _ in stub.requests) == 2


def test_a_file_name_that_leads_elsewhere(tmp_path):
    event, names, _ = fetched(with_file(glb(document()), name="../../evil.glb"), tmp_path)
    assert isinstance(event.error, WireError) and names == []


def test_a_job_that_cannot_be_read_is_told_once(tmp_path):
    with (
        StubServer(**{f"/v1/jobs/{JOB_ID}": (200, {}, job(state="dreaming"))}) as stub,
        asking(stub, tmp_path) as watched,
    ):
        watched.poller.follow([JOB_ID])
        failed = watched.until(CommandFailed, id=JOB_ID)
        assert failed.command == "follow" and isinstance(failed.error, WireError)
        asked = sum(path.startswith("/v1/jobs/") for _, path, _ in stub.requests)
        time.sleep(0.4)
        assert sum(path.startswith("/v1/jobs/") for _, path, _ in stub.requests) == asked


def test_a_mistake_of_the_server_does_not_end_the_following(tmp_path):
    error = {"error": {"code": "internal", "message": "our mistake.", "details": {}}}
    with StubServer(**{f"/v1/jobs/{JOB_ID}": (500, {}, error)}) as stub, asking(stub, tmp_path) as watched:
        watched.poller.follow([JOB_ID])
        wait_for(lambda: len(stub.requests) > 2, "requests")
        stub.answers[f"/v1/jobs/{JOB_ID}"] = (200, {}, job(state="failed", error=error["error"]))
        assert watched.until(JobChanged, patience_s=20).job.error.code == "internal"


def test_a_queue_that_is_full_is_waited_for(tmp_path):
    full = {"error": {"code": "queue_full", "message": "too many jobs wait.", "details": {}}}
    with StubServer(**{"/v1/jobs": (429, {"Retry-After": "0"}, full)}) as stub, asking(stub, tmp_path) as watched:
        ticket = watched.poller.submit(job_request(key="the-key"))
        assert watched.until(SubmitWaiting, ticket=ticket).error.code == "queue_full"
        stub.answers["/v1/jobs"] = (202, {}, job(state="queued"))
        assert watched.until(Submitted, ticket=ticket).job.id == JOB_ID
        keys = {headers.get("Idempotency-Key") for method, _, headers in stub.requests if method == "POST"}
        assert keys == {"the-key"}
        watched.poller.forget(JOB_ID)


def test_the_idle_poller_asks_rarely(tmp_path):
    """Nobody looks and nothing runs: a few requests a minute, not a few a second."""
    ready = {"ready": True}
    can = {"version": "1", "default_preset": "a", "presets": [], "options": []}
    with StubServer(**{"/v1/ready": (200, {}, ready), "/v1/capabilities": (200, {}, can)}) as stub:
        from blender_addon.poller import Pace

        with Watched(ClientSettings(cache_dir=tmp_path, url=stub.url, token=TOKEN), pace=Pace()) as watched:
            watched.until(ServerSeen)
            asked = len(stub.requests)
            time.sleep(1.0)
            assert len(stub.requests) == asked
            watched.poller.look()  # woken at once
            wait_for(lambda: len(stub.requests) > asked, "a look")
