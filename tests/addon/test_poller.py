"""The poller against a real server: jobs from picture to mesh, commands, and two Blenders at once."""

import threading
import time

import pytest

from blender_addon.client_errors import DiskFull, Refused, S2MeshError, Stopped
from blender_addon.poller import (
    INPUT,
    MESH,
    PREVIEW,
    ClientSettings,
    CoarseReady,
    CommandFailed,
    FetchFailed,
    Gone,
    JobChanged,
    JobList,
    Poller,
    ResultReady,
    ServerSeen,
    SubmitFailed,
    Submitted,
    ThumbnailReady,
    Unloaded,
)
from tests.support.live_server import wait_for
from tests.support.polling import Watched, job_request


@pytest.fixture
def settings(server, tmp_path):
    return ClientSettings(cache_dir=tmp_path / "cache", data_dir=server.data_dir)


@pytest.fixture
def watched(settings):
    with Watched(settings) as watched:
        yield watched


def long_job(**more):
    """One that would run for minutes."""
    return job_request(dense_steps=1000, **more)


def test_a_picture_becomes_a_mesh(watched):
    ticket = watched.poller.submit(job_request(seed=11))
    job = watched.until(Submitted, ticket=ticket).job
    assert job.options["seed"] == 11
    coarse = watched.until(CoarseReady, id=job.id)
    assert len(coarse.data.triangles) > 0
    result = watched.until(ResultReady, id=job.id)
    done = [event.job for event in watched.of(JobChanged) if event.job.state == "succeeded"][-1]
    assert len(result.data.triangles) == done.result["faces"]
    assert result.path.read_bytes()[:4] == b"glTF" and result.path.parent == watched.settings.cache_dir
    thumbnails = {watched.until(ThumbnailReady, id=job.id).path.name.split("-")[-1] for _ in range(2)}
    assert thumbnails == {INPUT, PREVIEW}
    assert not watched.of(FetchFailed) and not watched.of(CommandFailed)
    fractions = [event.job.fraction for event in watched.of(JobChanged)]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


def test_several_seeds_come_each_once(watched):
    tickets = [watched.poller.submit(job_request(seed=seed)) for seed in (1, 2, 3)]
    ids = [watched.until(Submitted, ticket=ticket).job.id for ticket in tickets]
    assert len({watched.until(ResultReady, id=job_id).id for job_id in ids}) == 3
    assert not watched.of(ResultReady)


def test_a_refusal_comes_at_once(watched):
    ticket = watched.poller.submit(job_request(dense_steps=0))
    error = watched.until(SubmitFailed, ticket=ticket).error
    assert isinstance(error, Refused) and error.code == "option_out_of_range"
    assert watched.poller.alive


def test_cancel_and_delete(watched):
    job = watched.until(Submitted, ticket=watched.poller.submit(long_job())).job
    refused = watched.until(CommandFailed, ticket=watched.poller.delete(job.id))
    assert refused.error.code == "job_running" and refused.command == "delete" and refused.id == job.id
    ticket = watched.poller.cancel(job.id)
    watched.until(JobChanged, ticket=ticket)
    wait_for(lambda: any(event.job.state == "cancelled" for event in watched.of(JobChanged)), "the end")
    assert watched.until(Gone, ticket=watched.poller.delete(job.id)).id == job.id
    assert watched.until(Gone, ticket=watched.poller.cancel(job.id)).id == job.id
    assert not watched.of(ResultReady)


def test_a_job_that_vanishes_is_gone(watched, server):
    job_id = server.queued()
    server.finished(job_id)
    watched.poller.follow([job_id, "0" * 32], bring=())
    watched.until(Gone, id="0" * 32)
    assert watched.until(JobChanged).job.state == "succeeded"


def test_a_submission_that_is_withdrawn_is_cancelled(watched):
    ticket = watched.poller.submit(long_job())
    watched.poller.withdraw(ticket)
    if [event for event in watched.of(SubmitFailed) if event.ticket == ticket]:
        return
    job = watched.until(Submitted, ticket=ticket).job
    wait_for(lambda: any(e.job.id == job.id and e.job.state == "cancelled" for e in watched.of(JobChanged)), "its end")


