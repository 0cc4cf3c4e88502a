"""What keeps a tree from being released is found: each rule is broken once, in a copy."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "packaging" / "check_release.py"
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="reads TOML with Python 3.11's own module")
MANIFEST = "blender_addon/blender_manifest.toml"


@pytest.fixture
def check(load):
    return load("check_release")


@pytest.fixture
def tree(tmp_path):
    """A copy of what is looked at, outside of git."""
    for name in ("pyproject.toml", "LICENSE", "core/__init__.py", MANIFEST, "blender_addon/LICENSE"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / "blender_addon" / "__init__.py").write_text("")
    return tmp_path


def change(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text("utf-8")
    assert old in text
    (tree / name).write_text(text.replace(old, new), encoding="utf-8")


def git(tree: Path, *arguments: str) -> None:
    given = ("user.name=x", "user.email=x@example.org", "commit.gpgsign=false", "tag.gpgsign=false")
    settings = [word for setting in given for word in ("-c", setting)]
    subprocess.run(["git", "-C", tree, *settings, *arguments], check=True, capture_output=True)


def version_of(tree: Path) -> str:
    return re.search(r'"(.+)"', (tree / "core" / "__init__.py").read_text("utf-8").split("__version__")[1])[1]


def test_this_tree_is_fit(check, tree):
    assert check.problems(tree) == []
    found = [line for line in check.problems(ROOT) if "no part of the extension" not in line]
    assert found == []  # strays may be somebody's work in progress; the release job builds from a clean checkout


def test_no_stray_file_is_tracked(check):
    listed = subprocess.run(["git", "ls-files", "blender_addon"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    strays = {f"blender_addon/{path.as_posix()}" for path in check.stray_files(ROOT / "blender_addon")}
    assert not strays & set(listed.stdout.split())


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("core/__init__.py", '__version__ = "', '__version__ = "9', "core.__version__ is 9"),
        ("core/__init__.py", '__version__ = "', '__version__ = "dev', "three numbers"),
        (MANIFEST, '\nversion = "', '\nversion = "9', "the manifest has version 9"),
        (MANIFEST, 'id = "s2mesh"', 'id = "mesh"', "manifest's id"),
        (MANIFEST, '"4.2.0"', '"4.3.0"', "blender_version_min"),
        (MANIFEST, "GPL-3.0-or-later", "MIT", "license"),
        (MANIFEST, "clipboard = ", "camera = ", "asks for"),
        (MANIFEST, 'network = "', 'network = "' + 60 * "x", "64 are allowed"),
        (MANIFEST, 'on this machine"\nfiles', 'on this machine."\nfiles', "closing bracket"),
        (MANIFEST, 'files = "', 'files = " ', "space"),
        (MANIFEST, '"2026 ', '"', "YEAR NAME"),
        (MANIFEST, "[permissions]", 'wheels = ["./x.whl"]\n[permissions]', "one zip serves all"),
        ("pyproject.toml", 'attr = "core.__version__"', 'attr = "server.__version__"', "does not take its version"),
        ("pyproject.toml", 'license = "MIT"', 'license = "GPL-3.0-or-later"', "MIT"),
        ("LICENSE", "MIT License", "My licence", "LICENSE is not"),
        ("blender_addon/LICENSE", "GNU GENERAL", "GNU LESSER GENERAL", "blender_addon/LICENSE is not"),
    ],
)
def test_each_rule_can_be_broken(check, tree, name, old, new, words):
    change(tree, name, old, new)
    found = check.problems(tree)
    assert any(words in line for line in found), found


def test_a_stray_file_is_named(check, tree):
    (tree / "blender_addon" / "notes.txt").write_text("to do")
    assert check.problems(tree) == ["blender_addon/notes.txt is no part of the extension"]


def test_a_tag_on_this_commit_must_be_this_version(check, tree):
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "x")
    assert check.problems(tree) == []
    git(tree, "tag", f"v{version_of(tree)}")
    git(tree, "tag", "v0.0.9")  # an older one counts no more
    git(tree, "tag", "draft-77")
    assert check.problems(tree) == []
    git(tree, "tag", "v0.10.0")  # newer than 0.9 by number, not by letter
    git(tree, "tag", "v0.9.0")
    assert check.problems(tree) == [f"this commit is tagged v0.10.0, core.__version__ is {version_of(tree)}"]


def test_the_zip_is_held_against_the_tree(check, tree, tmp_path):
    folder = tree / "blender_addon"
    archive = tree / f"s2mesh-{version_of(tree)}.zip"
    files = {path.name: path.read_bytes() for path in folder.iterdir()}

    def pack(**changed: bytes | None) -> list[str]:
        with zipfile.ZipFile(archive, "w") as content:
            for name, data in {**files, **{name.replace("_py", ".py"): data for name, data in changed.items()}}.items():
                if data is not None:
                    content.writestr(name, data)
        return check.problems(tree, archive)

    assert pack() == []
    assert pack(LICENSE=None) == [f"{archive.name} lacks LICENSE"]
    assert pack(token=b"secret") == [f"{archive.name} has token, which is no part of the extension"]
    assert pack(__init___py=b"old") == [f"__init__.py in {archive.name} is not the file of this tree"]
    other = archive.rename(tree / "s2mesh-0.0.1.zip")
    assert any("does not bear" in line for line in check.problems(tree, other))


def test_the_command_tells_and_returns_a_status(tmp_path):
    result = subprocess.run([sys.executable, SCRIPT, "--zip", SCRIPT], capture_output=True, text=True)
    assert result.returncode == 2 and "is no zip file" in result.stderr and result.stderr.count("\n") == 1
