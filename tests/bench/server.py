"""What the server costs: beside the same generation in process, under 200 polling clients, and between two jobs.

    python -m tests.bench.server [--json] [--image IMAGE] [--rounds N] [--clients N]

A real server with the starter preset on this machine's CPU. Prints, with the bounds that issue 3 sets:

- seconds from sending a picture to having its mesh, over the seconds of the worker's engine called in process on the
  same picture with the same files written (rounds take turns; medians), and over `generate` with one GLB alone;
- latency of `GET /v1/jobs/{id}?after=N` at the 50th and 99th percentile, while a job runs on all cores and the
  clients ask once a second each;
- milliseconds from the end of a job to the first progress of the next one.

Nothing passes or fails here.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from server.client import Client
from server.data_dir import DataDir
from server.settings import THREADS

ROOT = Path(__file__).parents[2]
MAX_OVERHEAD, MAX_P99_MS, MAX_GAP_MS = 0.03, 20.0, 100.0
SEED = 7
_IN_PROCESS = """
import json, sys, time
from pathlib import Path
from core.config.generation import GenerationOptions
from core.geometry.export import mesh_bytes
from core.pipeline.image_to_shape import generate
from server.worker.engine import Engine
from server.worker.protocol import Run

events = []
engine = Engine("cpu", "float32", None, events.append)
engine.warm_up()
for line in sys.stdin:
    order = json.loads(line)
    started = time.perf_counter()
    if order["bare"]:
        options = GenerationOptions(seed=order["options"]["seed"])
        mesh = generate(Path(order["source"]).read_bytes(), engine._load("starter"), options).mesh
        (Path(order["folder"]) / "mesh.glb").write_bytes(mesh_bytes(mesh, "glb"))
    else:
        del order["bare"]
        events.clear()
        engine.run(Run(**order))
        assert type(events[-1]).__name__ == "Done", events[-1]
    print(time.perf_counter() - started, flush=True)
"""


class InProcess:
    """The engine in a process of its own, without a server."""

    def __init__(self, image: Path, folder: Path) -> None:
        self._image, self._folder = image, folder
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_PROCESS],
            cwd=ROOT,
            env={**THREADS, **os.environ},  # as every command of s2mesh has it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, options: dict[str, Any], *, bare: bool) -> float:
        order = {"source": str(self._image), "folder": str(self._folder), "options": options, "bare": bare}
        order |= {"job_id": "0" * 32, "title": "bench", "max_bytes": 2**31}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def served_seconds(client: Client, image: Path) -> tuple[float, dict[str, Any]]:
    """From the picture to the mesh's bytes, and the job."""
    started = time.perf_counter()
    job = client.wait(client.submit(image, {"seed": SEED})["id"])
    client.artifact(job["id"], "mesh.glb")
    return time.perf_counter() - started, job


def overhead(client: Client, image: Path, rounds: int, folder: Path) -> dict[str, Any]:
    """Medians of turns taken by server, engine and bare generation."""
    local = InProcess(image, folder)
    _, job = served_seconds(client, image)  # warms both sides up
    local.seconds(job["options"], bare=False)
    turns: dict[str, list[float]] = {"served": [], "engine": [], "bare": []}
    for _ in range(rounds):
        turns["served"].append(served_seconds(client, image)[0])
        turns["engine"].append(local.seconds(job["options"], bare=False))
        turns["bare"].append(local.seconds(job["options"], bare=True))
    local.close()
    medians = {name: statistics.median(values) for name, values in turns.items()}
    return {
        **{f"{name}_s": round(value, 3) for name, value in medians.items()},
        "over_engine": round(medians["served"] / medians["engine"] - 1, 4),
        "over_bare": round(medians["served"] / medians["bare"] - 1, 4),
        "spread_s": {name: round(max(values) - min(values), 3) for name, values in turns.items()},
    }