def test_the_servers_line_while_somebody_looks(watched, server):
    watched.poller.look()
    seen = watched.until(ServerSeen)
    assert seen.ready.ready and seen.error is None and seen.capabilities.default_preset == "tiny"
    assert seen.url == server.url and seen.version
    job = watched.until(Submitted, ticket=watched.poller.submit(long_job())).job
    wait_for(lambda: any(e.ready and e.ready.running == 1 for e in watched.of(ServerSeen)), "a busy server")
    watched.poller.cancel(job.id)


def test_refresh_lists_the_jobs(watched, server):
    job_id = server.queued()
    ticket = watched.poller.refresh(limit=3)
    assert watched.until(ServerSeen, ticket=ticket).capabilities is not None
    jobs = watched.until(JobList, ticket=ticket).jobs
    assert jobs[0].id == job_id and len(jobs) <= 3
    server.finished(job_id)


def test_old_results_are_fetched_again_from_the_cache(watched, server):
    job_id = server.queued()
    job = server.finished(job_id)
    first = watched.until(ResultReady, ticket=watched.poller.fetch(job_id))
    assert len(first.data.triangles) == job["result"]["faces"]
    changed = first.path.stat().st_ino
    second = watched.until(ResultReady, ticket=watched.poller.fetch(job_id))
    assert second.path == first.path and second.path.stat().st_ino == changed
    first.path.write_bytes(b"rotten")
    third = watched.until(ResultReady, ticket=watched.poller.fetch(job_id))
    assert len(third.data.triangles) == job["result"]["faces"]
    thumbnail = watched.until(ThumbnailReady, ticket=watched.poller.fetch(job_id, PREVIEW))
    assert thumbnail.path.read_bytes()[:4] == b"\x89PNG"


def test_a_file_that_the_job_has_not(watched, server):
    job_id = server.queued(formats=["obj"])
    server.finished(job_id)
    failed = watched.until(FetchFailed, ticket=watched.poller.fetch(job_id))
    assert failed.name == MESH and "mesh.obj" in failed.error.message
    watched.poller.follow([job_id])
    assert watched.until(FetchFailed, ticket=0).id == job_id
    failed = watched.until(FetchFailed, ticket=watched.poller.fetch("0" * 32))
    assert failed.error.code == "job_not_found"


def test_a_full_disk_is_told_and_the_rest_goes_on(watched, server, tmp_path, monkeypatch):
    from blender_addon import disk

    job_id = server.queued()
    server.finished(job_id)
    usage = disk.shutil.disk_usage
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000})())
    failed = watched.until(FetchFailed, ticket=watched.poller.fetch(job_id))
    assert isinstance(failed.error, DiskFull) and failed.error.remedy
    monkeypatch.setattr(disk.shutil, "disk_usage", usage)
    watched.until(ResultReady, ticket=watched.poller.fetch(job_id))


def test_a_mesh_that_cannot_be_trusted_is_told_and_not_kept(watched, server, monkeypatch):
    from blender_addon import poller_files
    from blender_addon.client_errors import Damaged

    def refuse(_):
        raise Damaged("The file is strange")

    job_id = server.queued()
    server.finished(job_id)
    monkeypatch.setattr(poller_files, "read_glb", refuse)
    failed = watched.until(FetchFailed, ticket=watched.poller.fetch(job_id))
    assert failed.error.message == "The file is strange."
    assert not list(watched.settings.cache_dir.glob("*mesh.glb*"))


def test_unload(watched, server):
    wait_for(lambda: (queue := server.ready()["queue"])["running"] == 0 and queue["queued"] == 0, "an idle server")
    assert watched.until(Unloaded, ticket=watched.poller.unload()).done is True
    job = watched.until(Submitted, ticket=watched.poller.submit(long_job())).job
    server.in_state(job.id, "running")
    assert watched.until(CommandFailed, ticket=watched.poller.unload()).error.code == "busy"
    assert watched.until(Unloaded, ticket=watched.poller.unload(wait=True)).done is False
    watched.poller.cancel(job.id)


