"""The shape of the repository: what lies at the top, how long files are, how heavy the tree is, what ruff says."""

import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import VERBS

ROOT = Path(__file__).resolve().parents[2]
TOP_LEVEL = {"blender_addon", "server", "core", "tests", "packaging", "README.md", "pyproject.toml", "LICENSE"}
LONGEST_FILE = 350  # lines
WEIGHTS_MB, WEIGHT_FILE_MB, GOLDEN_MB, TREE_MB = 36, 16, 12, 56  # the tree travels to a GPU machine


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def megabytes(paths) -> float:
    return sum(path.stat().st_size for path in paths) / 1e6


def test_nothing_but_the_agreed_entries_at_the_top():
    entries = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in entries if not name.startswith(".")} <= TOP_LEVEL


def test_folders_that_bear_a_library_s_name_are_no_packages():
    """packaging/__init__.py would hide the library `packaging`; tests/**/__init__.py would let tests/core be `core`."""
    assert not [path for part in ("packaging", "tests") for path in (ROOT / part).rglob("__init__.py")]


def test_no_file_is_too_long():
    sources = [path for path in tracked() if path.suffix == ".py"]
    lengths = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").count("\n") for path in sources}
    assert not {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE}


def test_the_tree_is_light():
    files = tracked()
    weights = [path for path in files if path.is_relative_to(ROOT / "core" / "weights")]
    assert megabytes(files) < TREE_MB
    assert megabytes(weights) < WEIGHTS_MB
    assert all(megabytes([path]) < WEIGHT_FILE_MB for path in weights)
    assert megabytes(path for path in files if path.is_relative_to(ROOT / "tests" / "golden")) < GOLDEN_MB


def test_ruff_is_content():
    result = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_the_readme_names_every_verb(verb):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"s2mesh {verb}" in text or f"run.py {verb}" in text or f"`{verb}`" in text
