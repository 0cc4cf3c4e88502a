"""Where the Blenders of `test-blender` come from: pins, a Python 3.11, folders that are not ours. Installs nothing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "packaging" / "test_blender.py"


@pytest.fixture
def environments(load):
    return load("bpy_environments")


def test_versions_are_those_with_pins_in_order_of_number(environments, tmp_path, monkeypatch):
    assert environments.known_versions() == ["4.2", "4.5", "5.0"]
    for name in ("bpy-4.5.txt", "bpy-4.10.txt", "common.txt"):
        (tmp_path / name).touch()
    monkeypatch.setattr(environments, "CONSTRAINTS", tmp_path)
    assert environments.known_versions() == ["4.5", "4.10"]


@pytest.mark.parametrize("version", ["4.2", "4.5", "5.0"])
def test_everything_is_pinned(environments, version):
    lines = [line for line in environments.pins(version).splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    assert len(pinned) == len(lines) and pinned["bpy"].startswith(version + ".")
    assert {"numpy", "requests"} <= set(pinned)  # what the extension imports


def test_a_variable_names_another_folder(environments, monkeypatch, tmp_path):
    assert environments.folder_of("4.5") == ROOT / ".venv.bpy-4.5" or "S2MESH_BPY_4_5" in os.environ
    monkeypatch.setenv("S2MESH_BPY_4_5", str(tmp_path))
    assert environments.folder_of("4.5") == tmp_path and environments.existing("4.5") is None


def test_a_folder_that_is_not_ours_is_left_alone(environments, monkeypatch, tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    monkeypatch.setenv("S2MESH_BPY_5_0", str(folder))
    with pytest.raises(environments.SetupError, match="has no bpy 5.0.*S2MESH_BPY_5_0"):
        environments.ensure("5.0")
    assert (folder / "thesis.txt").exists()


def stand_in(environments, folder: Path, version: str) -> Path:
    """A virtual environment whose `bpy` is an empty package with Blender's folder beside it."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = environments.python_of(folder)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    (packages / "bpy" / version / "scripts").mkdir(parents=True)
    (packages / "bpy" / "__init__.py").write_text("raise SystemExit('bpy was imported')")
    return python


def test_an_environment_counts_when_it_has_this_bpy_by_these_pins(environments, monkeypatch, tmp_path):
    python = stand_in(environments, tmp_path / "venv", "5.0")
    for version in ("4.5", "5.0"):
        monkeypatch.setenv(environments.variable_of(version), str(tmp_path / "venv"))
    assert environments.existing("4.5") is None
    assert environments.existing("5.0") == python  # somebody's own: taken as it is
    for state, counts in (
        ({"ours": True, "busy": True}, False),  # cut off
        ({"ours": True, "pins": "bpy==5.0.0\n"}, False),
        ({"ours": True, "pins": environments.pins("5.0")}, True),
    ):
        (tmp_path / "venv" / "s2mesh.json").write_text(json.dumps(state))
        assert (environments.existing("5.0") == python) == counts, state


def test_without_python_3_11_it_says_where_to_get_it(environments, monkeypatch):
    monkeypatch.setattr(environments, "is_python", lambda candidate: False)
    with pytest.raises(environments.SetupError) as raised:
        environments.find_python()
    for word in ("3.11", "python3.11-venv", "winget", "brew", "S2MESH_BPY_5_0"):
        assert word in str(raised.value)


def test_a_blender_that_does_not_start_names_the_libraries(environments, tmp_path):
    python = stand_in(environments, tmp_path / "venv", "5.0")  # its bpy refuses to be imported
    with pytest.raises(environments.SetupError, match="does not start: bpy was imported. .*libxrender1"):
        environments.require_start(python, "5.0")


def test_the_workflows_install_the_libraries_that_are_named(environments):
    for name in ("ci.yml", "release.yml"):
        text = (ROOT / ".github" / "workflows" / name).read_text("utf-8").replace("\\\n", " ")
        assert " ".join(environments.LIBRARIES.split()) in " ".join(text.split()), name


def test_the_workflow_tests_every_version_that_has_pins(environments):
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "blender: [" + ", ".join(f'"{version}"' for version in environments.known_versions()) + "]" in text


def test_ci_run_tries_the_oldest_and_the_newest_version(environments):
    oldest, *_, newest = environments.known_versions()
    assert f"test-blender {oldest} {newest}\n" in (ROOT / ".ci" / "run").read_text("utf-8")


def test_a_python_is_tried_before_it_is_taken(environments, tmp_path):
    assert environments.is_python(sys.executable) == (sys.version_info[:2] == (3, 11))
    assert not environments.is_python(str(tmp_path / "missing"))


@pytest.mark.parametrize("arguments", [["3.3"], ["5.0", "--zip", "no-such.zip"], ["--nonsense"]])
def test_wrong_words_are_refused_before_anything_is_made(arguments, tmp_path):
    environment = {**os.environ, "S2MESH_BPY_5_0": str(tmp_path / "venv")}
    result = subprocess.run([sys.executable, RUN, *arguments], env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
