"""A job's events over a real socket: streamed and polled they are the same, and none is lost or comes twice."""

import contextlib
import json
import threading
from collections.abc import Iterator

import pytest
import requests

from tests.support.live_server import PATIENCE_S, LiveServer, assert_refused, wait_for
from tests.support.raw_http import ask


@pytest.fixture(scope="module")
def few(tmp_path_factory, tiny_models_dir):
    """A server with room for two streams, whose job stands still in its structure until `no_fault`."""
    with LiveServer(tmp_path_factory.mktemp("few") / "data", tiny_models_dir, limits={"event_streams": 2}) as live:
        yield live


def stream(server: LiveServer, job_id: str, after: int | None = None, header: bool = True) -> requests.Response:
    headers = {"Last-Event-ID": str(after)} if header and after is not None else {}
    query = f"?after={after}" if not header and after is not None else ""
    return server.get(f"/v1/jobs/{job_id}/events{query}", headers=headers, stream=True)


def read(answer: requests.Response) -> Iterator[dict]:
    """The events of a stream, each checked to say the same in its lines as in its data."""
    assert answer.status_code == 200, answer.text
    fields: dict[str, str] = {}
    for line in answer.iter_lines(chunk_size=1, decode_unicode=True):
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            assert name in ("event", "id", "data", "retry") and name not in fields, line
            fields[name] = value
        elif fields.keys() == {"retry"}:
            fields = {}
        else:
            event = json.loads(fields["data"])
            assert (str(event["id"]), event["type"]) == (fields["id"], fields["event"])
            yield event
            fields = {}


def polled(server: LiveServer, job_id: str, after: int = 0) -> list[dict]:
    return server.job(job_id, after)["events"]


# --- streams and polls ---


def test_a_stream_tells_what_polling_tells_and_ends_with_the_job(server):
    job = server.queued(formats=["glb", "ply"])
    answer = stream(server, job)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["Cache-Control"] == "no-store"
    events = list(read(answer))
    assert events == polled(server, job)
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert [event["state"] for event in events if event["type"] == "state"] == ["queued", "running", "succeeded"]
    assert events[-1]["type"] == "state" and server.job(job)["last_event"] == events[-1]["id"]
    files = [event for event in events if event["type"] == "artifact"]
    unnumbered = [{name: event[name] for name in event if name not in ("id", "at", "type")} for event in files]
    assert unnumbered == server.job(job)["artifacts"]


def test_a_poll_tells_what_came_after(server):
    job = server.finished(server.queued())["id"]
    everything = polled(server, job)
    for after in (0, 1, len(everything) // 2, len(everything) - 1, len(everything), len(everything) + 5):
        assert polled(server, job, after) == everything[after:]
    assert server.job(job)["events"] == []


def test_progress_never_goes_back(server):
    job = server.finished(server.queued())["id"]
    steps = [event for event in polled(server, job) if event["type"] == "progress"]
    fractions = [event["fraction"] for event in steps]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] <= 1
    assert all(0 <= event["step"] <= event["steps"] for event in steps)
    assert server.job(job)["fraction"] == 1.0


def test_the_coarse_shape_comes_before_the_job_ends(few):
    few.fault("hang", "detail 32")
    job = few.queued()
    few.in_stage(job, "detail 32")
    names = [event["name"] for event in polled(few, job) if event["type"] == "artifact"]
    assert names == ["input.png", "coarse.glb"]
    assert few.get(f"/v1/jobs/{job}/artifacts/coarse.glb").content.startswith(b"glTF")
    few.no_fault()
    few.finished(job)


@pytest.mark.parametrize("header", [True, False])
def test_a_stream_taken_up_again_at_every_event(server, header):
    job = server.queued()
    events: list[dict] = []
    while not events or events[-1].get("state") not in ("succeeded", "failed"):
        with contextlib.closing(stream(server, job, events[-1]["id"] if events else None, header)) as answer:
            events.append(next(read(answer)))  # and the line is cut
    assert events == polled(server, job)


