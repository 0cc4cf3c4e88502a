"""A generation server beside Blender, for the checks: started by the runner, killed and started again by a check.

Used on both sides, so standard library only: the runner (Python of the main environment) starts it, and a check in
Blender gets one that is running.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0  # for things that must happen; nothing is timed


def wait_for(happened: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true answer of ``happened``."""
    deadline = time.monotonic() + patience_s
    while not (answer := happened()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.02)
    return answer


@dataclass(kw_only=True)
class Server:
    """One server by its data directory; whoever holds this may start and end its process.

    Attributes:
        command: starts it.
        data_dir: where it writes `server.json`, `token` and `fault.json` is read (see tests/support/tiny_worker.py).
        log: a file that gets its output.
    """

    command: list[str]
    data_dir: str
    log: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    # --- the process ---

    def start(self) -> Server:
        """Starts it and waits for its address; in a session of its own, so that no check's end takes it along."""
        Path(self.data_dir).mkdir(parents=True, exist_ok=True)
        self._info.unlink(missing_ok=True)  # of one that was killed
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BLENDER"))}
        with open(self.log, "a") as log:
            process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env={"OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )
        wait_for(lambda: self._info.exists() or process.poll() is not None, "the server's address")
        assert process.poll() is None, f"the server ended:\n{Path(self.log).read_text()[-2000:]}"
        self._process = process  # kept, or Python would warn of a child that nobody waits for
        return self

    def kill(self) -> None:
        """Ends it as a crash would, at once; its worker goes with it."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends it as `s2mesh serve` ends on Ctrl+C."""
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        if self.alive:
            os.kill(self.pid, number)
            wait_for(lambda: not self.alive, "the end of the server")

    @property
    def alive(self) -> bool:
        """True while it answers; a process that nobody has waited for yet may still have its number."""
        try:
            with _plain.open(self.url + "/v1/health", timeout=5):
                return True
        except (OSError, ValueError):
            return False

    # --- what clients need ---

    @property
    def _info(self) -> Path:
        return Path(self.data_dir, "server.json")

    @property
    def url(self) -> str:
        return json.loads(self._info.read_text())["url"]

    @property
    def pid(self) -> int:
        return json.loads(self._info.read_text())["pid"]

    @property
    def token(self) -> str:
        return Path(self.data_dir, "token").read_text().strip()

    def get(self, path: str) -> Any:
        """The JSON of a route."""
        request = urllib.request.Request(self.url + path, headers={"Authorization": f"Bearer {self.token}"})
        with _plain.open(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    # --- faults of the tiny worker ---

    def fault(self, kind: str, stage: str | None = None) -> None:
        """From now on, at that stage (None: at the worker's start); kinds: see tests/support/tiny_worker.py."""
        partial = Path(self.data_dir, "fault.partial")
        partial.write_text(json.dumps({"kind": kind, "stage": stage}))
        partial.replace(Path(self.data_dir, "fault.json"))

    def no_fault(self) -> None:
        Path(self.data_dir, "fault.json").unlink(missing_ok=True)


_plain = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a check may have set HTTP_PROXY
