"""The table of verbs: help at once, mistakes answered with a hint, errors as one line and a status."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core import __version__
from core.cli.errors import DEBUG_VARIABLE
from server import cli

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def verb(monkeypatch):
    """Puts a verb `probe` in the table whose module has the given main."""
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)

    def install(main):
        monkeypatch.setitem(cli.VERBS, "probe", cli.Verb("probe_module", "a probe"))
        monkeypatch.setitem(sys.modules, "probe_module", SimpleNamespace(main=main))

    return install


@pytest.mark.parametrize("argument", ["--help", "-h", "help"])
def test_help_lists_every_verb(argument, capsys):
    assert cli.main([argument]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and entry.help in out for name, entry in cli.VERBS.items())


def test_nothing_asked_prints_the_usage_to_the_error_stream(capsys):
    assert cli.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("usage: s2mesh")


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"s2mesh {__version__}\n"


@pytest.mark.parametrize(("typed", "hint"), [("genrate", "Did you mean 'generate'?"), ("xyz", "Known: generate, ")])
def test_an_unknown_verb_is_answered_with_a_hint(typed, hint, capsys):
    assert cli.main([typed]) == 2
    assert hint in capsys.readouterr().err


def test_a_verb_gets_its_arguments_and_gives_the_status(verb):
    seen = []
    verb(lambda argv: seen.append(argv) or 7)
    assert cli.main(["probe", "a", "--b=c"]) == 7
    assert seen == [["a", "--b=c"]]


@pytest.mark.parametrize("arguments", [["--debug", "probe", "x"], ["probe", "x", "--debug"]])
def test_debug_may_stand_first_or_last(arguments, verb, monkeypatch, capsys):
    monkeypatch.setenv(DEBUG_VARIABLE, "")  # restored afterwards

    def main(argv):
        raise ZeroDivisionError(argv)

    verb(main)
    assert cli.main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "unexpected ZeroDivisionError: ['x']" in error


@pytest.mark.parametrize("name", cli.VERBS)
def test_help_of_a_verb_loads_no_torch(name):
    code = f"""
import sys
from server.cli import main
try:
    main([{name!r}, "--help"])
except SystemExit as stop:
    assert not stop.code
print("heavy:", *{{"torch", "transformers", "trimesh", "scipy"}} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("usage: ") and name.replace("-", "_") in result.stdout.replace("-", "_")
    assert result.stdout.rstrip().endswith("heavy:")
