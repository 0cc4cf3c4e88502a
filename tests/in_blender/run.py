"""Runs the check files of this folder in real Blenders, against a real server.

    python tests/in_blender/run.py --zip ZIP --blender 5.0=PYTHON_WITH_BPY [--blender ...] [FILTER...] [-k WORD]

`python3 packaging/run.py test-blender` makes the Blenders, builds the zip and calls this with the main environment's
Python. FILTER is a check file (`check_importer`, with or without folder and `.py`) or `check_importer::test_name`.
How a check file is written stands in harness.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT)]

from processes import Check, data_dir_in, environment_for, read_check, run_check  # noqa: E402 (beside this file)
from servers import Server  # noqa: E402

QUIET = ("install", "import", "reset", "disable")  # steps that are told only when they fail


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--zip", type=Path, required=True, help="the built extension")
    parser.add_argument("--blender", action="append", required=True, metavar="X.Y=PYTHON", help="a Python with bpy")
    parser.add_argument("--keep", action="store_true", help="keep logs, folders of Blender and server data")
    parser.add_argument("-k", metavar="WORD", help="only tests with this word in file or name")
    parser.add_argument("filters", nargs="*", metavar="FILTER", help="check_file or check_file::test_name")
    given = parser.parse_args(arguments)
    checks = select(sorted(HERE.glob("check_*.py")), given.filters, given.k)
    if not checks:
        print("s2mesh: error: no check matches. They are tests/in_blender/check_*.py.", file=sys.stderr)
        return 2
    work = Path(tempfile.mkdtemp(prefix="s2mesh-in-blender-"))
    runs = [Run(name, Path(python), given.zip.absolute(), work) for name, python in map(parse_blender, given.blender)]
    try:
        failed = sum([run.all(checks) for run in runs])  # a list: one failure does not end the others
        for run in runs:
            print(f"Blender {run.name}: {run.passed} passed, {run.failed} failed, {run.skipped} skipped, {run.s:.0f} s")
        return 1 if failed else 0
    finally:
        if given.keep:
            print(f"kept: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)


def parse_blender(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if not python or not Path(python).exists():
        raise SystemExit(f"s2mesh: error: --blender {text}: there is no such Python. It is X.Y=PATH.")
    return name, python


def select(paths: list[Path], filters: list[str], word: str | None) -> list[tuple[Check, list[str] | None]]:
    """The check files that are asked for, each with the names of its tests (None: all)."""
    chosen = []
    wanted = [(Path(text.partition("::")[0]).stem, text.partition("::")[2]) for text in filters]
    for path in paths:
        if filters and path.stem not in {stem for stem, _ in wanted}:
            continue
        check = read_check(path)
        names = {name for stem, name in wanted if stem == path.stem}
        tests = [test for test in check.tests if not names or "" in names or test in names]
        tests = [test for test in tests if not word or word in test or word in path.stem]
        if tests:
            chosen.append((check, None if len(tests) == len(check.tests) else tests))
    return chosen


class Run:
    """All checks in one Blender."""

    def __init__(self, name: str, python: Path, archive: Path, work: Path) -> None:
        self.name, self.python, self.archive = name, python, archive
        self.folder, self.models = work / name, work / "models"
        self.passed = self.failed = self.skipped = 0
        self.s = 0.0
        self._servers: dict[str, Server] = {}

    def all(self, checks: list[tuple[Check, list[str] | None]]) -> int:
        """Runs them and returns how many tests failed."""
        started = time.monotonic()
        print(f"Blender {self.name}", flush=True)
        try:
            for check, tests in checks:
                self.one(check, tests)
        finally:
            for server in self._servers.values():
                end(server)
            self.s = time.monotonic() - started
        return self.failed

    def one(self, check: Check, tests: list[str] | None) -> None:
        print(f"  {check.path.name}", flush=True)
        folder = self.folder / check.path.stem
        shared = check.server if check.server and not check.fresh else None
        home = self.folder / shared / "home" if shared else folder / "home"
        environment = environment_for(folder, home)
        server = self.server_for(check, home)
        task: dict[str, Any] = {"zip": str(self.archive), "server": asdict(server) if server else None}
        try:
            outcome = run_check(self.python, check, tests, task, folder, environment, self.tell)
        finally:
            if server and not shared:
                end(server)
        if outcome.problem:
            self.failed += 1
            print(f"    FAILED  the process: {outcome.problem}. The end of its log:")
            text = (folder / "log.txt").read_text(errors="replace").rstrip().splitlines()
            text = [line for line in text if not line.startswith("PROGRESS ")]  # of Blender's downloads
            print("\n".join(f"      {line}" for line in text[-60:]), flush=True)
        elif outcome.failed and os.environ.get("S2MESH_SHOW_LOG"):
            print((folder / "log.txt").read_text(errors="replace"), flush=True)

    def tell(self, result: dict[str, Any]) -> None:
        outcome = result["outcome"]
        if result["name"] in QUIET and outcome != "FAILED":
            return
        self.passed += outcome == "ok"
        self.failed += outcome == "FAILED"
        self.skipped += outcome == "skipped"
        reason = f" ({result['detail']})" if outcome == "skipped" else ""
        print(f"    {outcome:7s} {result['name']} {result['s']:.1f} s{reason}", flush=True)
        if outcome == "FAILED":
            print("\n".join(f"      {line}" for line in result["detail"].splitlines()), flush=True)

    def server_for(self, check: Check, home: Path) -> Server | None:
        """The server that a check wants beside it, running."""
        if check.server is None:
            return None
        if not check.fresh and (server := self._servers.get(check.server)):
            return server if server.alive else server.start()
        data_dir = data_dir_in(home)
        data_dir.mkdir(parents=True, exist_ok=True)
        command = self.tiny(data_dir, check.settings) if check.server == "tiny" else starter(data_dir)
        server = Server(command=command, data_dir=str(data_dir), log=str(home / "server.log")).start()
        if not check.fresh:
            self._servers[check.server] = server
        return server

    def tiny(self, data_dir: Path, settings: dict[str, Any]) -> list[str]:
        if not self.models.exists():
            from tests.support.tiny_models import save_tiny_weights
            from tests.support.tiny_presets import TINY, TINY_TWO

            for preset in (TINY, TINY_TWO):
                save_tiny_weights(preset, self.models)
        worker = {**settings.get("worker", {}), "models_dir": str(self.models)}
        given = {"grace_s": 5, **settings, "data_dir": str(data_dir), "worker": worker, "parent_pid": os.getpid()}
        return [sys.executable, str(ROOT / "tests" / "support" / "tiny_server.py"), json.dumps(given)]


def starter(data_dir: Path) -> list[str]:
    """`s2mesh serve` as a user has it."""
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from server.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ("serve", "--data-dir", str(data_dir), "--port", "0", "--device", "cpu", "--grace", "5")
    return [sys.executable, "-c", start, *options, "--parent-pid", str(os.getpid())]


def end(server: Server) -> None:
    """Ends it and whatever a check started in its place; --parent-pid ends what this misses."""
    server.no_fault()
    try:
        server.kill()
    except (AssertionError, OSError, ValueError) as error:
        print(f"    the server could not be ended: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
