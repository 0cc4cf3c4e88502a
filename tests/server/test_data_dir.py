"""The data directory: who may read what, which tokens are good, and that it has one server at a time."""

import json
import os
import stat
import sys

import pytest

from core import __version__
from core.checkpoints.installed import user_data_dir
from core.errors import ConfigError
from server.data_dir import MIN_TOKEN, AlreadyRunning, DataDir, TokenFile

posix = pytest.mark.skipif(sys.platform == "win32", reason="no modes there")


@pytest.fixture
def folder(tmp_path):
    made = DataDir(tmp_path / "a" / "data")
    made.create()
    yield made
    made.release()


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nothing_is_made_before_it_is_asked_for(tmp_path):
    folder = DataDir(tmp_path / "data")
    assert folder.token() is None and folder.read_info() is None
    assert folder.database.parent == folder.jobs.parent == folder.models.parent == folder.path
    assert list(tmp_path.iterdir()) == []


def test_without_a_path_it_is_the_user_s_own():
    assert DataDir().path == user_data_dir().absolute()


def test_a_relative_path_is_meant_from_here_though_one_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = DataDir(tmp_path.relative_to(tmp_path) / "data")
    monkeypatch.chdir("/")
    assert folder.path == tmp_path / "data"


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_the_owner_reads_it_whatever_the_umask(tmp_path, umask):
    old = os.umask(umask)
    try:
        folder = DataDir(tmp_path / "data")
        folder.create()
        folder.ensure_token()
        folder.write_info("http://127.0.0.1:1")
        folder.acquire()
    finally:
        os.umask(old)
    assert mode(folder.path) == 0o700
    for name in ("token", "server.json", "server.lock"):
        assert mode(folder.path / name) == 0o600, name
    folder.release()


@posix
def test_a_folder_that_others_could_read_is_closed(tmp_path):
    path = tmp_path / "data"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    DataDir(path).create()
    assert mode(path) == 0o700


@pytest.mark.parametrize("below", ["file", "file/data"])
def test_a_folder_that_cannot_be_made(tmp_path, below):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigError, match=r"file.* cannot be used: .*Choose another with --data-dir"):
        DataDir(tmp_path / below).create()


def test_a_folder_that_cannot_be_written(folder, monkeypatch):
    def refuse(self, *arguments, **named):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.touch", refuse)  # the superuser of a container may write everywhere
    with pytest.raises(ConfigError, match="Permission denied. Choose another"):
        folder.create()


@posix
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_really_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="Permission denied. Choose another"):
        DataDir(tmp_path / "data").create()


# --- token ---


def test_a_token_is_made_once_and_is_long_and_random(folder):
    token = folder.ensure_token()
    assert len(token) >= 32 and folder.ensure_token() == folder.token() == token
    assert (folder.path / "token").read_text() == token + "\n"
    assert folder.new_token() != token and folder.token() != token
    assert len({folder.new_token() for _ in range(20)}) == 20
    assert sorted(path.name for path in folder.path.iterdir()) == ["token"], "no half-written file is left"


def test_a_new_token_makes_its_folder(tmp_path):
    folder = DataDir(tmp_path / "data")
    assert folder.new_token() == folder.token()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"short\n", b"x" * (MIN_TOKEN - 1), b"two words of a token\n", b"two\nlines of a token!", b"\xff" * 40,
     "größe".encode() * 8, b"a" * 20 + b"\0"],
)  # fmt: skip
def test_a_token_that_is_no_good_is_refused_and_not_replaced(folder, content):
    (folder.path / "token").write_bytes(content)
    for use in (folder.token, folder.ensure_token):
        with pytest.raises(ConfigError, match="s2mesh token --new"):
            use()
    assert (folder.path / "token").read_bytes() == content
    assert TokenFile(folder).current() == "", "nobody is let in"
    folder.new_token()
    assert TokenFile(folder).current() == folder.token()


@pytest.mark.parametrize("content", ["x" * MIN_TOKEN, "  " + "x" * 20 + "\r\n"])
def test_a_token_of_one_s_own_is_good(folder, content):
    (folder.path / "token").write_text(content)
    assert folder.token() == content.strip()


def test_a_token_that_is_a_folder(folder):
    (folder.path / "token").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        folder.token()


def test_a_running_server_takes_the_new_token_at_once(folder):
    file = TokenFile(folder)
    assert file.current() == ""
    tokens = [folder.new_token() for _ in range(1)]
    assert file.current() == tokens[0] == file.current()
    for _ in range(5):
        tokens.append(folder.new_token())
        assert file.current() == tokens[-1]
    (folder.path / "token").unlink()
    assert file.current() == ""
    folder.ensure_token()
    assert file.current() == folder.token()


# --- one server at a time ---


def test_a_second_server_is_told_where_the_first_one_is(folder):
    folder.acquire()
    second = DataDir(folder.path)
    with pytest.raises(AlreadyRunning, match="at an address that it has not told yet"):
        second.acquire()
    folder.write_info("http://127.0.0.1:8493")
    with pytest.raises(AlreadyRunning, match="at http://127.0.0.1:8493. Use it, stop it, or choose") as caught:
        second.acquire()
    assert caught.value.exit_status == 2
    assert DataDir(folder.path).read_info()["url"] == "http://127.0.0.1:8493", "the first one's entry stays"


def test_the_next_server_gets_in(folder):
    folder.acquire()
    folder.write_info("http://127.0.0.1:1")
    folder.release()
    assert folder.read_info() is None
    second = DataDir(folder.path)
    second.acquire()
    with pytest.raises(AlreadyRunning):
        folder.acquire()
    second.release()
    folder.acquire()


def test_releasing_twice_or_without_a_lock_is_harmless(folder):
    folder.release()
    folder.acquire()
    folder.release()
    folder.release()


# --- server.json ---


def test_the_server_s_address_comes_back(folder):
    folder.write_info("http://[::1]:8493")
    info = folder.read_info()
    assert info == {
        "url": "http://[::1]:8493",
        "pid": os.getpid(),
        "version": __version__,
        "started_at": info["started_at"],
    }
    assert info["started_at"] > 1.7e9
    folder.write_info("http://127.0.0.1:2")
    assert folder.read_info()["url"] == "http://127.0.0.1:2"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b"{}", b'{"url": 7}', b"\xff\xfe", b'"http://x"'])
def test_a_damaged_address_is_none(folder, content):
    (folder.path / "server.json").write_bytes(content)
    assert folder.read_info() is None


def test_nothing_half_written_is_left_where_the_disk_is_full(folder, monkeypatch):
    folder.write_info("http://127.0.0.1:1")

    def no_room(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", no_room)
    with pytest.raises(OSError, match="No space"):
        folder.write_info("http://127.0.0.1:2")
    monkeypatch.undo()
    assert [path.name for path in folder.path.iterdir()] == ["server.json"]
    assert json.loads((folder.path / "server.json").read_text())["url"] == "http://127.0.0.1:1"
