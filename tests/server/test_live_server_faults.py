"""Whatever becomes of the server process, its disk and its database: nothing that was finished is lost."""

import os
import signal
import sqlite3
import subprocess
import sys

import numpy as np
import psutil
import pytest

from tests.support.live_server import LiveServer, assert_refused, wait_for

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the faults are made with POSIX signals")


def states(live: LiveServer, job_id: str) -> list[str]:
    return [event["state"] for event in live.job(job_id, after=0)["events"] if event["type"] == "state"]


def test_killed_in_the_middle_and_started_again(start_server):
    live = start_server()
    done = live.finished(live.queued(seed=5))
    mesh = live.get(f"/v1/jobs/{done['id']}/artifacts/mesh.glb").content
    live.fault("slow", "structure")
    running, waiting = live.queued(), live.queued()
    live.in_stage(running, "structure")
    worker = live.ready()["worker"]["pid"]
    live.kill()
    wait_for(lambda: not psutil.pid_exists(worker), "the worker to follow its server")
    live.no_fault()
    live.start()
    assert live.job(done["id"]) == done
    assert live.get(f"/v1/jobs/{done['id']}/artifacts/mesh.glb").content == mesh
    assert live.finished(running)["state"] == "succeeded"
    assert states(live, running) == ["queued", "running", "interrupted", "queued", "running", "succeeded"]
    assert live.finished(waiting)["state"] == "succeeded" and live.job(running)["attempt"] == 2


def test_a_job_that_was_interrupted_twice_is_not_tried_again(start_server):
    live = start_server()
    live.fault("slow", "structure")
    job_id = live.queued()
    for _ in range(2):
        live.in_stage(job_id, "structure")
        live.kill()
        live.start()
    job = live.finished(job_id)
    assert job["state"] == "failed" and job["error"]["code"] == "interrupted_twice"
    live.no_fault()
    assert live.finished(live.queued())["state"] == "succeeded"


def test_a_job_cancelled_before_the_kill_stays_cancelled(start_server):
    live = start_server(worker={"cancel_grace_s": 60})
    live.fault("hang", "structure")
    job_id = live.queued()
    live.in_stage(job_id, "structure")
    live.post(f"/v1/jobs/{job_id}/cancel")
    live.kill()
    live.no_fault()
    live.start()
    assert live.finished(job_id)["state"] == "cancelled"


def test_sigterm_lets_the_running_job_finish_and_keeps_the_others(start_server):
    live = start_server()
    live.fault("slow", "structure")
    running, waiting = live.queued(), live.queued()
    live.in_stage(running, "structure")
    live.process.send_signal(signal.SIGTERM)
    wait_for(lambda: live.get("/v1/ready").status_code == 503, "the server to drain")
    assert_refused(live.get("/v1/ready"), 503, "draining")
    assert_refused(live.submit(), 503, "draining")
    assert live.get("/v1/health").status_code == 200
    assert live.process.wait(60) == 0, live.log.read_text()
    assert not (live.data_dir / "server.json").exists()
    live.no_fault()
    live.start()
    assert states(live, running) == ["queued", "running", "succeeded"]
    assert live.finished(waiting)["state"] == "succeeded"


def test_a_job_that_outlasts_the_grace_time_runs_again_without_blame(start_server):
    live = start_server(grace_s=0.5)
    live.fault("hang", "structure")
    job_id = live.queued()
    live.in_stage(job_id, "structure")
    assert live.stop() == 0, live.log.read_text()
    live.no_fault()
    live.start()
    job = live.finished(job_id)
    assert job["state"] == "succeeded" and job["attempt"] == 1
    assert states(live, job_id) == ["queued", "running", "interrupted", "queued", "running", "succeeded"]


def test_it_does_not_outlive_its_parent(start_server):
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    live = start_server(parent_pid=parent.pid)
    live.worker_idle()
    worker = live.ready()["worker"]["pid"]
    parent.kill()
    parent.communicate()
    assert live.process.wait(60) == 0, live.log.read_text()
    assert not psutil.pid_exists(worker)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS does not limit the size of files this way")
def test_a_full_disk_while_a_picture_arrives(start_server):
    from PIL import Image

    live = start_server(no_room=1_000_000)
    path = live.data_dir.parent / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (800, 800, 4), np.uint8, endpoint=True)).save(path)
    error = assert_refused(live.submit(path.read_bytes()), 507, "disk_full")
    assert "free some space" in error["message"]
    assert not list((live.data_dir / "jobs").iterdir())
    assert live.finished(live.queued())["state"] == "succeeded"


def test_a_database_that_another_program_holds(start_server):
    live = start_server()
    live.fault("slow", "structure")
    running = live.queued()
    live.in_stage(running, "structure")
    other = sqlite3.connect(live.data_dir / "jobs.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    live.no_fault()
    refused = live.submit()
    error = assert_refused(refused, 503, "database_busy")
    assert "try again" in error["message"] and refused.headers["Retry-After"]
    assert live.job(running)["state"] == "running", "reading goes on; the end of the job waits to be written"
    assert len(list((live.data_dir / "jobs").iterdir())) == 1, "the refused picture is not kept"
    other.execute("ROLLBACK")
    other.close()
    job = live.finished(running)
    assert job["state"] == "succeeded" and job["artifacts"][-1]["name"] == "job.json"
    assert live.submit().status_code == 202


def test_a_file_that_is_no_database(tmp_path, tiny_models_dir):
    live = LiveServer(tmp_path / "data", tiny_models_dir)
    (live.data_dir / "jobs.sqlite").write_bytes(b"not a database at all" * 100)
    with pytest.raises(AssertionError, match="cannot be used.*Move it away"):
        live.start()
    assert live.process.wait(60) == 2
    assert (live.data_dir / "jobs.sqlite").read_bytes().startswith(b"not a database"), "left as it was"


def test_a_port_that_is_taken(start_server, tmp_path, tiny_models_dir):
    port = int(start_server().url.rpartition(":")[2])
    second = LiveServer(tmp_path / "second", tiny_models_dir, port=port)
    with pytest.raises(AssertionError, match=f"port {port} is taken.*--port"):
        second.start()
    assert second.process.wait(60) == 2


def test_a_data_folder_that_is_taken(start_server, tmp_path, tiny_models_dir):
    first = start_server()
    second = LiveServer(tmp_path / "data", tiny_models_dir)
    info = (first.data_dir / "server.json").read_text()
    command = [sys.executable, "-m", "server.commands.serve", "--port", "0", "--data-dir", str(first.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (
        done.returncode == 2 and f"running already with the data folder {first.data_dir}, at {first.url}" in done.stderr
    )
    assert (first.data_dir / "server.json").read_text() == info and second.data_dir == first.data_dir
