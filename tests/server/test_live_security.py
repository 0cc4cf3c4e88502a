"""Who is let in, on a real socket: token, Host, Origin, paths, and who may read the files."""

import os
import stat

import pytest

from server.data_dir import DataDir
from tests.support.raw_http import ask, connect, documented_routes, exchange, head, picture_form, read_answer, send_job

PUBLIC = ("/", "/static/app.js", "/v1/health")
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")
FORGED = [
    "evil.example",
    "rebound.evil.example:{port}",
    "127.0.0.1.evil.example",
    "127.0.0.1.evil.example:{port}",
    "localhost.evil.example",
    "evil.example#127.0.0.1",
    "127.0.0.1@evil.example",
    "evil.example@127.0.0.1",
    "127.0.0.1:{port}@evil.example",
    "127.0.0.1:{port}, evil.example",
    "127.0.0.1:port",
    "[::1]evil.example",
    "[::1].evil.example:{port}",
    "localhost.",
    "2130706433",
    "0x7f000001",
    "127.1",
    "0.0.0.0:{port}",
    "192.168.1.5",
    "printer.local",
    "evil.internal",
    ":{port}",
    " ",
]


def port(server) -> str:
    return server.url.rpartition(":")[2]


# --- token ---


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ([], "token_missing"),
        (["Authorization: Bearer"], "token_missing"),
        (["Authorization: {token}"], "token_missing"),
        (["Authorization: Basic {token}"], "token_missing"),
        (["Authorization: Bearer{token}"], "token_missing"),
        (["Cookie: token={token}"], "token_missing"),
        (["Authorization: Bearer wrong"], "token_wrong"),
        (["Authorization: Bearer {token}x"], "token_wrong"),
        (["Authorization: Bearer {token},{token}"], "token_wrong"),
        (["Authorization: Bearer \xff\xfe"], "token_wrong"),
        (["Authorization: Bearer x", "Authorization: Bearer {token}"], "token_wrong"),
    ],
)
def test_every_route_wants_the_token(server, sent, code):
    routes = documented_routes(server)
    assert len(routes) > 10
    for method, path in [*routes, ("GET", "/v1/nothing"), ("GET", "/nothing"), ("PUT", "/v1/jobs")]:
        answer = ask(server, method, path, *(line.format(token=server.token) for line in sent), token=False)
        if path in PUBLIC:
            assert answer.status == 200, path
        else:
            assert answer.refused(401, code)
            assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
            assert server.token.encode() not in answer.body


def test_the_token_is_taken_from_the_header_alone(server):
    for path in (f"/v1/ready?token={server.token}", f"/v1/ready?access_token={server.token}"):
        ask(server, "GET", path, token=False).refused(401, "token_missing")
    assert ask(server, "GET", "/v1/ready", f"Authorization: bearer {server.token}", token=False).status == 200


@pytest.mark.parametrize("path", PUBLIC)
def test_the_page_and_health_need_no_token(server, path):
    answer = ask(server, "GET", path, token=False)
    assert answer.status == 200 and server.token.encode() not in answer.body


def test_a_new_token_takes_effect_at_once(start_server):
    server = start_server()
    old = server.token
    new = DataDir(server.data_dir).new_token()
    assert new != old
    ask(server, "GET", "/v1/ready").refused(401, "token_wrong")
    assert ask(server, "GET", "/v1/ready", f"Authorization: Bearer {new}", token=False).status == 200
    (server.data_dir / "token").unlink()
    for sent in (new, "", "None"):
        assert ask(server, "GET", "/v1/ready", f"Authorization: Bearer {sent}", token=False).status == 401


# --- hosts and origins ---


@pytest.mark.parametrize("forged", FORGED)
def test_a_foreign_host_is_refused_everywhere(server, forged):
    host = forged.format(port=port(server))
    for path in ("/", "/static/app.js", "/v1/health", "/v1/ready", "/nothing"):
        ask(server, "GET", path, host=host).refused(403, "host_not_allowed")


def test_a_missing_or_second_host_is_refused(server):
    ask(server, "GET", "/v1/ready", host=None).refused(403, "host_not_allowed")
    ask(server, "GET", "/v1/ready", "Host: evil.example").refused(403, "host_not_allowed")
    ask(server, "GET", "/v1/ready", f"Host: 127.0.0.1:{port(server)}", host="evil.example").refused(
        403, "host_not_allowed"
    )
    ask(server, "GET", "/v1/ready", "X-Forwarded-Host: 127.0.0.1", host="evil.example").refused(403, "host_not_allowed")


