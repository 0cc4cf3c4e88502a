"""The real worker with the tiny presets, and with faults that a test asks for.

    python tests/support/tiny_worker.py --device cpu --dtype float32 --models-dir DIR

A file `fault.json` in its working folder (the server's data directory), `{"kind": ..., "stage": ...}`, is read at the
start and after each step of a job: at that stage the fault happens. Kinds: `slow` (each step of the stage takes
0.3 s), `hang` (for ever, deaf to cancels), `stop` (the whole process stands still), `die` (SIGKILL), `garbage` (on the
event pipe), `memory` and `device` (what torch raises), `deny` (cannot start), `die_at_start`, `no_room` (files may not
grow beyond a few bytes).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FAULT = Path("fault.json")


def fault_for(stage: str | None) -> str | None:
    """The kind of fault that shall happen at ``stage`` (None: at the start)."""
    try:
        fault = json.loads(FAULT.read_text())
    except (OSError, ValueError):
        return None
    return fault["kind"] if fault.get("stage") == stage else None


def happen(kind: str) -> None:
    import torch

    if kind == "slow":
        time.sleep(0.3)
    elif kind == "hang":
        while FAULT.exists():
            time.sleep(0.05)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif kind in ("die", "die_at_start"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "memory":
        raise torch.OutOfMemoryError("Tried to allocate 40.00 GiB. More words of torch.")
    elif kind == "device":
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...")
    elif kind == "no_room":
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from core.config import presets
    from tests.support.tiny_presets import TINY, TINY_TWO

    presets.PRESETS.clear()
    presets.PRESETS.update({"tiny": TINY, "tiny-two": TINY_TWO})
    from server.worker import __main__ as worker
    from server.worker import engine

    start = fault_for(None)
    if start == "deny":
        sys.argv += ["--device", "cuda:99"]
    elif start is not None:
        happen(start)
    real_progress = engine._Job._progress

    def progress(self, event):
        real_progress(self, event)
        kind = fault_for(event.stage)
        if kind == "garbage":
            self._send.__self__._events.write(b"Segmentation fault (core dumped)\n")
            time.sleep(60)
        elif kind is not None:
            happen(kind)

    engine._Job._progress = progress
    return worker.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
