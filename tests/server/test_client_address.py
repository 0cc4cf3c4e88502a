"""Which server a client means, who may see its token, and what is said when somebody else answers."""

import contextlib
import json
import os
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from core.errors import ConfigError
from server.client import Client
from server.client_address import clean_address, find_server
from server.client_errors import Refused, Unreachable, WrongService, WrongVersion
from server.data_dir import DataDir

TOKEN = "a-token-of-enough-letters"


@pytest.fixture
def folder(tmp_path):
    """A data directory with a token and no server."""
    folder = DataDir(tmp_path / "data")
    folder.new_token()
    return folder


@pytest.fixture
def stranger():
    """Starts HTTP servers that are not ours: ``answer(path) -> (status, headers, body)``; notes what they are sent."""
    started = []

    def start(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.seen.append((self.path, self.headers.get("Authorization")))
                status, headers, body = answer(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.seen = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def client_of(url):
    with Client(url, TOKEN) as client:
        yield client


# --- addresses ---


@pytest.mark.parametrize(
    "text, address",
    [
        ("http://127.0.0.1:8493/", "http://127.0.0.1:8493"),
        ("127.0.0.1", "http://127.0.0.1:8493"),
        ("box:9000", "http://box:9000"),
        ("[::1]", "http://[::1]:8493"),
        ("http://[::1]:9000", "http://[::1]:9000"),
        ("https://box.example/s2mesh/", "https://box.example/s2mesh"),
        ("HTTP://Box", "http://box"),
    ],
)
def test_an_address_may_be_written_short(text, address):
    assert clean_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "ftp://box",
        "file:///etc/passwd",
        "http://box:port",
        "http://box:99999",
        "http://a b",
        "http://[::1",
    ],
)
def test_what_is_no_address(text):
    with pytest.raises(ConfigError, match="is no address"):
        clean_address(text)


@pytest.mark.parametrize("text", ["http://127.0.0.1:8493/#token=x", "http://me:word@box", "http://box/?a=b"])
def test_an_address_carries_nothing_else(text):
    with pytest.raises(ConfigError, match="address alone"):
        clean_address(text)


# --- the token ---


def test_the_own_token_goes_to_this_machine_alone(folder, monkeypatch):
    monkeypatch.setattr("server.data_dir.user_data_dir", lambda: folder.path)
    own = folder.token()
    for address in ("http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"):
        assert find_server(address, None, None) == (address, own)
    with pytest.raises(ConfigError, match="--token-file"):
        find_server("http://box.example", None, None)
    assert find_server("http://box.example", None, folder.path)[1] == own  # the folder was named
    assert find_server("http://box.example", TOKEN, None)[1] == TOKEN


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "ü" * 20])
def test_what_is_no_token(token):
    with pytest.raises(ConfigError, match="token must be one line"):
        Client("http://127.0.0.1:1", token)


def test_without_any_token(tmp_path):
    with pytest.raises(ConfigError, match="there is no token"):
        Client("http://127.0.0.1:1", data_dir=tmp_path)


def test_a_wrong_token_is_refused(server):
    with client_of(server.url) as client, pytest.raises(Refused) as refused:
        client.ready()
    assert (refused.value.code, refused.value.status) == ("token_wrong", 401)


# --- nobody there ---


def test_no_server_runs_here(folder):
    with pytest.raises(Unreachable, match="s2mesh serve"):
        Client(data_dir=folder.path)


def test_what_a_killed_server_left_is_not_believed(start_server):
    server = start_server()
    with Client(data_dir=server.data_dir) as client:
        assert client.ready()["ready"]
    server.kill()
    assert (server.data_dir / "server.json").exists()
    with pytest.raises(Unreachable, match="no server runs"):
        Client(data_dir=server.data_dir)


def test_a_process_that_took_over_the_number_is_not_believed(folder):
    folder.write_info("http://127.0.0.1:1")  # of this process, which lives
    assert Client(data_dir=folder.path).url == "http://127.0.0.1:1"
    info = json.loads((folder.path / "server.json").read_text())
    assert info["pid"] == os.getpid()
    long_ago = {**info, "started_at": time.time() - 10 * 365 * 86400}
    (folder.path / "server.json").write_text(json.dumps(long_ago))
    with pytest.raises(Unreachable):
        Client(data_dir=folder.path)


def test_nothing_listens():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with client_of(f"http://127.0.0.1:{port}") as client, pytest.raises(Unreachable, match="s2mesh serve"):
        client.ready()


# --- somebody else there: the token is never sent ---


@pytest.mark.parametrize(
    "status, headers, body",
    [
        (200, {}, b"hello"),
        (200, {"Content-Type": "application/json"}, b'{"status": "ok"}'),
        (200, {"Content-Type": "application/json"}, b"[1]"),
        (200, {"Content-Encoding": "gzip"}, b"no gzip"),
        (404, {}, b"nothing here"),
        (500, {}, b'{"error": "broken"}'),
        (302, {"Location": "http://127.0.0.1:9/v1/health"}, b""),
    ],
)
def test_another_service_is_recognised(stranger, status, headers, body):
    server = stranger(lambda path: (status, headers, body))
    with client_of(server.url) as client, pytest.raises(WrongService, match="Check the address"):
        client.ready()
    assert server.seen == [("/v1/health", None)]


def test_a_redirect_is_not_followed_with_the_token(stranger):
    """Not even one of a server that has said that it is ours."""
    target = stranger(lambda path: (200, {}, b"{}"))
    health = json.dumps({"service": "s2mesh", "api": 1}).encode()
    away = {"Location": f"{target.url}/v1/ready"}
    server = stranger(lambda path: (200, {}, health) if path == "/v1/health" else (307, away, b""))
    with client_of(server.url) as client, pytest.raises(WrongService, match="not followed"):
        client.ready()
    assert server.seen[-1] == ("/v1/ready", f"Bearer {TOKEN}")
    assert target.seen == []


def test_a_server_of_another_version(stranger):
    health = json.dumps({"status": "ok", "service": "s2mesh", "version": "9.0", "api": 2}).encode()
    server = stranger(lambda path: (200, {}, health))
    with client_of(server.url) as client, pytest.raises(WrongVersion, match="Update the older"):
        client.ready()
    assert all(authorization is None for _, authorization in server.seen)


@pytest.mark.parametrize("scheme, said", [("http", "not in HTTP"), ("https", "no TLS that can be trusted")])
def test_a_service_that_speaks_another_language(scheme, said):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=greet, daemon=True)
        thread.start()
        where = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        with client_of(where) as client, pytest.raises(WrongService, match=said):
            client.ready()
        thread.join(10)
