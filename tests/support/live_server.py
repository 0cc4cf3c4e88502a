"""A real server in a process of its own, with the tiny presets and a real worker, for tests over a real socket."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import requests
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # for things that must happen; nothing is timed


def wait_for(happened: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true answer of ``happened``; fails the test when there is none in time."""
    deadline = time.monotonic() + patience_s
    while not (answer := happened()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return answer


def picture_bytes(shade: int = 200) -> bytes:
    """A small PNG of a box on a transparent background."""
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[10:30, 10:40] = (shade, 80, 40, 255)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


class LiveServer:
    """One server process and what a client needs to speak to it.

    Args:
        data_dir: its data directory.
        models_dir: where the tiny presets' weights are.
        settings: fields of ServerSettings, with `limits` and `worker` as dictionaries; see tiny_server.py.
    """

    def __init__(self, data_dir: Path, models_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        data_dir.mkdir(exist_ok=True)
        worker = {"models_dir": str(models_dir), **settings.pop("worker", {})}
        self._given = {"data_dir": str(data_dir), "worker": worker, "grace_s": 30, **settings}
        self.session = requests.Session()
        self.session.trust_env = False
        self.process: subprocess.Popen | None = None
        self.log = data_dir.parent / f"{data_dir.name}.log"

    # --- the process ---

    def start(self) -> "LiveServer":
        (self.data_dir / "server.json").unlink(missing_ok=True)  # of one that was killed
        script = ROOT / "tests" / "support" / "tiny_server.py"
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(script), json.dumps(self._given)],
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        wait_for(lambda: (self.data_dir / "server.json").exists() or self.process.poll() is not None, "the server")
        assert self.process.poll() is None, self.log.read_text()
        self.url = json.loads((self.data_dir / "server.json").read_text())["url"]
        self.token = (self.data_dir / "token").read_text().strip()
        self.session.headers["Authorization"] = f"Bearer {self.token}"
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and waits for the end; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> "LiveServer":
        return self.start()

    def __exit__(self, *exception: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        self.session.close()

    # --- requests ---

    def get(self, path: str, **more: Any) -> requests.Response:
        return self.session.get(self.url + path, timeout=PATIENCE_S, **more)

    def post(self, path: str, **more: Any) -> requests.Response:
        return self.session.post(self.url + path, timeout=PATIENCE_S, **more)

    def submit(self, picture: bytes | None = None, key: str | None = None, **options: Any) -> requests.Response:
        """Sends a job."""
        files = {"image": ("box.png", picture_bytes() if picture is None else picture, "image/png")}
        headers = {"Idempotency-Key": key} if key else {}
        return self.post("/v1/jobs", files=files, data={"options": json.dumps(options)}, headers=headers)

    def queued(self, **options: Any) -> str:
        """Sends a job that must be taken; returns its id."""
        answer = self.submit(**options)
        assert answer.status_code == 202, answer.text
        return answer.json()["id"]

    def job(self, job_id: str, after: int | None = None) -> dict[str, Any]:
        answer = self.get(f"/v1/jobs/{job_id}" + ("" if after is None else f"?after={after}"))
        assert answer.status_code == 200, answer.text
        return answer.json()

    def ready(self) -> dict[str, Any]:
        """The document of /v1/ready, also where it is the details of a refusal."""
        content = self.get("/v1/ready").json()
        return content["error"]["details"] if "error" in content else content

    # --- waiting ---

    def finished(self, job_id: str) -> dict[str, Any]:
        """The job once nothing more will come."""
        return self.in_state(job_id, "succeeded", "failed", "cancelled")

    def in_state(self, job_id: str, *states: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            return job if job["state"] in states else None

        return wait_for(look, f"job {job_id} to be {' or '.join(states)}; log: {self.log}")

    def in_stage(self, job_id: str, stage: str) -> dict[str, Any]:
        """The running job at that stage."""

        def look() -> dict[str, Any] | None:
            job = self.job(job_id)
            assert job["state"] in ("queued", "running"), job
            return job if job["stage"] == stage else None

        return wait_for(look, f"stage {stage}")

    def worker_idle(self) -> dict[str, Any]:
        return wait_for(lambda: (r := self.ready())["worker"]["state"] == "idle" and r, "an idle worker")

    # --- faults of the worker; see tiny_worker.py ---

    def fault(self, kind: str, stage: str | None = None) -> None:
        partial = self.data_dir / "fault.partial"
        partial.write_text(json.dumps({"kind": kind, "stage": stage}))
        partial.replace(self.data_dir / "fault.json")

    def no_fault(self) -> None:
        (self.data_dir / "fault.json").unlink(missing_ok=True)


def assert_refused(answer: requests.Response, status: int, code: str) -> dict[str, Any]:
    """The one shape of errors; returns the inner object."""
    assert answer.status_code == status, (answer.status_code, answer.text[:500])
    assert answer.headers["Content-Type"] == "application/json"
    content = answer.json()
    assert content.keys() == {"error"} and content["error"].keys() == {"code", "message", "details"}
    assert content["error"]["code"] == code and len(content["error"]["message"]) > 10, content
    return content["error"]
