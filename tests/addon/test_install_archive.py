"""Archives of the server: unpacked whole or not at all, from the disk and from the net, never trusted."""

import os
import stat
import sys
import zipfile

import pytest

from blender_addon import install_archive
from blender_addon.client_errors import DiskFull, InstallFailed, OnlineAccessNeeded, Stopped
from blender_addon.install_python import FoundPython
from blender_addon.install_server import Installation, archive_bytes, fetch
from tests.support.small_install import RUN, archive, never, no_words
from tests.support.stub_http import StubServer

PYTHON = FoundPython(command=(sys.executable,), version=sys.version_info[:2])


def test_an_archive_without_a_folder_at_its_top(small, tmp_path):
    fetch(small(top=""), tmp_path / "server", should_stop=never, progress=no_words)
    assert (tmp_path / "server" / "plan.txt").is_file()


def test_a_newer_version_takes_the_place_and_keeps_the_environment(installed, small, tmp_path):
    installation = installed()
    installation.run(PYTHON, no_words, never)
    (installation.folder / "old.txt").touch()
    fetch(small(version="1.1", top="s2mesh-1.1/"), installation.folder, should_stop=never, progress=no_words)
    assert installation.version == "1.1" and installation.is_installed
    assert not (installation.folder / "old.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s2mesh.zip", "server"]


def link(name):
    info = zipfile.ZipInfo(f"s2mesh-1.0/{name}")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


HOSTILE = {
    "up": {zipfile.ZipInfo("s2mesh-1.0/../../evil.txt"): "x"},
    "far up": {zipfile.ZipInfo("../evil.txt"): "x"},
    "root": {zipfile.ZipInfo("/tmp/evil.txt"): "x"},
    "drive": {zipfile.ZipInfo("C:/evil.txt"): "x"},
    "backslash": {zipfile.ZipInfo("s2mesh-1.0/..\\..\\evil.txt"): "x"},
    "stream": {zipfile.ZipInfo("s2mesh-1.0/a:b"): "x"},
    "link": {link("evil"): "/etc"},
    "twice": {"plan.txt/x": "x"},
}


@pytest.mark.parametrize("files", HOSTILE.values(), ids=HOSTILE.keys())
def test_an_archive_that_would_write_elsewhere(tmp_path, files):
    before = set(tmp_path.parent.rglob("*evil*"))
    with pytest.raises(InstallFailed) as error:
        bad = archive(tmp_path / "bad.zip", {"packaging/run.py": RUN, "plan.txt": "", **files})
        fetch(bad, tmp_path / "server", should_stop=never, progress=no_words)
    assert error.value.remedy
    assert not (tmp_path / "server").exists() and set(tmp_path.parent.rglob("*evil*")) == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("server")]


def test_archives_that_are_too_large(small, tmp_path, monkeypatch):
    packed = small(**{"zeros.bin": bytes(3_000_000)})
    assert packed.stat().st_size < 100_000
    monkeypatch.setattr(install_archive, "MAX_UNPACKED", 1_000_000)
    with pytest.raises(InstallFailed, match="larger"):
        fetch(packed, tmp_path / "server", should_stop=never, progress=no_words)
    monkeypatch.setattr(install_archive, "MAX_UNPACKED", 2**31)
    monkeypatch.setattr(install_archive, "MAX_FILES", 3)
    with pytest.raises(InstallFailed, match="larger"):
        fetch(packed, tmp_path / "server", should_stop=never, progress=no_words)


def test_archives_that_are_none(tmp_path, small):
    cases = {"text": b"no zip", "empty": b"", "cut": small().read_bytes()[:-60]}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InstallFailed, match="damaged|no zip"):
            fetch(tmp_path / name, tmp_path / "server", should_stop=never, progress=no_words)
    with pytest.raises(InstallFailed, match="cannot be read"):
        fetch(tmp_path / "none.zip", tmp_path / "server", should_stop=never, progress=no_words)
    with pytest.raises(InstallFailed, match="no S2 Mesh"):
        fetch(
            archive(tmp_path / "other.zip", {"readme": "x"}), tmp_path / "server", should_stop=never, progress=no_words
        )


def test_flipped_bytes_of_an_archive(tmp_path, small):
    """Whatever comes out, nothing is left behind and no other error gets out."""
    content = small(top="").read_bytes()
    for place in range(0, len(content), 7):
        (tmp_path / "bad.zip").write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        target = tmp_path / f"server{place}"
        try:
            fetch(tmp_path / "bad.zip", target, should_stop=never, progress=no_words)
        except InstallFailed:
            assert not target.exists()


