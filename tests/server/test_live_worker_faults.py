"""Whatever becomes of the worker: the job says why, the server answers, the next job runs in a healthy worker."""

import os
import signal
import sys

import psutil
import pytest

from core.config.stages import stage_names
from tests.support.live_server import assert_refused, wait_for
from tests.support.tiny_presets import TINY

STAGES = ["load", *stage_names(TINY), "export"]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are made with POSIX signals")


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_models_dir):
    """Shared by the tests that leave a healthy worker behind; impatient, since nothing here takes long."""
    from tests.support.live_server import LiveServer

    patience = {"stall_timeout_s": 9, "cancel_grace_s": 3, "heartbeat_timeout_s": 6, "breaker_deaths": 50}
    with LiveServer(tmp_path_factory.mktemp("faulty") / "data", tiny_models_dir, worker=patience) as live:
        yield live


@pytest.fixture(autouse=True)
def healthy_afterwards(request):
    """After each test on the shared server a job must succeed."""
    yield
    if "server" in request.fixturenames:
        live = request.getfixturevalue("server")
        live.no_fault()
        job = live.finished(live.queued(seed=1))
        assert job["state"] == "succeeded", job


@pytest.mark.parametrize("stage", STAGES)
def test_cancelled_in_each_stage(server, stage):
    server.fault("slow", stage)
    job_id = server.queued()
    server.in_stage(job_id, stage)
    pid = server.ready()["worker"]["pid"]
    answer = server.post(f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202 and (answer.json()["cancelling"] or answer.json()["state"] == "cancelled")
    job = server.finished(job_id)
    assert job["state"] == "cancelled" and job["error"] is None and not job["cancelling"]
    assert "mesh.glb" not in [artifact["name"] for artifact in job["artifacts"]] or stage == "export"
    assert server.ready()["worker"]["pid"] == pid, "the worker obeyed and lives on"
    assert server.post(f"/v1/jobs/{job_id}/cancel").json()["state"] == "cancelled", "cancelling twice is no error"


def test_cancelled_while_it_waits(server):
    server.fault("slow", "structure")
    running, waiting = server.queued(), server.queued()
    assert server.job(waiting)["queue_position"] is not None
    assert server.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    assert server.finished(running)["state"] == "succeeded"
    assert server.job(waiting)["started_at"] is None


def test_a_deaf_job_is_cancelled_by_killing_its_worker(server):
    server.fault("hang", "structure")
    job_id = server.queued()
    server.in_stage(job_id, "structure")
    pid = server.ready()["worker"]["pid"]
    server.post(f"/v1/jobs/{job_id}/cancel")
    job = server.finished(job_id)
    assert job["state"] == "cancelled" and job["error"] is None
    wait_for(lambda: not psutil.pid_exists(pid), "the end of the killed worker")


@pytest.mark.parametrize(
    ("fault", "stage", "code", "words"),
    [
        ("die", "structure", "worker_died", "killed by signal 9"),
        ("die", "load", "worker_died", "killed by signal 9"),
        ("die", "export", "worker_died", "killed by signal 9"),
        ("hang", "surface 32", "worker_hung", "made no step"),
        ("stop", "detail 32", "worker_hung", "no sign of life"),
        ("garbage", "decode 32", "worker_garbled", "Segmentation fault"),
        ("memory", "detail 32", "out_of_memory", "40.00 GiB"),
        ("device", "structure", "device_failed", "illegal memory access"),
    ],
)
def test_the_job_fails_with_its_cause_and_the_next_has_a_new_worker(server, fault, stage, code, words):
    pid = server.worker_idle()["worker"]["pid"]
    server.fault(fault, stage)
    job_id, following = server.queued(), server.queued()
    job = server.finished(job_id)
    assert job["state"] == "failed" and job["error"]["code"] == code, job["error"]
    assert words in job["error"]["message"] and "\n" not in job["error"]["message"]
    assert job["error"]["details"]["advice"]
    server.no_fault()
    server.finished(following)
    assert server.job(job_id)["state"] == "failed", "it is not tried again"
    assert server.worker_idle()["worker"]["pid"] != pid


def test_killed_from_outside(server):
    server.fault("slow", "structure")
    job_id = server.queued()
    server.in_stage(job_id, "structure")
    os.kill(server.ready()["worker"]["pid"], signal.SIGKILL)
    assert server.finished(job_id)["error"]["code"] == "worker_died"


def test_an_idle_worker_that_dies_is_replaced_when_it_is_needed(server):
    pid = server.worker_idle()["worker"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: server.ready()["worker"]["pid"] != pid, "the server to notice")
    assert server.finished(server.queued())["state"] == "succeeded"


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the size of files this way")
def test_a_full_disk_while_a_result_is_written(server):
    server.fault("no_room", "surface 32")
    job = server.finished(server.queued())
    assert job["state"] == "failed" and job["error"]["code"] == "disk_full"
    assert "space" in job["error"]["message"] and "delete old jobs" in job["error"]["details"]["advice"]
    left = {path.name for path in (server.data_dir / "jobs" / job["id"]).iterdir()}
    assert left == {"source", *(artifact["name"] for artifact in job["artifacts"])}, "nothing half-written is left"
    server.post("/v1/unload", json={"wait": True})  # the limit is that worker's own


def test_files_beyond_the_budget_of_a_job(start_server):
    live = start_server(limits={"job_bytes": 40_000})
    job = live.finished(live.queued())
    assert job["error"]["code"] == "job_too_large" and "MiB" in job["error"]["message"]
    assert [artifact["name"] for artifact in job["artifacts"]] == ["input.png", "coarse.glb"]


def test_a_worker_that_keeps_dying_opens_the_breaker_and_comes_back(start_server):
    live = start_server(worker={"breaker_deaths": 3, "breaker_cooldown_s": 3, "start_at_once": False})
    live.fault("die_at_start")
    job_id = live.queued()
    wait_for(lambda: live.ready()["worker"]["state"] == "broken", "the breaker")
    error = assert_refused(live.get("/v1/ready"), 503, "worker_unavailable")
    assert "3 times in a row" in error["message"] and "s2mesh doctor" in error["message"]
    refused = live.submit()
    assert_refused(refused, 503, "worker_unavailable")
    assert int(refused.headers["Retry-After"]) >= 1
    assert live.job(job_id)["state"] == "queued", "what was taken is kept"
    live.no_fault()
    assert live.finished(job_id)["state"] == "succeeded"
    assert live.ready()["ready"] and live.submit().status_code == 202


def test_a_worker_that_cannot_start_says_why_at_once(start_server):
    live = start_server(worker={"device": "cuda:99"})
    wait_for(lambda: live.ready()["worker"]["state"] == "broken", "the breaker")
    assert "cuda:99" in assert_refused(live.get("/v1/ready"), 503, "worker_unavailable")["message"]


def test_memory_is_given_back_when_nothing_is_asked(start_server):
    live = start_server(worker={"idle_unload_s": 0.5})
    job_id = live.queued()
    assert live.finished(job_id)["state"] == "succeeded"
    status = wait_for(lambda: (r := live.ready())["worker"]["state"] == "stopped" and r, "the worker to be unloaded")
    assert status["ready"] and status["preset"] is None and status["worker"]["pid"] is None
    assert live.finished(live.queued())["state"] == "succeeded", "the next job starts a new one"
