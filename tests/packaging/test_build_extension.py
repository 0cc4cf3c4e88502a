"""The extension's zip: what goes in, that Blender's own program judges it, what is said without a Blender."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "packaging" / "build_extension.py"
POSIX = pytest.mark.skipif(os.name != "posix", reason="the stand-in for Blender is a shell script")


@pytest.fixture
def build(load):
    return load("build_extension")


@pytest.fixture
def tool(build):
    """Blender's own program."""
    try:
        return build.extension_tool()
    except build.SetupError as error:
        pytest.skip(f"Blender's own program builds the zip: {error}")


@pytest.fixture
def source(tmp_path):
    """A small extension, with much beside it that must not be shipped."""
    folder = tmp_path / "source"
    files = {
        "blender_manifest.toml": (ROOT / "blender_addon" / "blender_manifest.toml").read_text("utf-8"),
        "LICENSE": "text",
        "__init__.py": "def register(): pass\n",
        "panel.py": "",
        "operators/__init__.py": "",
        "operators/jobs.py": "",
        "presets/s2mesh/draft.py": "",
        "examples/batch_folder.py": "",
        "__pycache__/panel.cpython-311.pyc": "cache",
        "operators/__pycache__/jobs.cpython-311.pyc": "cache",
        "notes.txt": "stray",
        ".hidden.py": "stray",
        "tests/test_panel.py": "stray",
        "token": "secret",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
    return folder


def packed(archive: Path) -> list[str]:
    with zipfile.ZipFile(archive) as content:
        return content.namelist()


# What goes in ---------------------------------------------------------------------------------------------


def test_files_are_shipped_by_pattern_and_the_rest_is_named(build, source):
    assert [path.as_posix() for path in build.shipped_files(source)] == [
        "LICENSE",
        "__init__.py",
        "blender_manifest.toml",
        "examples/batch_folder.py",
        "operators/__init__.py",
        "operators/jobs.py",
        "panel.py",
        "presets/s2mesh/draft.py",
    ]
    strays = [path.as_posix() for path in build.stray_files(source)]
    assert strays == [".hidden.py", "notes.txt", "tests/test_panel.py", "token"]


def test_the_zip_holds_what_is_shipped_as_it_is(build, tool, source, tmp_path):
    archive = build.build(tmp_path / "out", tool, source)
    assert archive == tmp_path / "out" / "s2mesh-0.1.0.zip" and os.listdir(archive.parent) == [archive.name]
    assert packed(archive) == [path.as_posix() for path in build.shipped_files(source)]
    with zipfile.ZipFile(archive) as content:
        assert all(content.read(name) == (source / name).read_bytes() for name in content.namelist())


def test_the_same_sources_give_the_same_bytes(build, tool, source, tmp_path):
    first = build.build(tmp_path / "first", tool, source).read_bytes()
    for path in source.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    (source / "panel.py").chmod(0o755)
    assert build.build(tmp_path / "second", tool, source).read_bytes() == first
    (source / "panel.py").write_text("changed = True\n")
    assert build.build(tmp_path / "third", tool, source).read_bytes() != first


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ('blender_version_min = "4.2.0"', 'blender_version_min = "4.2"'),
        ('network = "Talk', 'network = "' + 65 * "x" + "Talk"),
        ('id = "s2mesh"', 'id = "s2-mesh"'),
        ('tags = ["Mesh"', 'tags = ["Mash"'),
    ],
)
def test_what_blender_refuses_is_not_built(build, tool, source, tmp_path, line, wrong):
    manifest = source / "blender_manifest.toml"
    text = manifest.read_text("utf-8")
    assert line in text
    manifest.write_text(text.replace(line, wrong), encoding="utf-8")
    with pytest.raises(build.SetupError, match="refused"):
        build.build(tmp_path / "out", tool, source)
    assert not list((tmp_path / "out").iterdir())


def test_a_repository_names_the_zip_and_its_digest(build, tool, source, tmp_path):
    archive = build.build(tmp_path / "out", tool, source)
    index = json.loads(build.make_repository(tmp_path / "repository", archive, tool).read_text("utf-8"))
    (entry,) = index["data"]
    copy = tmp_path / "repository" / archive.name
    assert entry["archive_url"] == f"./{archive.name}" and entry["archive_size"] == copy.stat().st_size
    assert entry["archive_hash"] == "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    assert (entry["id"], entry["blender_version_min"]) == ("s2mesh", "4.2.0")


def test_the_command_builds_the_real_extension(build, tool, tmp_path):
    command = [sys.executable, SCRIPT, "--output", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.zip")
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert str(archive) in result.stdout and digest in result.stdout
    assert f"{archive.stat().st_size} bytes" in result.stdout


# Which Blender --------------------------------------------------------------------------------------------


def test_without_a_blender_both_ways_to_one_are_told(build, monkeypatch):
    monkeypatch.setattr(build, "existing", lambda version: None)
    monkeypatch.setattr(build, "tool_of", lambda python: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.SetupError) as raised:
        build.extension_tool()
    for word in ("--blender", "pip install bpy==5.0.1", "Python 3.11", "--bpy-python", "test-blender"):
        assert word in str(raised.value)


@POSIX
@pytest.mark.parametrize("says", ["Blender 3.4.1", "Blender 4.1.0", "bash 5.2", ""])
def test_an_old_or_foreign_program_is_refused(build, tmp_path, says):
    program = tmp_path / "blender"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    with pytest.raises(build.SetupError, match="no Blender 4.2 or newer"):
        build.extension_tool(blender=str(program))


@POSIX
def test_a_named_blender_is_asked_without_the_user_s_settings(build, tmp_path):
    program = tmp_path / "blender"
    program.write_text("#!/bin/sh\necho 'Blender 4.2.9 LTS'\n")
    program.chmod(0o755)
    assert build.extension_tool(blender=str(program)) == [
        str(program),
        "--factory-startup",
        "--command",
        "extension",
    ]


def test_wrong_names_end_in_one_line(tmp_path):
    for option, value in (("--blender", "/no/such/blender"), ("--bpy-python", "/no/such/python")):
        command = [sys.executable, SCRIPT, "--output", tmp_path, option, value]
        result = subprocess.run(command, capture_output=True, text=True)
        assert result.returncode == 1 and value in result.stderr
        assert result.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


def test_a_python_without_bpy_is_told_how_to_get_it(build):
    if build.tool_of(sys.executable):
        pytest.skip("this Python has bpy")
    with pytest.raises(build.SetupError, match="pip install bpy"):
        build.extension_tool(bpy_python=sys.executable)