def test_two_blenders_on_one_server(server, tmp_path):
    with (
        Watched(ClientSettings(cache_dir=tmp_path / "shared", data_dir=server.data_dir)) as one,
        Watched(ClientSettings(cache_dir=tmp_path / "shared", data_dir=server.data_dir)) as two,
    ):
        jobs = [watched.until(Submitted, ticket=watched.poller.submit(job_request())).job for watched in (one, two)]
        two.poller.follow([jobs[0].id])  # adopted from the list
        assert one.until(ResultReady).id == jobs[0].id
        assert {two.until(ResultReady).id for _ in jobs} == {job.id for job in jobs}
        assert not one.of(ResultReady)
        one.until(Gone, ticket=one.poller.delete(jobs[0].id))
        two.poller.follow([jobs[0].id])
        assert two.until(Gone, id=jobs[0].id)


def test_forgotten_jobs_go_on_but_are_not_told_of(watched, server):
    job = watched.until(Submitted, ticket=watched.poller.submit(job_request())).job
    watched.poller.forget(job.id)
    server.finished(job.id)
    time.sleep(0.3)
    assert not [event for event in watched.of(ResultReady) if event.id == job.id]


# --- the thread ---


def test_stop_ends_a_download(server, settings, monkeypatch):
    from blender_addon import client

    job_id = server.queued()
    server.finished(job_id)
    monkeypatch.setattr(client, "_PIECE", 16)
    begun, slow = threading.Event(), client.Client._receive

    def receive(self, job_id, artifact, write, should_stop):
        def slowly(piece):
            begun.set()
            time.sleep(0.05)
            return write(piece)

        slow(self, job_id, artifact, slowly, should_stop)

    monkeypatch.setattr(client.Client, "_receive", receive)
    with Watched(settings) as watched:
        ticket = watched.poller.fetch(job_id)
        assert begun.wait(20)
        watched.poller.forget(job_id)
        assert isinstance(watched.until(FetchFailed, ticket=ticket).error, Stopped)
        begun.clear()
        watched.poller.fetch(job_id)
        assert begun.wait(20)
        assert watched.poller.stop(10)
    assert list(settings.cache_dir.iterdir()) == []


def test_a_poller_that_was_never_started_and_one_that_is_stopped_twice(settings):
    poller = Poller(lambda: settings)
    assert poller.stop() and not poller.alive
    poller = Poller(lambda: settings)
    poller.start()
    poller.start()
    assert poller.alive
    assert poller.stop(10) and poller.stop(10)
    poller.drain()
    poller.submit(job_request())
    assert poller.wait(0.3) == []


def test_nothing_gets_out_of_the_thread(settings):
    calls = []

    def broken():
        calls.append(1)
        if len(calls) < 4:
            raise ZeroDivisionError("a mistake")
        return settings

    with Watched(broken) as watched:
        watched.poller.look()
        seen = watched.until(ServerSeen)
        assert "mistake of its own (ZeroDivisionError: a mistake)" in str(seen.error) and seen.error.remedy
        wait_for(lambda: any(event.ready for event in watched.of(ServerSeen)), "a server")
        assert watched.poller.alive


def test_drain_gives_no_more_than_asked_for(watched):
    for _ in range(5):
        watched.poller.refresh()
    wait_for(lambda: watched.poller._events.qsize() >= 6, "events")
    assert len(watched.poller.drain(4)) == 4
    assert len(watched.poller.wait(1, limit=2)) == 2


def test_settings_that_cannot_be_used_are_told():
    def none():
        raise S2MeshError("There is no address", "Enter one.")

    with Watched(none) as watched:
        watched.poller.look()
        assert watched.until(ServerSeen).error.remedy == "Enter one."
        ticket = watched.poller.submit(job_request())
        assert "no address" in str(watched.until(SubmitFailed, ticket=ticket).error)
