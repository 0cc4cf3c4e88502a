"""The runner of tests/in_blender tells a Blender that passed from one that crashed, hung or left something behind.

Blender's part is played by a script, so this needs none.
"""

import importlib
import os
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "tests" / "in_blender"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups; the checks run on Linux")


@pytest.fixture
def processes(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("processes")


@pytest.fixture
def play(processes, monkeypatch, tmp_path):
    """Runs a check whose Blender does what the code says, after ``told`` lines of results."""

    def run(code: str, *told: str, limit_s: float = 60):
        lines = "".join(line + "\n" for line in told)
        (tmp_path / "bootstrap.py").write_text(
            "import json, os, signal, subprocess, sys, time\n"
            f"open(json.loads(sys.argv[1])['results'], 'a').write({lines!r})\n" + textwrap.dedent(code)
        )
        monkeypatch.setattr(processes, "HERE", tmp_path)
        check = processes.Check(
            path=Path("check_x.py"), server=None, fresh=False, settings={}, limit_s=limit_s, tests=("test_x",)
        )
        folder = tmp_path / "run"
        environment = processes.environment_for(folder, folder / "home")
        heard = []
        outcome = processes.run_check(Path(sys.executable), check, None, {}, folder, environment, heard.append)
        assert heard == outcome.results
        return outcome

    return run


OK = '{"name": "test_x", "outcome": "ok", "detail": "", "s": 0.1}'
BAD = '{"name": "test_x", "outcome": "FAILED", "detail": "why", "s": 0.1}'
DONE = "{}"


def test_a_process_that_passed_and_ended(play):
    outcome = play("", OK, DONE)
    assert outcome.problem is None and outcome.failed == 0 and outcome.results[0]["name"] == "test_x"


def test_a_test_that_failed(play):
    outcome = play("sys.exit(1)", OK, BAD, DONE)
    assert outcome.problem is None and outcome.failed == 1


@pytest.mark.parametrize(
    ("code", "told", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", (OK, DONE), "SIGSEGV at its exit"),  # 4.2 with a class that stays
        ("os.kill(os.getpid(), signal.SIGSEGV)", (OK,), "SIGSEGV in a test"),
        ("os._exit(0)", (OK,), "ended in a test, with status 0"),
        ("os._exit(0)", (BAD, DONE), "ended with status 0"),
        ("sys.exit(1)", (OK, DONE), "ended with status 1"),
    ],
)
def test_a_process_that_ended_badly(play, code, told, words):
    outcome = play(code, *told)
    assert words in outcome.problem and outcome.failed == 1 + told.count(BAD)


def test_a_test_that_hangs_is_ended(play):
    assert "still runs after 2 s" in play("time.sleep(600)", OK, limit_s=2).problem


def test_an_exit_that_hangs_is_ended(play, processes, monkeypatch):
    monkeypatch.setattr(processes, "END_S", 1.0)  # 4.5 with a class that stays
    assert "does not end after its last test" in play("time.sleep(600)", OK, DONE).problem


def test_a_child_that_stays_is_named_and_ended(play, processes, monkeypatch):
    monkeypatch.setattr(processes, "FOLLOW_S", 1.0)
    outcome = play("subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(601)'])", OK, DONE)
    assert "left running" in outcome.problem and "601" in outcome.problem


def test_no_folder_of_the_user_is_in_reach(processes, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("BLENDER_USER_SCRIPTS", "/elsewhere")
    environment = processes.environment_for(tmp_path / "run", tmp_path / "home")
    assert not {"PYTHONPATH", "BLENDER_USER_SCRIPTS", "VIRTUAL_ENV"} & set(environment)
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "BLENDER_USER_RESOURCES", "TMPDIR"):
        assert Path(environment[name]).is_relative_to(tmp_path) and Path(environment[name]).is_dir()
    data_dir = processes.data_dir_in(tmp_path / "home")
    if sys.platform == "linux":
        assert data_dir == Path(environment["XDG_DATA_HOME"], "s2mesh")


def test_a_check_describes_itself(processes, tmp_path):
    path = tmp_path / "check_x.py"
    constants = "SETTINGS = {'limits': {'queue': 1}}\nLIMIT_S = 9\n"
    path.write_text(f"import bpy\n{constants}def test_b(): pass\ndef test_a(): pass\n")
    check = processes.read_check(path)
    assert (check.server, check.fresh, check.limit_s, check.tests) == ("tiny", True, 9, ("test_b", "test_a"))
    assert check.settings == {"limits": {"queue": 1}}
    path.write_text("SERVER = None\n")
    check = processes.read_check(path)
    assert (check.server, check.fresh, check.tests) == (None, False, ())
    path.write_text("SERVER = 'real'\n")
    with pytest.raises(ValueError, match="real"):
        processes.read_check(path)


def test_every_check_file_can_be_read_and_has_tests(processes):
    paths = sorted(FOLDER.glob("check_*.py"))
    assert paths and all(processes.read_check(path).tests for path in paths)


def test_filters_choose_files_tests_and_words(processes, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))  # run.py prepends
    spec = importlib.util.spec_from_file_location("in_blender_run", FOLDER / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    for name, tests in (("check_a", ("test_one", "test_two")), ("check_b", ("test_one",))):
        (tmp_path / f"{name}.py").write_text("".join(f"def {test}(): pass\n" for test in tests))
    paths = sorted(tmp_path.iterdir())

    def chosen(filters: list[str], word: str | None = None) -> dict[str, list[str] | None]:
        return {check.path.stem: tests for check, tests in run.select(paths, filters, word)}

    assert chosen([]) == {"check_a": None, "check_b": None}
    assert chosen(["check_b"]) == chosen(["tests/in_blender/check_b.py"]) == {"check_b": None}
    assert chosen(["check_a::test_two"]) == {"check_a": ["test_two"]}
    assert chosen([], "one") == {"check_a": ["test_one"], "check_b": None}
    assert chosen(["check_c"]) == chosen(["check_a::test_three"]) == chosen([], "four") == {}
