"""The extension's client and services that are not ours, too old, too new, too slow or hostile; and no `requests`."""

import socket
import sys
import threading
import time

import pytest

from blender_addon import client_connection
from blender_addon.client import Client, ClientSettings
from blender_addon.client_errors import (
    BadAddress,
    NoRequests,
    Offline,
    OnlineAccessNeeded,
    Refused,
    S2MeshError,
    WireError,
    WrongService,
    WrongToken,
    WrongVersion,
)
from tests.support.stub_http import HEALTH, StubServer

TOKEN = "t" * 40
GARBAGE = {
    "a page": (200, {"Content-Type": "text/html"}, b"<html>Router</html>"),
    "other JSON": (200, {}, {"status": "ok"}),
    "a list": (200, {}, [1]),
    "not found": (404, {}, b"nothing"),
    "an error of its own": (500, {}, b"oops"),
    "asks for a name": (401, {"WWW-Authenticate": "Basic"}, b"who?"),
    "deep JSON": (200, {}, b"[" * 200_000),
    "not packed": (200, {"Content-Encoding": "gzip"}, b"no gzip"),
    "no text": (200, {}, b"\xff\xfe\x00"),
    "another error": (400, {}, {"error": "bad"}),
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_another_program_is_told_apart_and_not_told_the_token(answer):
    with StubServer(**{"/v1/health": answer}) as stub:
        with pytest.raises(WrongService) as error:
            Client(stub.url, TOKEN).ready()
        assert "port" in error.value.remedy
        assert not any("Authorization" in headers for _, _, headers in stub.requests)


def test_redirects_are_not_followed():
    with StubServer() as other, StubServer() as stub:
        stub.answers["/v1/health"] = (302, {"Location": f"{other.url}/v1/health"}, b"")
        with pytest.raises(WrongService, match="not followed"):
            Client(stub.url, TOKEN).health()
        stub.answers["/v1/health"] = (200, {}, HEALTH)
        stub.answers["/v1/ready"] = (307, {"Location": f"{other.url}/v1/ready"}, b"")
        with pytest.raises(WrongService, match="not followed"):
            Client(stub.url, TOKEN).ready()
        assert other.requests == []


@pytest.mark.parametrize("api", [2, 0, None, "1", [1]])
def test_another_version(api):
    answer = (200, {}, {**HEALTH, "api": api})
    with StubServer(**{"/v1/health": answer}) as stub, pytest.raises(WrongVersion, match="Update the older"):
        Client(stub.url, TOKEN).ready()


def serve_raw(answer: bytes, hold: bool = False):
    """Listens once and says these bytes, then goes or stays silent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        listener.settimeout(20)
        held = []
        try:
            while True:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                held.append(connection) if hold else connection.close()
        except OSError:
            for connection in held:
                connection.close()

    threading.Thread(target=run, daemon=True).start()
    return listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "banner", [b"SSH-2.0-OpenSSH_9.6\r\n", b"220 mail ready\r\n", b"\x00\x01\x02\n", b"HTTP/9 what\r\n\r\n"]
)
def test_a_service_that_speaks_no_http(banner):
    listener, url = serve_raw(banner)
    with listener, pytest.raises(WrongService, match="not in HTTP"):
        Client(url, TOKEN).health()


def test_one_that_hangs_up_is_no_server():
    listener, url = serve_raw(b"")
    with listener, pytest.raises(Offline):
        Client(url, TOKEN).health()


def test_one_that_says_nothing():
    listener, url = serve_raw(b"", hold=True)
    with listener, pytest.raises(Offline, match="does not answer in time.*busy") as error:
        Client(url, TOKEN, timeout_s=(1, 0.3)).health()
    assert error.value.timed_out


def test_an_answer_without_an_end(monkeypatch):
    def forever(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 1000)
            time.sleep(0.01)

    with StubServer(**{"/v1/health": forever}) as stub, pytest.raises(WrongService):
        Client(stub.url, TOKEN, timeout_s=(1, 0.5)).health()
    monkeypatch.setattr(client_connection, "_MAX_ANSWER", 10_000)
    with StubServer(**{"/v1/health": forever}) as stub, pytest.raises(WrongService):
        Client(stub.url, TOKEN).health()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Offline, match="Press Start"):
        Client(url, TOKEN).ready()


def test_what_answers_at_the_usual_port_is_told_where_no_server_is_known(tmp_path):
    with StubServer() as stub:
        settings = ClientSettings(cache_dir=tmp_path, data_dir=tmp_path, default_port=stub.port)
        with pytest.raises(WrongToken, match="A server answers at"):
            Client.from_settings(settings)
        stub.answers["/v1/health"] = (200, {}, b"<html>")
        with pytest.raises(WrongService):
            Client.from_settings(settings)


def test_a_token_of_the_data_folder_goes_to_this_machine_alone(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    settings = ClientSettings(cache_dir=tmp_path, data_dir=tmp_path, url="http://203.0.113.1:8493", online_access=True)
    seen = []

    class Spy(client_connection.Connection):
        def health(self):
            seen.append((self.url, self.token))
            return {}

    from blender_addon import client

    original, client.Connection = client.Connection, Spy
    try:
        with pytest.raises(WrongToken, match="wants a token"):
            Client.from_settings(settings)
    finally:
        client.Connection = original
    assert seen == [("http://203.0.113.1:8493", "")]


def test_other_machines_need_online_access():
    for url in ("http://203.0.113.1", "https://example.org", "http://0.0.0.0:8493", "box.lan"):
        with pytest.raises(OnlineAccessNeeded, match="Preferences > System > Network"):
            Client(url, TOKEN)
        Client(url, TOKEN, online_access=True).close()
    Client("http://127.0.0.1:8493", TOKEN).close()


def test_bad_addresses_and_tokens():
    with pytest.raises(BadAddress):
        Client("http://", TOKEN)
    with pytest.raises(WrongToken, match="one line"):
        Client("http://127.0.0.1", "two\nlines")
    with pytest.raises(S2MeshError):
        Client("http://" + "a" * 400 + ".example", TOKEN, online_access=True).health()


def test_without_requests(monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(NoRequests) as error:
        Client("http://127.0.0.1:8493", TOKEN)
    assert str(error.value) == (
        "This build of Blender lacks the Python module requests. "
        "Install it for its Python, or use the official build from blender.org."
    )


@pytest.mark.parametrize("content", [b"no json", b"[]", b"null", b"[" * 100_000, {"ready": "yes"}, {}])
def test_answers_that_are_not_as_agreed(content):
    with StubServer(**{"/v1/ready": (200, {}, content)}) as stub, pytest.raises((WireError, WrongService)):
        Client(stub.url, TOKEN).ready()


@pytest.mark.parametrize("status", [400, 404, 422, 500, 502, 503])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"Bad Gateway",
        {"error": 5},
        {"error": {"code": 1}},
        {"error": {"code": "x", "message": "y", "details": 5}},
        [],
    ],
)
def test_refusals_that_are_not_as_agreed(status, content):
    with StubServer(**{"/v1/ready": (status, {}, content)}) as stub, pytest.raises(WrongService, match=str(status)):
        Client(stub.url, TOKEN).ready()


def test_a_refusal_with_a_time_to_wait():
    error = {"error": {"code": "queue_full", "message": "too many jobs wait.", "details": {"limit": 3}}}
    with StubServer(**{"/v1/ready": (429, {"Retry-After": "7"}, error)}) as stub, pytest.raises(Refused) as refused:
        Client(stub.url, TOKEN).ready()
    assert refused.value.retry_after_s == 7 and refused.value.details == {"limit": 3}
    assert str(refused.value) == "Too many jobs wait. Wait until a job has ended, or cancel some."
    with (
        StubServer(**{"/v1/ready": (429, {"Retry-After": "Wed, 21 Oct"}, error)}) as stub,
        pytest.raises(Refused) as refused,
    ):
        Client(stub.url, TOKEN).ready()
    assert refused.value.retry_after_s is None


def test_a_code_of_a_newer_server_is_told_in_its_own_words():
    error = {"error": {"code": "moon_full", "message": "the moon is full", "details": {}}}
    with StubServer(**{"/v1/ready": (503, {}, error)}) as stub, pytest.raises(Refused) as refused:
        Client(stub.url, TOKEN).ready()
    assert refused.value.code == "moon_full" and str(refused.value).startswith("The moon is full. ")