async def _poll(host: str, port: int, head: str, job_id: str, delay_s: float, until: float) -> list[float]:
    """One client on one connection: milliseconds of each answer."""
    reader, writer = await asyncio.open_connection(host, port)
    await asyncio.sleep(delay_s)
    taken, after = [], 0
    while time.monotonic() < until:
        started = time.perf_counter()
        writer.write(f"GET /v1/jobs/{job_id}?after={after} HTTP/1.1\r\n{head}\r\n\r\n".encode())
        headers = await reader.readuntil(b"\r\n\r\n")
        assert headers.startswith(b"HTTP/1.1 200"), headers
        length = int(headers.lower().partition(b"content-length:")[2].split()[0])
        content = json.loads(await reader.readexactly(length))
        taken.append(1000 * (time.perf_counter() - started))
        after = content["last_event"]
        await asyncio.sleep(max(0.0, 1.0 - (time.perf_counter() - started)))
    writer.close()
    return taken


def latency(client: Client, data_dir: Path, image: Path, clients: int) -> dict[str, Any]:
    """Of `clients` that poll once a second each, during one job."""
    info = DataDir(data_dir).read_info()
    host, port = info["url"].removeprefix("http://").split(":")
    head = f"Host: {host}:{port}\r\nAuthorization: Bearer {DataDir(data_dir).token()}"
    jobs = [client.submit(image, {"seed": SEED})["id"] for _ in range(2)]
    until = time.monotonic() + 10.0

    async def everybody() -> list[list[float]]:
        delays = [number / clients for number in range(clients)]
        return await asyncio.gather(*(_poll(host, int(port), head, jobs[0], delay, until) for delay in delays))

    taken = sorted(value for values in asyncio.run(everybody()) for value in values)
    still = client.job(jobs[1])["state"]
    for job_id in jobs:
        client.wait(job_id)
    return {
        "clients": clients,
        "answers": len(taken),
        "p50_ms": round(taken[len(taken) // 2], 2),
        "p99_ms": round(taken[int(len(taken) * 0.99)], 2),
        "max_ms": round(taken[-1], 2),
        "a_job_ran_all_the_time": still in ("queued", "running"),
    }


def gaps(client: Client, image: Path, count: int) -> dict[str, Any]:
    """Between the end of a job and the first progress of the next, which was waiting."""
    ids = [client.submit(image, {"seed": SEED})["id"] for _ in range(count + 1)]
    jobs = [client.wait(job_id) for job_id in ids]
    taken = []
    for before, after in zip(jobs[:-1], jobs[1:], strict=True):
        first = next(e for e in client.job(after["id"], after=0)["events"] if e["type"] == "progress")
        taken.append(1000 * (_seconds(first["at"]) - _seconds(before["finished_at"])))
    return {"jobs": count, "median_ms": round(statistics.median(taken), 1), "max_ms": round(max(taken), 1)}


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.server", description=__doc__.split("\n")[0])
    parser.add_argument("--image", type=Path, default=ROOT / "packaging" / "examples" / "mug.png")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        command = [sys.executable, "-m", "server.cli", "serve", "--port", "0", "--device", "cpu"]
        server = subprocess.Popen([*command, "--data-dir", str(folder / "data"), "--log", "json"], cwd=ROOT)
        try:
            while DataDir(folder / "data").read_info() is None:
                time.sleep(0.1)
            client = Client(data_dir=folder / "data")
            (folder / "results").mkdir()
            report = {"overhead": overhead(client, arguments.image, arguments.rounds, folder / "results")}
            report["latency"] = latency(client, folder / "data", arguments.image, arguments.clients)
            report["gap"] = gaps(client, arguments.image, 3)
        finally:
            server.terminate()
            server.wait()
    report["bounds"] = {"over_engine": MAX_OVERHEAD, "p99_ms": MAX_P99_MS, "gap_ms": MAX_GAP_MS}
    if arguments.json:
        print(json.dumps(report))
        return 0
    for name, facts in report.items():
        print(f"{name}: {facts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
