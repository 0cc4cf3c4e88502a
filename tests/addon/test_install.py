"""Installing the server from the panel: Pythons, and the run of packaging/run.py, with a small real one."""

import subprocess
import sys
import threading

import pytest

from blender_addon import install_python
from blender_addon.client_errors import InstallFailed, Stopped
from blender_addon.discovery import process_lives
from blender_addon.install_python import FoundPython, candidates, find_python, probe
from blender_addon.install_server import Installation, default_folder, fetch, find_installation
from tests.support.live_server import ROOT, wait_for
from tests.support.small_install import never, no_words

PYTHON = FoundPython(command=(sys.executable,), version=sys.version_info[:2])


# --- the run ---


def test_from_archive_to_command(installed, monkeypatch):
    monkeypatch.setenv("PYTHONHOME", "/blender")
    monkeypatch.delenv("S2MESH_VENV", raising=False)
    installation, lines = installed(), []
    assert installation.has_files and not installation.is_installed and installation.version == "1.0"
    with pytest.raises(InstallFailed, match="not installed.*Press Install Server"):
        installation.command("serve")
    installation.run(PYTHON, lines.append, never, build="cpu")
    assert lines == ["arguments --cpu -v setup --runtime", "False"]
    assert installation.is_installed
    command = installation.command("serve", "--port", "0")
    assert command[-3:] == ["serve", "--port", "0"] and command[0].startswith(str(installation.folder))
    again = []
    installation.run(PYTHON, again.append, never)
    assert again[0] == "arguments -v setup --runtime"


def test_a_run_that_fails_says_why(installed):
    with pytest.raises(InstallFailed) as error:
        installed("fails").run(PYTHON, no_words, never)
    assert str(error.value) == (
        "The installation failed: the disk is full. Free some space. "
        "Press Install Server again: what is there already is kept."
    )


def test_a_run_that_says_it_went_well_and_did_not(installed):
    with pytest.raises(InstallFailed, match="the server is not there"):
        installed("lies").run(PYTHON, no_words, never)


def test_a_run_that_talks_a_lot(installed):
    lines = []
    installed("floods").run(PYTHON, lines.append, never)
    assert len(lines) > 1500 and max(map(len, lines)) <= 500


def test_a_run_is_stopped_with_all_its_children(installed):
    installation, lines, stop = installed("waits"), [], threading.Event()
    ended = []

    def run():
        try:
            installation.run(PYTHON, lines.append, stop.is_set)
        except Stopped as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: "waiting" in lines, "the run")
    child = int((installation.folder / "child").read_text())
    stop.set()
    thread.join(30)
    assert len(ended) == 1

    wait_for(lambda: not process_lives(child), "the child's end")


def test_a_folder_without_s2mesh(tmp_path):
    with pytest.raises(InstallFailed, match="has no S2 Mesh.*release archive"):
        Installation(tmp_path).run(PYTHON, no_words, never)
    assert Installation(tmp_path).version == ""


def test_a_python_that_does_not_run(installed):
    with pytest.raises(InstallFailed, match="cannot be started"):
        installed().run(FoundPython(command=("/no/python",), version=(3, 12)), no_words, never)


@pytest.mark.parametrize(
    "state", ["", "[]", '{"done": []}', '{"done": {"dev": 1}}', '{"done": {"runtime": 1}, "busy": true}']
)
def test_an_environment_that_is_not_whole(installed, state):
    installation = installed()
    installation.run(PYTHON, no_words, never)
    (installation.folder / ".venv" / "s2mesh.json").write_text(state)
    assert not installation.is_installed


def test_where_it_is_and_what_it_costs(tmp_path):
    assert find_installation(None, tmp_path).folder == default_folder(tmp_path) == tmp_path / "server"
    assert find_installation(tmp_path / "mine").folder == tmp_path / "mine"
    plan = Installation(tmp_path / "not" / "there").plan("cuda")
    assert (
        plan.fits == (plan.free_gb >= 10) and "3 GB" in " ".join(plan.words()) and str(plan.folder) in plan.words()[1]
    )
    assert Installation(tmp_path).plan("cpu").room_gb == 3


def test_the_sizes_are_those_of_the_installer():
    text = (ROOT / "packaging" / "install_plan.py").read_text() + (ROOT / "packaging" / "installing.py").read_text()
    assert '"about 3 GB" if build == "cuda" else "about 200 MB"' in text and "about 300 MB" in text
    assert 'ROOM_GB = {"cpu": 3, "cuda": 10}' in text


def test_the_real_repository(tmp_path):
    """As a release archive of the present commit; `--help` installs nothing."""
    packed = tmp_path / "release.zip"
    made = subprocess.run(
        ["git", "archive", "--format=zip", "--prefix=s2mesh-main/", "-o", str(packed), "HEAD"],
        cwd=ROOT,
        capture_output=True,
    )
    if made.returncode:
        pytest.skip("not a git checkout")
    fetch(packed, tmp_path / "server", should_stop=never, progress=no_words)
    installation, lines = Installation(tmp_path / "server"), []
    assert installation.has_files and installation.version
    installation.run(PYTHON, lines.append, never, verb="--help")
    assert lines[0].startswith("usage: python3 packaging/run.py") and not (tmp_path / "server" / ".venv").exists()
    assert (tmp_path / "server" / "core" / "weights").is_dir()


# --- Pythons ---


def fake_python(folder, name, says):
    path = folder / name
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="shell scripts")
def test_the_best_python_is_taken(tmp_path, monkeypatch):
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    monkeypatch.setattr(install_python.sys, "executable", "")
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(InstallFailed, match="no 64-bit Python 3.10 to 3.13") as error:
        find_python()
    assert error.value.remedy
    fake_python(bin_folder, "python3", "echo '[[3, 14], true, []]'")
    fake_python(bin_folder, "python3.12", "echo '[[3, 12], true, [\"ensurepip\"]]'")
    fake_python(bin_folder, "python3.10", "echo 'Python was not found; install it from the Store'; exit 1")
    with pytest.raises(InstallFailed, match="python3.12 is Python 3.12 without ensurepip; python3 is Python 3.14"):
        find_python()
    fake_python(bin_folder, "python3.13", "echo '[[3, 13], true, []]'")
    assert find_python() == FoundPython(command=("python3.13",), version=(3, 13))
    fake_python(bin_folder, "python3.11", "echo '[[3, 11], true, []]'")
    assert find_python().version == (3, 11)


def test_real_pythons():
    here = probe((sys.executable,))
    assert here.version == sys.version_info[:2] and not here.problem
    assert candidates()[-1] == (sys.executable,)
    assert probe(("/no/such/python",)).problem == "does not run"
    assert find_python(sys.executable).command == (sys.executable,)


def test_the_artists_choice_stands_alone(tmp_path):
    with pytest.raises(InstallFailed, match="There is no program"):
        find_python(str(tmp_path / "python"))
    with pytest.raises(InstallFailed, match="no 64-bit Python"):
        find_python(str(fake_python(tmp_path, "python", "exit 3")))
