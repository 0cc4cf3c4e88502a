"""Finding the server of this machine: the same folder as the server's, and nothing that is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from blender_addon import discovery
from blender_addon.client_errors import BadAddress
from blender_addon.discovery import clean_url, find_local, is_loopback, process_lives, user_data_dir
from server.data_dir import DataDir
from server.settings import DEFAULT_PORT


@pytest.mark.parametrize("xdg", [None, "", "/somewhere/else", "relative", "~/x"])
def test_the_same_folder_as_the_servers(monkeypatch, xdg):
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_DATA_HOME", xdg)
    assert user_data_dir() == platformdirs.user_data_path("s2mesh", appauthor=False) == DataDir().path


@pytest.mark.skipif(sys.platform == "win32", reason="is about the others")
def test_on_windows_and_macos(monkeypatch, tmp_path):
    from platformdirs.macos import MacOS

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(discovery.sys, "platform", "darwin")
    assert user_data_dir() == Path(MacOS("s2mesh", appauthor=False).user_data_dir)
    monkeypatch.setattr(discovery.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    assert user_data_dir() == tmp_path / "s2mesh"


def test_the_port_is_the_servers():
    assert DEFAULT_PORT == discovery.DEFAULT_PORT


@pytest.fixture
def folder(tmp_path):
    """The data folder of a server that runs: this process."""
    data = DataDir(tmp_path / "data")
    data.new_token()
    data.write_info("http://127.0.0.1:8493")
    return data


def test_what_the_server_writes_is_found(folder):
    found = find_local(folder.path)
    assert (found.url, found.pid, found.token) == ("http://127.0.0.1:8493", os.getpid(), folder.token())
    assert found.version


def write(folder, **change):
    info = json.loads((folder.path / "server.json").read_text())
    (folder.path / "server.json").write_text(json.dumps({**info, **change}))


def test_a_server_that_listens_to_all_is_spoken_to_on_this_machine(folder):
    write(folder, url="http://0.0.0.0:9001")
    assert find_local(folder.path).url == "http://127.0.0.1:9001"
    write(folder, url="http://192.168.0.7:9001")
    assert find_local(folder.path).url == "http://127.0.0.1:9001"


@pytest.mark.parametrize(
    "change",
    [
        {"url": 5},
        {"url": "nonsense:x"},
        {"url": "http://"},
        {"pid": -1},
        {"pid": 0},
        {"pid": "7"},
        {"pid": True},
        {"pid": 2**40},
    ],
    ids=str,
)
def test_what_cannot_be_a_server(folder, change):
    write(folder, **change)
    assert find_local(folder.path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100000, '{"url": "http://127.0.0.1:1"}', "\ufffd"])
def test_a_file_that_says_nothing(folder, text):
    (folder.path / "server.json").write_text(text)
    assert find_local(folder.path) is None


def test_bytes_that_are_no_text(folder):
    (folder.path / "server.json").write_bytes(b"\xff\xfe\x00")
    assert find_local(folder.path) is None
    (folder.path / "token").write_bytes(b"\xff\xfe\x00")
    assert find_local(folder.path) is None


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nline", "ä", "x" * 2000])
def test_a_token_that_no_header_can_carry(folder, token):
    (folder.path / "token").write_text(token)
    assert find_local(folder.path) is None


def test_nothing_there(tmp_path):
    assert find_local(tmp_path / "none") is None
    (tmp_path / "file").touch()
    assert find_local(tmp_path / "file") is None


def test_a_process_that_ended_is_no_server(folder):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write(folder, pid=process.pid)
    assert find_local(folder.path) is None


def test_a_process_that_ended_and_was_not_waited_for_is_no_server():
    """A server that this Blender started and that was killed stays as a zombie for a moment."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert process_lives(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not process_lives(process.pid)


def test_looking_at_a_process_does_it_no_harm():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        for _ in range(3):
            assert process_lives(process.pid)
        process.communicate(b"\n")
        assert process.returncode == 0
    assert process_lives(1)  # another user's, for those who are not root


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8493"),
        ("localhost", "http://127.0.0.1:8493"),
        ("localhost:81", "http://127.0.0.1:81"),
        ("http://LOCALHOST:81/", "http://127.0.0.1:81"),
        (" http://box.lan ", "http://box.lan"),
        ("https://box.lan:444/s2/", "https://box.lan:444/s2"),
        ("[::1]:81", "http://[::1]:81"),
        ("http://[::1]", "http://[::1]"),
    ],
)
def test_addresses(text, url):
    assert clean_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http://",
        "ftp://a",
        "http://a:b",
        "http://a:99999",
        "http://u:p@a",
        "http://a?x=1",
        "http://a#t",
        "a b",
        "http://[::1",
        "file:///etc",
        "http://a\\b",
        "http://a\nb",
    ],
    ids=repr,
)
def test_what_is_no_address(text):
    with pytest.raises(BadAddress, match="no address.*Enter one"):
        clean_url(text)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.3.4.5", "http://[::1]:4", "localhost", "localhost:3", "https://localhost"]
)
def test_loopback(url):
    assert is_loopback(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example",
        "",
        "http://[",
        "http://0.0.0.0",
        "http://evil@example",
    ],
)
def test_not_loopback(url):
    assert not is_loopback(url)
