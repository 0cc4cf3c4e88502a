"""Runs one check file in Blender: installs the zip, calls the tests, disables the extension, ends.

    PYTHON_WITH_BPY tests/in_blender/bootstrap.py TASK

TASK is JSON from run.py, which reads the results from a file, a JSON object a line: what Blender prints goes elsewhere.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


def main(task: dict[str, Any]) -> int:
    faulthandler.enable()
    faulthandler.dump_traceback_later(task["limit_s"])  # just before the runner kills us: says where we hang
    with open(task["results"], "a", encoding="utf-8") as results:

        def attempt(name: str, work: Callable[[], object]) -> bool:
            started, outcome, detail = time.monotonic(), "ok", ""
            print(f"--- {name}", flush=True)
            try:
                work()
            except harness.Skipped as reason:
                outcome, detail = "skipped", str(reason)
            except BaseException as error:  # a test's sys.exit is a failure too
                outcome, detail = "FAILED", shown(error)
            taken = round(time.monotonic() - started, 2)
            result = {"name": name, "outcome": outcome, "detail": detail, "s": taken}
            print(json.dumps(result), file=results, flush=True)
            return outcome != "FAILED"

        import bpy  # noqa: F401 (the start of Blender; its own modules can be imported after it alone)
        import harness

        harness.zip_path = Path(task["zip"])
        harness.work = Path(task["work"])
        harness.server = harness.Server(**task["server"]) if task["server"] else None
        fine = attempt("install", harness.install)
        if fine:
            loaded: list[ModuleType] = []
            fine = attempt("import", lambda: loaded.append(load(Path(task["check"]))))
            for test in tests_of(loaded[0]) if fine else ():
                if task["tests"] is None or test.__name__ in task["tests"]:
                    fine &= attempt("reset", harness.reset) and attempt(test.__name__, test)
        if harness.is_enabled():
            fine &= attempt("disable", harness.disable)
        print("{}", file=results, flush=True)  # what follows is the end of the process
    return 0 if fine else 1


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def tests_of(module: ModuleType) -> list[Callable[[], object]]:
    """In the order of the file."""
    return [value for name, value in vars(module).items() if name.startswith("test_") and callable(value)]


def shown(error: BaseException) -> str:
    """The traceback without this file's own frames."""
    entries = traceback.TracebackException.from_exception(error)
    own = [frame for frame in entries.stack if frame.filename != __file__]
    entries.stack = traceback.StackSummary.from_list(own)
    return "".join(entries.format()).rstrip()


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