@pytest.mark.parametrize("own", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST", "[::1]:{port}", "127.0.0.1"])
def test_names_of_this_machine_are_hosts(server, own):
    assert ask(server, "GET", "/v1/ready", host=own.format(port=port(server))).status == 200


@pytest.mark.parametrize(
    "foreign",
    [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: ",
        "Origin: file://",
        "Origin: http://[evil",
        "Origin: http://127.0.0.1:1",
        "Origin: http://127.0.0.1:{port}.evil.example",
        "Origin: http://evil.example@127.0.0.1:{port}",
        "Origin: http://127.0.0.1:{port}, http://evil.example",
        "Origin: http://localhost:{port}",
        "Origin: chrome-extension://abcdef",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
        "Sec-Fetch-Site: CROSS-SITE",
        "Sec-Fetch-Site: none, cross-site",
    ],
)
def test_pages_of_other_origins_are_refused_on_every_method(server, foreign):
    for method in METHODS:
        for path in ("/v1/jobs", "/v1/unload", "/v1/health", "/static/app.js"):
            answer = ask(server, method, path, foreign.format(port=port(server)))
            assert answer.status == 403, (method, path, answer.status)
            assert method == "HEAD" or answer.error["code"] == "origin_not_allowed"
            assert not cors_headers(answer)


def test_a_link_from_elsewhere_opens_the_page_and_nothing_else(server):
    link = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate")
    assert ask(server, "GET", "/", *link, token=False).status == 200
    ask(server, "GET", "/v1/capabilities", *link).refused(403, "origin_not_allowed")
    ask(server, "POST", "/v1/unload", *link).refused(403, "origin_not_allowed")


def test_a_page_of_our_own_is_served(server):
    own = (f"Origin: {server.url}", "Sec-Fetch-Site: same-origin")
    assert ask(server, "GET", "/v1/ready", *own).status == 200
    assert send_job(server, picture_form(), *own).status == 202


def test_a_preflight_gets_nothing(server):
    wanted = ("Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
    for origin in ("http://evil.example", server.url):
        for path in ("/", "/v1/jobs", "/v1/health"):
            answer = ask(server, "OPTIONS", path, f"Origin: {origin}", *wanted, token=False)
            assert answer.status in (401, 403, 405) and not cors_headers(answer), path


def cors_headers(answer) -> list[str]:
    return [name for name in answer.headers if name.lower().startswith("access-control-")]


# --- methods, headers ---


@pytest.mark.parametrize("method", ["TRACE", "PUT", "PATCH", "OPTIONS", "CONNECT", "BREW"])
def test_other_methods_are_refused_and_tell_nothing(server, method):
    answer = ask(server, method, "/v1/jobs", "X-Secret: do not echo")
    answer.refused(405, "method_not_allowed")
    assert {"GET", "HEAD", "POST"} == set(answer.headers["Allow"].replace(" ", "").split(","))
    assert b"do not echo" not in answer.body and server.token.encode() not in answer.body


def test_every_answer_says_nosniff_and_not_what_serves_it(server):
    for method, path in [*documented_routes(server), ("GET", "/"), ("GET", "/static/none.js"), ("GET", "/nothing")]:
        answer = ask(server, method, path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff", path
        assert answer.headers["Server"] is None and not cors_headers(answer), path
        if path.startswith("/v1"):
            assert answer.headers["Cache-Control"] == "no-store", path
    exchange(server, b"nonsense\r\n\r\n").refused(400, "bad_request")


def test_a_connection_that_was_refused_serves_the_next_request(server):
    with connect(server) as connection:
        connection.sendall(head(server, "GET", "/v1/ready", token=False))
        read_answer(connection).refused(401, "token_missing")
        connection.sendall(head(server, "GET", "/v1/ready"))
        assert read_answer(connection).status == 200


# --- paths ---

TRAVERSALS = [
    "..",
    "../../token",
    "..%2f..%2ftoken",
    "%2e%2e/%2e%2e/token",
    "%252e%252e%252ftoken",
    "..%5c..%5ctoken",
    "..\\..\\token",
    "....//....//token",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "%00",
    "mesh.glb%00.png",
    "CON",
    "NUL.glb",
    "COM1",
    "C:%5cWindows%5cwin.ini",
    "source",
    "mesh.glb/",
    "MESH.GLB",
    "%c0%ae%c0%ae/token",
]


@pytest.mark.parametrize("name", TRAVERSALS)
def test_no_path_leads_out(server, name):
    job = server.queued()
    secrets = (server.token.encode(), b"SQLite format", b"root:")
    places = [f"/v1/jobs/{name}", f"/v1/jobs/{job}/artifacts/{name}", f"/static/{name}", f"/v1/jobs/{job}/../../{name}"]
    for path in [*places, f"/{name}"]:
        answer = ask(server, "GET", path)
        assert answer.status in (400, 404), (path, answer.status)
        assert answer.error["code"] in ("not_found", "job_not_found", "artifact_not_found", "bad_request")
        assert not any(secret in answer.body for secret in secrets)
    for method, path in (("DELETE", f"/v1/jobs/{name}"), ("POST", f"/v1/jobs/{name}/cancel")):
        assert ask(server, method, path).status in (400, 404, 405)
    assert (server.data_dir / "token").exists() and (server.data_dir / "jobs" / job / "source").exists()
    server.post(f"/v1/jobs/{job}/cancel")


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\\\..\\\\boot.ini", "boot.ini"),
        ("/etc/shadow", "shadow"),
        ("..", ".."),
        ("a\x01b\x7f.png", "ab.png"),
        ("<script>alert(1)</script>.png", "script>.png"),
        ("x" * 500 + ".png", "x" * 100),
        ("/", "picture"),
    ],
)
def test_the_name_of_a_file_is_only_a_title(server, name, title):
    before = {path.name for path in server.data_dir.iterdir()}
    answer = send_job(server, picture_form(name=name))
    assert answer.status == 202, answer.body
    job = server.job(answer.headers["Location"].rpartition("/")[2])
    assert job["title"] == title
    assert (server.data_dir / "jobs" / job["id"] / "source").is_file()
    assert {path.name for path in server.data_dir.iterdir()} == before
    artifact = ask(server, "GET", f"/v1/jobs/{job['id']}/artifacts/{title}")
    artifact.refused(404, "artifact_not_found")
    server.post(f"/v1/jobs/{job['id']}/cancel")


# --- who may read the files ---


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_nobody_else_can_read_the_data(server):
    server.finished(server.queued())
    paths = [server.data_dir, *server.data_dir.iterdir(), *(server.data_dir / "jobs").iterdir()]
    assert {"token", "server.json", "jobs.sqlite", "jobs"} <= {path.name for path in paths}
    folders = [path for path in paths if path.is_dir()]
    assert len(folders) > 2
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for name in ("token", "server.json"):
        assert stat.S_IMODE((server.data_dir / name).stat().st_mode) == 0o600, name