def test_what_the_artist_has_is_not_replaced(small, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").touch()
    with pytest.raises(InstallFailed, match="holds something else"):
        fetch(small(), tmp_path / "photos", should_stop=never, progress=no_words)
    checkout = tmp_path / "checkout"
    (checkout / "packaging").mkdir(parents=True)
    (checkout / "packaging" / "run.py").touch()
    (checkout / ".git").mkdir()
    with pytest.raises(InstallFailed, match="checkout of your own"):
        fetch(small(), checkout, should_stop=never, progress=no_words)
    assert (tmp_path / "photos" / "holiday.jpg").exists()


def test_a_folder_that_cannot_be_made(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InstallFailed, match="cannot be written"):
        fetch(small(), tmp_path / "file" / "server", should_stop=never, progress=no_words)


def test_a_full_disk(small, tmp_path):
    import resource
    import signal

    packed = small(**{"noise.bin": os.urandom(200_000)})
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
        with pytest.raises(DiskFull):
            fetch(packed, tmp_path / "server", should_stop=never, progress=no_words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == ["s2mesh.zip"]


def test_stopped_in_the_middle(small, tmp_path):
    with pytest.raises(Stopped):
        fetch(small(), tmp_path / "server", should_stop=lambda: True, progress=no_words)
    assert [path.name for path in tmp_path.iterdir()] == ["s2mesh.zip"]


# --- from the net ---


def test_a_download_with_its_size_told_first(small, tmp_path):
    content = small(**{"noise.bin": os.urandom(3_000_000)}).read_bytes()
    lines = []
    with StubServer(**{"/release.zip": (200, {}, content)}) as stub:
        stub.answers["/latest"] = (302, {"Location": "/release.zip"}, b"")
        url = f"{stub.url}/latest"
        assert archive_bytes(url, online_access=False) == len(content)  # this machine is always allowed
        fetch(url, tmp_path / "server", should_stop=never, progress=lines.append)
    assert Installation(tmp_path / "server").has_files
    assert lines[0].startswith("Downloading: 1 of 3 MB") and lines[-1] == "Unpacking"
    assert archive_bytes(str(tmp_path / "s2mesh.zip"), online_access=False) == len(content)


def test_other_machines_need_online_access_and_encryption(tmp_path):
    def bring(url, online_access):
        fetch(url, tmp_path / "s", should_stop=never, progress=no_words, online_access=online_access)

    for ask in (archive_bytes, bring):
        with pytest.raises(OnlineAccessNeeded, match="Allow Online Access"):
            ask("https://203.0.113.1/a.zip", online_access=False)
        with pytest.raises(InstallFailed, match="not encrypted"):
            ask("http://203.0.113.1/a.zip", online_access=True)


def test_redirects_do_not_lead_around_the_rules(tmp_path):
    with StubServer() as stub:
        stub.answers["/a"] = (302, {"Location": "https://203.0.113.1/a.zip"}, b"")
        with pytest.raises(OnlineAccessNeeded):
            archive_bytes(f"{stub.url}/a", online_access=False)
        stub.answers["/a"] = (302, {"Location": "/a"}, b"")
        with pytest.raises(InstallFailed):
            archive_bytes(f"{stub.url}/a", online_access=False)
        stub.answers["/a"] = (302, {"Location": "file:///etc/passwd"}, b"")
        with pytest.raises((InstallFailed, OnlineAccessNeeded)):
            archive_bytes(f"{stub.url}/a", online_access=True)


def test_downloads_that_break(tmp_path, small):
    content = small(**{"noise.bin": os.urandom(500_000)}).read_bytes()

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])
        handler.close_connection = True

    with StubServer(**{"/a": half, "/b": (404, {}, b""), "/c": (200, {}, b"<html>")}) as stub:
        with pytest.raises(InstallFailed, match="broke|incomplete"):
            fetch(f"{stub.url}/a", tmp_path / "server", should_stop=never, progress=no_words)
        with pytest.raises(InstallFailed, match="answered 404"):
            fetch(f"{stub.url}/b", tmp_path / "server", should_stop=never, progress=no_words)
        with pytest.raises(InstallFailed, match="no zip"):
            fetch(f"{stub.url}/c", tmp_path / "server", should_stop=never, progress=no_words)
        stops = iter([False, True, True])
        stub.answers["/d"] = (200, {}, content)
        with pytest.raises(Stopped):
            fetch(f"{stub.url}/d", tmp_path / "server", should_stop=lambda: next(stops), progress=no_words)
    with pytest.raises(InstallFailed, match="cannot be reached"):
        fetch("http://127.0.0.1:9/a", tmp_path / "server", should_stop=never, progress=no_words)
    assert [path.name for path in tmp_path.iterdir()] == ["s2mesh.zip"]
