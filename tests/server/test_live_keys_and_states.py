"""What a job's state forbids, and requests sent twice with one key, on a real server with a job that stands still."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.live_server import PATIENCE_S, LiveServer, assert_refused, picture_bytes, wait_for


@pytest.fixture(scope="module")
def held(tmp_path_factory, tiny_models_dir):
    """A server whose worker stands still in the structure of its first job; others wait."""
    with LiveServer(tmp_path_factory.mktemp("held") / "data", tiny_models_dir, limits={"queue": 30}) as live:
        live.fault("hang", "structure")
        live.running = live.queued(seed=1)
        live.in_stage(live.running, "structure")
        yield live


@pytest.fixture(autouse=True)
def empty_queue(request):
    """Jobs that wait are cancelled after each test."""
    yield
    if "held" in request.fixturenames:
        live = request.getfixturevalue("held")
        for job in live.get("/v1/jobs?state=queued&limit=100").json()["jobs"]:
            live.post(f"/v1/jobs/{job['id']}/cancel")


# --- too early ---


def test_the_result_of_an_unfinished_job(held):
    waiting = held.queued()
    for job, state in ((held.running, "running"), (waiting, "queued")):
        error = assert_refused(held.get(f"/v1/jobs/{job}/artifacts/mesh.glb"), 409, "job_not_finished")
        assert error["details"] == {"state": state} and state in error["message"]
    assert held.get(f"/v1/jobs/{held.running}/artifacts/input.png").status_code == 200  # it is there already


def test_an_unfinished_job_is_not_deleted(held):
    waiting = held.queued()
    for job, state in ((held.running, "running"), (waiting, "queued")):
        error = assert_refused(held.session.delete(f"{held.url}/v1/jobs/{job}"), 409, "job_running")
        assert error["details"] == {"state": state} and "cancel" in error["message"]
        assert held.job(job)["state"] == state
        assert (held.data_dir / "jobs" / job / "source").exists()


def test_the_files_of_a_job_that_was_cancelled_early_do_not_come(held):
    waiting = held.queued()
    assert held.post(f"/v1/jobs/{waiting}/cancel").json()["state"] == "cancelled"
    error = assert_refused(held.get(f"/v1/jobs/{waiting}/artifacts/mesh.glb"), 404, "artifact_not_found")
    assert "none" in error["message"]
    assert held.session.delete(f"{held.url}/v1/jobs/{waiting}").status_code == 204


def test_places_in_the_queue(held):
    jobs = [held.queued() for _ in range(3)]
    assert [held.job(job)["queue_position"] for job in jobs] == [1, 2, 3]
    assert held.job(held.running)["queue_position"] is None
    held.post(f"/v1/jobs/{jobs[0]}/cancel")
    assert [held.job(job)["queue_position"] for job in jobs] == [None, 1, 2]
    listed = held.get("/v1/jobs?state=queued").json()["jobs"]
    assert [(job["id"], job["queue_position"]) for job in listed] == [(jobs[2], 2), (jobs[1], 1)]
    assert held.ready()["queue"] == {"queued": 2, "running": 1, "limit": 30}


def test_a_full_queue(held):
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: held.submit(), range(40)))
    taken = [answer for answer in answers if answer.status_code == 202]
    assert len(taken) == 30 == held.ready()["queue"]["queued"]
    for answer in answers:
        if answer.status_code != 202:
            assert "30" in assert_refused(answer, 429, "queue_full")["message"]
            assert int(answer.headers["Retry-After"]) > 0
    folders = len(list((held.data_dir / "jobs").iterdir()))
    assert_refused(held.submit(), 429, "queue_full")
    assert len(list((held.data_dir / "jobs").iterdir())) == folders
    held.post(f"/v1/jobs/{taken[0].json()['id']}/cancel")
    assert held.submit().status_code == 202


# --- paging ---


def pages(server, query: str = "", each=lambda: None) -> list[dict]:
    """All pages of a list; ``each`` is called between them."""
    jobs, before = [], ""
    while before is not None:
        page = server.get(f"/v1/jobs?limit=2{query}" + (f"&before={before}" if before else "")).json()
        assert len(page["jobs"]) == 2 or page["next"] is None
        jobs, before = jobs + page["jobs"], page["next"]
        each()
    return jobs


def test_pages_neither_miss_nor_repeat_while_jobs_are_added(held):
    old = [held.queued() for _ in range(5)]
    listed = [job["id"] for job in pages(held, "&state=queued", each=held.queued)]
    assert listed == old[::-1]
    everything = [job["id"] for job in pages(held)]
    assert len(set(everything)) == len(everything) and everything[-1] == held.running
    assert [job["id"] for job in pages(held, "&state=running")] == [held.running]
    assert pages(held, "&state=failed") == []
    assert all(job["events"] == [] for job in pages(held))


# --- the memory ---


def test_the_memory_of_a_running_job_is_not_taken(held):
    for body in ({}, {"json": {}}, {"json": {"wait": False}}):
        assert_refused(held.post("/v1/unload", **body), 409, "busy")
    assert held.ready()["worker"]["state"] == "busy"


# --- keys ---


def test_one_key_is_one_job(held):
    first = held.submit(key="again", seed=4).json()
    again = held.submit(key="again", seed=4)
    assert again.status_code == 202 and again.json()["id"] == first["id"]
    assert again.headers["Location"] == f"/v1/jobs/{first['id']}"
    assert held.submit(key="another", seed=4).json()["id"] != first["id"]
    assert held.submit(seed=4).json()["id"] != first["id"]


def test_a_drawn_seed_makes_no_difference_but_a_given_one_does(held):
    first = held.submit(key="drawn").json()
    again = held.submit(key="drawn").json()
    assert (again["id"], again["options"]["seed"]) == (first["id"], first["options"]["seed"])
    assert_refused(held.submit(key="drawn", seed=first["options"]["seed"]), 409, "idempotency_conflict")


def test_a_key_for_something_else_is_a_conflict(held):
    first = held.submit(key="mine", seed=1).json()
    for answer in (held.submit(key="mine", seed=2), held.submit(picture_bytes(90), key="mine", seed=1)):
        assert assert_refused(answer, 409, "idempotency_conflict")["details"] == {"job_id": first["id"]}


def test_twenty_at_once_with_one_key_make_one_job(held):
    before = held.ready()["queue"]["queued"]
    together = threading.Barrier(20)

    def send(_: int) -> str:
        together.wait(PATIENCE_S)
        answer = held.submit(key="together")
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    with ThreadPoolExecutor(20) as pool:
        made = set(pool.map(send, range(20)))
    assert len(made) == 1 and held.ready()["queue"]["queued"] == before + 1
    folders = {path.name for path in (held.data_dir / "jobs").iterdir()}
    assert folders == {job["id"] for job in pages(held)}


def test_a_key_survives_a_restart_and_is_free_after_a_delete(start_server):
    server = start_server(worker={"start_at_once": False})
    server.fault("hang", "structure")
    first = server.submit(key="kept", seed=1).json()["id"]
    server.kill()
    server.start()
    assert server.submit(key="kept", seed=1).json()["id"] == first
    server.post(f"/v1/jobs/{first}/cancel")
    server.no_fault()
    server.in_state(first, "cancelled")
    assert server.session.delete(f"{server.url}/v1/jobs/{first}").status_code == 204
    assert server.submit(key="kept", seed=1).json()["id"] != first


# --- unloading ---


def test_unloading_idle_and_busy(start_server):
    server = start_server()
    server.worker_idle()
    answer = server.post("/v1/unload", json={"wait": False})
    assert (answer.status_code, answer.json()) == (200, {"unloaded": True})
    assert server.ready()["worker"] == {"state": "stopped", "pid": None, "restarts": 0}
    assert server.ready()["memory"] is None and server.ready()["preset"] is None
    assert server.post("/v1/unload").json() == {"unloaded": True}  # there is nothing to unload, so it is

    server.fault("hang", "structure")
    job = server.queued()  # starts a worker again
    server.in_stage(job, "structure")
    busy = server.ready()["worker"]
    assert busy["state"] == "busy" and busy["pid"] is not None
    assert_refused(server.post("/v1/unload"), 409, "busy")
    answer = server.post("/v1/unload", json={"wait": True})
    assert (answer.status_code, answer.json()) == (202, {"unloaded": False})
    assert server.ready()["worker"]["pid"] == busy["pid"]
    server.no_fault()
    assert server.finished(job)["state"] == "succeeded"
    wait_for(lambda: server.ready()["worker"]["state"] == "stopped", "the memory to be free")
    assert server.finished(server.queued())["state"] == "succeeded"
    assert server.ready()["preset"] == "tiny" or wait_for(lambda: server.ready()["preset"] == "tiny", "a heartbeat")
