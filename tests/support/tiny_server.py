"""The real server with the tiny presets, for a process of its own.

    python tests/support/tiny_server.py SETTINGS [--parent-pid PID]

SETTINGS is JSON: fields of ServerSettings, with `limits` and `worker` as objects; `no_room` limits the size of files
that the web process may write, as a full disk would; `tiny_release` adds a preset that can be downloaded.
"""

import json
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from core.config import presets
    from tests.support.tiny_presets import TINY, TINY_TWO

    presets.PRESETS.clear()
    presets.PRESETS.update({"tiny": TINY, "tiny-two": TINY_TWO})

    from core.cli.errors import run_reporting
    from server.commands.serve import serve
    from server.logs import set_up_logging
    from server.settings import Limits, ServerSettings, WorkerSettings

    given = json.loads(sys.argv[1])
    if "--parent-pid" in sys.argv:
        given["parent_pid"] = int(sys.argv[sys.argv.index("--parent-pid") + 1])
    if given.pop("tiny_release", False):
        from tests.support import tiny_release

        tiny_release.know_release()
        given["models_command"] = (sys.executable, tiny_release.__file__)
    if room := given.pop("no_room", None):
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    worker = {"device": "cpu", "dtype": "float32", **given.pop("worker", {})}
    worker["command"] = (sys.executable, str(ROOT / "tests" / "support" / "tiny_worker.py"))
    worker["models_dir"] = Path(worker["models_dir"])
    limits = Limits(**given.pop("limits", {}))
    settings = ServerSettings(
        **{"preset": "tiny", "port": 0, **given, "data_dir": Path(given["data_dir"])},
        limits=limits,
        worker=WorkerSettings(**worker),
    )
    set_up_logging("text", verbose=True)
    return run_reporting(lambda: serve(settings, show_token=True))


if __name__ == "__main__":
    sys.exit(main())