def test_the_header_of_a_browser_that_comes_back_wins(server):
    job = server.finished(server.queued())["id"]
    answer = server.get(f"/v1/jobs/{job}/events?after=1", headers={"Last-Event-ID": "3"})
    assert next(read(answer))["id"] == 4


def test_a_finished_job_is_told_at_once(server):
    job = server.finished(server.queued())
    assert [event["id"] for event in read(stream(server, job["id"]))] == list(range(1, job["last_event"] + 1))
    assert list(read(stream(server, job["id"], job["last_event"]))) == []
    assert list(read(stream(server, job["id"], 10**14))) == []


@pytest.mark.parametrize("last", ["x", "-1", "", "1.5", "9" * 30, "\xb2", "1, 2"])
def test_a_last_id_that_is_none(server, last):
    job = server.finished(server.queued(seed=1))["id"]
    error = ask(server, "GET", f"/v1/jobs/{job}/events", f"Last-Event-ID: {last}").refused(422, "invalid_parameter")
    assert error["details"] == {"field": "Last-Event-ID"}


def test_many_followers_see_the_same(server):
    job = server.queued()
    answers = [stream(server, job) for _ in range(8)]
    seen: list[list[dict]] = []
    threads = [threading.Thread(target=lambda answer=answer: seen.append(list(read(answer)))) for answer in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert len(seen) == 8 and all(events == polled(server, job) for events in seen)


# --- the number of streams ---


@pytest.fixture
def standing(few):
    """A job that stands still until the end of the test."""
    few.fault("hang", "structure")
    job = few.queued()
    few.in_stage(job, "structure")
    yield job
    few.no_fault()
    few.finished(job)


def test_one_stream_too_many(few, standing):
    with contextlib.closing(stream(few, standing)) as first, contextlib.closing(stream(few, standing)) as second:
        assert next(read(first)) == next(read(second))
        answer = stream(few, standing)
        error = assert_refused(answer, 503, "too_many_streams")
        assert "?after=" in error["message"] and int(answer.headers["Retry-After"]) > 0
        assert few.job(standing, after=0)["events"]  # polling goes on, and everything else
        assert few.get("/v1/ready").status_code == 200
        assert few.get("/v1/capabilities").json()["limits"]["event_streams"] == 2


@pytest.mark.parametrize("left", ["read", "unread"])
def test_a_place_is_free_again_when_a_client_has_left(few, standing, left):
    taken = [wait_for(lambda: follow(few, standing), "a free place") for _ in range(2)]
    for answer in taken:
        if left == "read":
            next(read(answer))
        answer.close()
    again = wait_for(lambda: follow(few, standing), "the places of clients who have left")
    again.close()


def test_a_stream_that_ends_gives_its_place_back(few):
    job = few.finished(few.queued())["id"]
    for _ in range(5):
        answer = wait_for(lambda: follow(few, job), "a free place")
        assert list(read(answer))[-1]["state"] == "succeeded"


def test_asking_for_the_head_of_a_stream_takes_no_place(few, standing):
    for _ in range(5):
        answer = few.session.head(f"{few.url}/v1/jobs/{standing}/events", timeout=PATIENCE_S)
        assert answer.status_code in (200, 503)
    for answer in [wait_for(lambda: follow(few, standing), "a free place") for _ in range(2)]:
        answer.close()


def follow(server: LiveServer, job_id: str) -> requests.Response | None:
    """A stream, or None where there is no place for it."""
    answer = stream(server, job_id)
    if answer.status_code == 200:
        return answer
    assert_refused(answer, 503, "too_many_streams")
    return None


def test_a_stream_ends_when_its_job_is_cancelled_and_deleted(few):
    few.fault("hang", "structure")
    running = few.queued()
    few.in_stage(running, "structure")
    waiting = few.queued()
    answer = wait_for(lambda: follow(few, waiting), "a free place")
    events = read(answer)
    assert next(events)["state"] == "queued"
    few.post(f"/v1/jobs/{waiting}/cancel")
    assert [event["state"] for event in events] == ["cancelled"]
    assert few.session.delete(f"{few.url}/v1/jobs/{waiting}").status_code == 204
    few.no_fault()
    few.finished(running)
