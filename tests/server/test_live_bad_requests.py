"""Requests that are too large, too slow, cut short or no HTTP at all, on a real socket. Nothing hangs, all is told."""

import select
import socket

import pytest

from tests.support.live_server import wait_for
from tests.support.raw_http import (
    FORM,
    ask,
    connect,
    documented_routes,
    exchange,
    form,
    head,
    picture_form,
    read_answer,
    send_job,
)

MIB = 2**20


@pytest.fixture(scope="module")
def hasty(tmp_path_factory, tiny_models_dir):
    """A server that waits one second for a request."""
    from tests.support.live_server import LiveServer

    folder = tmp_path_factory.mktemp("hasty") / "data"
    with LiveServer(folder, tiny_models_dir, limits={"request_s": 1}, worker={"start_at_once": False}) as live:
        yield live


def send_all_that_is_taken(connection: socket.socket, pieces) -> int:
    """Sends until the end, or until the server does not listen any more; returns the bytes sent."""
    sent = 0
    for piece in pieces:
        try:
            connection.sendall(piece)
        except OSError:
            break
        sent += len(piece)
    return sent


# --- too large ---


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_while_it_is_still_sent(server, chunked):
    piece, count = bytes(64 * 1024), 40 * 16
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(piece) * count}"
    framed = b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece
    with connect(server) as connection:
        connection.sendall(head(server, "POST", "/v1/jobs", FORM, length))
        assert send_all_that_is_taken(connection, [framed] * count) == len(framed) * count
        answer = read_answer(connection)
    assert str(32 * MIB) in answer.refused(413, "body_too_large")["message"]


def test_a_client_that_asks_first_need_not_send_a_body_over_the_limit(server):
    with connect(server) as connection:
        wanted = f"Content-Length: {40 * MIB}"
        connection.sendall(head(server, "POST", "/v1/jobs", FORM, wanted, "Expect: 100-continue"))
        read_answer(connection).refused(413, "body_too_large")
    body = picture_form()
    with connect(server) as connection:
        wanted = f"Content-Length: {len(body)}"
        connection.sendall(head(server, "POST", "/v1/jobs", FORM, wanted, "Expect: 100-continue"))
        go_on = b"HTTP/1.1 100 Continue\r\n\r\n"
        assert connection.recv(len(go_on)) == go_on
        connection.sendall(body)
        assert read_answer(connection).status == 202


def test_a_smaller_limit_of_its_own(start_server):
    server = start_server(limits={"body_bytes": 10_000}, worker={"start_at_once": False})
    send_job(server, picture_form(picture=bytes(10_000))).refused(413, "body_too_large")
    assert send_job(server, picture_form()).status == 202
    assert server.get("/v1/capabilities").json()["limits"]["body_bytes"] == 10_000


def test_headers_too_large(server):
    ask(server, "GET", "/v1/ready", f"X-Long: {'a' * 70_000}").refused(431, "headers_too_large")
    ask(server, "GET", f"/v1/ready?{'a' * 70_000}").refused(431, "headers_too_large")
    many = [f"X-{number}: {'a' * 100}" for number in range(1000)]
    ask(server, "GET", "/v1/ready", *many).refused(431, "headers_too_large")


def test_too_many_parts_and_too_long_fields(server):
    for name in (None, "a.png"):
        body = form(*((f"field{number}", name, b"1") for number in range(1000)))
        assert "20 parts" in send_job(server, body).refused(413, "body_too_large")["message"]
    send_job(server, picture_form(b" " * 600_000)).refused(413, "body_too_large")


# --- too slow ---


@pytest.mark.parametrize(
    "begun",
    [
        b"G",
        b"GET /v1/ready HTTP/1.1\r\nHost: 127.0.0.1\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nabc",
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\nabc",
    ],
    ids=["start", "headers", "body", "chunk"],
)
def test_a_request_that_does_not_arrive_is_answered_and_ended(hasty, begun):
    with connect(hasty) as connection:
        connection.sendall(begun)
        read_answer(connection).refused(408, "request_timeout")
        assert connection.recv(1) == b""


