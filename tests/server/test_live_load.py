"""Many clients at once while a job runs: every answer comes, each one is right, and nothing is lost."""

import threading
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.support.live_server import wait_for

POLLERS, SUBMITTERS = 200, 50


def test_two_hundred_poll_and_fifty_submit_while_a_job_runs(start_server):
    live = start_server()
    live.fault("slow", "structure")
    running = live.queued()
    live.in_stage(running, "structure")
    stop, faults, seen = threading.Event(), [], []

    def poll(number: int) -> None:
        session = requests.Session()
        session.trust_env = False
        last, count = 0, 0
        while not stop.is_set() or not count:
            answer = session.get(
                f"{live.url}/v1/jobs/{running}?after={last}",
                headers={"Authorization": f"Bearer {live.token}"},
                timeout=60,
            )
            if answer.status_code != 200:
                faults.append((number, answer.status_code, answer.text[:200]))
                return
            ids = [event["id"] for event in answer.json()["events"]]
            if ids != list(range(last + 1, last + 1 + len(ids))):
                faults.append((number, "events out of order", last, ids))
            last, count = last + len(ids), count + 1
            stop.wait(0.3)
        seen.append(count)
        session.close()

    def submit(number: int) -> str:
        session = requests.Session()
        session.trust_env = False
        from tests.support.live_server import picture_bytes

        with session:
            answer = session.post(
                f"{live.url}/v1/jobs",
                files={"image": (f"{number}.png", picture_bytes())},
                headers={"Authorization": f"Bearer {live.token}"},
                timeout=60,
            )
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    pollers = [threading.Thread(target=poll, args=(number,)) for number in range(POLLERS)]
    for thread in pollers:
        thread.start()
    with ThreadPoolExecutor(SUBMITTERS) as pool:
        submitted = list(pool.map(submit, range(SUBMITTERS)))
    assert len(set(submitted)) == SUBMITTERS
    live.no_fault()
    assert live.finished(running)["state"] == "succeeded"
    stop.set()
    for thread in pollers:
        thread.join(60)
    assert not faults and len(seen) == POLLERS
    for job_id in submitted[2:]:
        live.post(f"/v1/jobs/{job_id}/cancel")
    ended = {job_id: live.finished(job_id)["state"] for job_id in submitted}
    assert set(ended.values()) <= {"succeeded", "cancelled"} and ended[submitted[0]] == "succeeded"
    wait_for(lambda: live.ready()["queue"] == {"queued": 0, "running": 0, "limit": 100}, "an empty queue")
