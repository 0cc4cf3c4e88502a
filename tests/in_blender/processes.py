"""One check file in one Blender: a process with a limit, and what it told. The runner's side."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
FOLLOW_S = 10.0  # for what Blender started, to see that Blender is gone
END_S = 30.0  # for the end of the process once the last test is done: 4.5 waits for ever where something stays
CONSTANTS = {"SERVER": "tiny", "FRESH": False, "SETTINGS": None, "LIMIT_S": 300}


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check file as it describes itself."""

    path: Path
    server: str | None
    fresh: bool
    settings: dict[str, Any]
    limit_s: float
    tests: tuple[str, ...]


def read_check(path: Path) -> Check:
    """Reads names and constants without running the file, which needs Blender."""
    found, tests = dict(CONSTANTS), []
    for statement in ast.parse(path.read_text(encoding="utf-8"), str(path)).body:
        if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_"):
            tests.append(statement.name)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
            if name in CONSTANTS:
                found[name] = ast.literal_eval(statement.value)
    if found["SERVER"] not in ("tiny", "starter", None):
        raise ValueError(f"{path}: SERVER is {found['SERVER']!r}")
    return Check(
        path=path,
        server=found["SERVER"],
        fresh=bool(found["FRESH"] or found["SETTINGS"]),
        settings=found["SETTINGS"] or {},
        limit_s=found["LIMIT_S"],
        tests=tuple(tests),
    )


@dataclass(kw_only=True)
class Outcome:
    """What one process told and how it ended."""

    results: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None  # of the process itself

    @property
    def failed(self) -> int:
        return sum(result["outcome"] == "FAILED" for result in self.results) + (self.problem is not None)


def run_check(
    python: Path,
    check: Check,
    tests: list[str] | None,
    task: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    tell: Callable[[dict[str, Any]], None],
) -> Outcome:
    """Runs the file's tests; ``tell`` hears of each as it ends. Leaves no process of it alive."""
    outcome, results, log = Outcome(), folder / "results.jsonl", folder / "log.txt"
    work = folder / "work"
    work.mkdir(parents=True)
    results.touch()
    task = {**task, "check": str(check.path), "tests": tests, "results": str(results), "work": str(work)}
    task["limit_s"] = check.limit_s - min(5.0, check.limit_s / 10)
    with log.open("w") as output:
        process = subprocess.Popen(
            [python, HERE / "bootstrap.py", json.dumps(task)],
            env=environment,
            cwd=work,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # the group is what must be gone at the end
        )
    deadline, done = time.monotonic() + check.limit_s, False
    try:
        with results.open(encoding="utf-8") as lines:
            while True:
                ended = process.poll() is not None  # asked before reading: then nothing that was written is missed
                while (line := lines.readline()).endswith("\n"):
                    result = json.loads(line)
                    if result:
                        outcome.results.append(result)
                        tell(result)
                    else:
                        done, deadline = True, min(deadline, time.monotonic() + END_S)
                if ended:
                    break
                if time.monotonic() > deadline:
                    when = "does not end after its last test" if done else f"still runs after {check.limit_s:.0f} s"
                    outcome.problem = f"Blender {when}, and was killed"
                    return outcome
                time.sleep(0.05)
        outcome.problem = how_it_ended(process.returncode, outcome, done) or what_it_left(process.pid)
        return outcome
    finally:
        end_group(process)


def how_it_ended(status: int, outcome: Outcome, done: bool) -> str | None:
    if status < 0:
        name = signal.Signals(-status).name
        return f"Blender died of {name} " + ("at its exit: something stayed registered" if done else "in a test")
    if not done:
        return f"Blender ended in a test, with status {status}"
    if status != (1 if outcome.failed else 0):
        return f"Blender ended with status {status}"
    return None


def what_it_left(group: int) -> str | None:
    """Children that outlive Blender."""
    if os.name != "posix":
        return None
    deadline = time.monotonic() + FOLLOW_S
    while left := group_members(group):
        if time.monotonic() > deadline:
            return f"Blender ended and left running: {', '.join(left)}"
        time.sleep(0.1)
    return None


def group_members(group: int) -> list[str]:
    found = []
    for process in psutil.process_iter(["pid", "status", "cmdline"]):
        try:
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.info["cmdline"] or ["?"])[:120])
        except (ProcessLookupError, PermissionError, psutil.Error):
            continue
    return found


def end_group(process: subprocess.Popen) -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()


def environment_for(folder: Path, home: Path) -> dict[str, str]:
    """Ours with every folder of the user's turned elsewhere, and without what leads another Python astray."""
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "BLENDER_")) and n != "VIRTUAL_ENV"}
    folders = {
        "BLENDER_USER_RESOURCES": folder / "blender",
        "TMPDIR": folder / "tmp",
        "TEMP": folder / "tmp",
        "TMP": folder / "tmp",
        "HOME": home,
        "USERPROFILE": home,
        "XDG_DATA_HOME": home / "data",
        "XDG_CONFIG_HOME": home / "config",
        "XDG_CACHE_HOME": home / "cache",
        "LOCALAPPDATA": home / "data",
        "APPDATA": home / "data",
    }
    for path in folders.values():
        path.mkdir(parents=True, exist_ok=True)
    return {**kept, **{name: str(path) for name, path in folders.items()}, "PYTHONUNBUFFERED": "1"}


def data_dir_in(home: Path) -> Path:
    """Where the extension of a Blender with this home looks for the server's data directory."""
    return home / ("Library/Application Support" if sys.platform == "darwin" else "data") / "s2mesh"