@pytest.mark.parametrize("part", [b"", b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n"])
def test_a_trickle_does_not_keep_a_request_alive(hasty, part):
    with connect(hasty) as connection:
        connection.sendall(part)

        def trickle() -> bool:
            send_all_that_is_taken(connection, [b"a"])
            return bool(select.select([connection], [], [], 0.1)[0])

        wait_for(trickle, "an answer to the trickle")
        read_answer(connection).refused(408, "request_timeout")


def test_idle_connections_are_not_requests(hasty):
    with connect(hasty) as idle, connect(hasty) as slow:
        slow.sendall(b"G")
        read_answer(slow).refused(408, "request_timeout")  # so a second and more has gone by
        idle.sendall(head(hasty, "GET", "/v1/ready"))
        assert read_answer(idle).status == 200


def test_fifty_slow_clients_keep_nobody_waiting(hasty):
    slow = [connect(hasty) for _ in range(50)]
    try:
        for connection in slow:
            connection.sendall(head(hasty, "POST", "/v1/jobs", FORM, "Content-Length: 5000"))
        assert hasty.get("/v1/ready").status_code == 200
        for connection in slow:
            read_answer(connection).refused(408, "request_timeout")
    finally:
        for connection in slow:
            connection.close()


# --- cut short ---


def test_fewer_bytes_than_declared(hasty):
    body = picture_form()
    start = head(hasty, "POST", "/v1/jobs", FORM, f"Content-Length: {len(body) + 10}")
    with connect(hasty) as connection:
        connection.sendall(start + body)
        read_answer(connection).refused(408, "request_timeout")
    with connect(hasty) as connection:
        connection.sendall(start + body)
        connection.shutdown(socket.SHUT_WR)  # a client that leaves gets no answer, and no job
        assert connection.recv(1) == b""
    assert hasty.get("/v1/jobs").json()["jobs"] == []


def test_more_bytes_than_declared(hasty):
    body = picture_form()
    with connect(hasty) as connection:
        connection.sendall(head(hasty, "POST", "/v1/jobs", FORM, f"Content-Length: {len(body) - 10}") + body)
        read_answer(connection).refused(400, "bad_request")
        assert read_answer(connection).status in (400, 408)  # the rest is no request
    assert hasty.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize("cut", [1, 4, 30, 100])
def test_a_multipart_body_without_its_end(server, cut):
    before = server.get("/v1/jobs").json()["jobs"][:1]
    send_job(server, picture_form()[: -cut - len(b"\r\n")]).refused(400, "bad_request")
    send_job(server, form(("image", "a.png", b"x"), end=False)).refused(400, "bad_request")
    assert server.get("/v1/jobs").json()["jobs"][:1] == before


def test_connections_that_break_off_leave_nothing_behind(server):
    before = len(list((server.data_dir / "jobs").iterdir()))
    for count in (1, 10, 100, 250):
        with connect(server) as connection:
            connection.sendall(head(server, "POST", "/v1/jobs", FORM, "Content-Length: 9999") + picture_form()[:count])
    assert server.get("/v1/ready").status_code == 200
    assert len(list((server.data_dir / "jobs").iterdir())) == before


# --- no HTTP, old HTTP, odd HTTP ---


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GARBAGE\r\n\r\n", 400, "bad_request"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),  # TLS
        (b"\x00\xff\xfe\r\n\r\n", 400, "bad_request"),
        (b"GET\r\n\r\n", 400, "bad_request"),
        (b"get /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/health HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400, "bad_request"),
        (b"GET /v1/\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -3\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3, 4\r\n\r\n", 400, "bad_request"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "bad_request"),
        (b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "not_implemented"),
        (b"GET /v1/health HTTP/1.0\r\n\r\n", 403, "host_not_allowed"),
    ],
)
def test_what_is_no_request_is_told_so(server, sent, status, code):
    exchange(server, sent).refused(status, code)
    assert server.get("/v1/health").status_code == 200


def test_old_clients_are_served_and_closed(server):
    with connect(server) as connection:
        connection.sendall(b"GET /v1/health HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")
        assert read_answer(connection).status == 200
        assert connection.recv(1) == b""


def test_requests_in_one_go_are_answered_in_order(server):
    with connect(server) as connection:
        body = picture_form()
        job = head(server, "POST", "/v1/jobs", FORM, f"Content-Length: {len(body)}") + body
        asked = [head(server, "GET", path) for path in ("/v1/ready", "/v1/none", "/v1/jobs?limit=0")]
        connection.sendall(b"".join([*asked, job, head(server, "GET", "/v1/health")]))
        assert [read_answer(connection).status for _ in range(5)] == [200, 404, 422, 202, 200]


# --- routes ---


def test_every_route_tells_every_fault_in_the_one_shape(server):
    missing = [path for _, path in documented_routes(server) if "0" * 32 in path]
    assert len(missing) >= 5
    for method, path in documented_routes(server):
        faults = [
            ask(server, method, path, token=False) if path != "/v1/health" else ask(server, "GET", "/v1/none"),
            ask(server, method, path, host="evil.example"),
            ask(server, method, path, "Origin: http://evil.example"),
            ask(server, "PATCH", path),
            ask(server, method, path + "/further"),
            ask(server, method, path, f"X-Long: {'a' * 70_000}"),
            ask(server, method, path, "Content-Length: x"),
        ]
        if path in missing:
            faults += [ask(server, method, path), ask(server, method, path.replace("0" * 32, "zz"))]
        statuses = [(fault.status, bool(fault.error)) for fault in faults]
        assert [status for status, _ in statuses[:4]] == [404 if path == "/v1/health" else 401, 403, 403, 405], path
        assert statuses[4][0] in (404, 405) and [status for status, _ in statuses[5:7]] == [431, 400], (path, statuses)
        assert all(status == 404 for status, _ in statuses[7:]), (path, statuses)


def test_wrong_methods_name_the_right_ones(server):
    for path, allowed in (
        ("/v1/ready", {"GET", "HEAD"}),
        ("/v1/unload", {"POST"}),
        (f"/v1/jobs/{'0' * 32}", {"GET", "HEAD", "DELETE"}),
        (f"/v1/jobs/{'0' * 32}/cancel", {"POST"}),
        ("/v1/health", {"GET", "HEAD"}),
    ):
        answer = ask(server, "PUT", path)
        answer.refused(405, "method_not_allowed")
        assert set(answer.headers["Allow"].replace(" ", "").split(",")) == allowed, path
