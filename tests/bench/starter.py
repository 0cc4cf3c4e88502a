"""The starter preset on the shipped pictures: seconds of each stage, and peak memory.

    python -m tests.bench.starter [--json] [--threads N] [IMAGE ...]

Each picture is made by the command itself in a process of its own, so that loading counts and memory is its own.
The bound (60 s on two cores, 3 GiB) is printed beside the numbers; nothing passes or fails here.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MAX_SECONDS, MAX_BYTES = 60, 3 * 2**30


def measure(image: Path, preset: str, threads: int) -> dict[str, Any]:
    """What ``generate --json`` says of one picture, and the seconds of the whole process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "server.cli", "generate", str(image.resolve())]
        command += ["-o", str(Path(folder) / "shape.glb"), "--preset", preset, "--device", "cpu", "--json", "--quiet"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - started
    facts = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {"image": str(image), "error": "see above"}
    return {**facts, "process_seconds": round(seconds, 2), "threads": threads}


def as_line(facts: dict[str, Any]) -> str:
    name = Path(facts["image"]).name
    if "error" in facts:
        return f"{name}: failed: {facts['error']}"
    stages = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in facts["timings"].items())
    tokens = sum(facts["tokens"].values())
    return (
        f"{name}: {facts['process_seconds']:.1f} s (bound {MAX_SECONDS}), "
        f"{facts['peak_memory_bytes'] / 2**30:.2f} GiB (bound {MAX_BYTES / 2**30:.0f}), {tokens} tokens; {stages}"
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.starter", description=__doc__.split("\n")[0])
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="default: packaging/examples")
    parser.add_argument("--preset", default="starter")
    parser.add_argument("--threads", type=int, default=2, help="of torch (default: 2)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a picture")
    arguments = parser.parse_args(argv)
    images = arguments.images or sorted((ROOT / "packaging" / "examples").glob("*.png"))
    failed = False
    for image in images:
        facts = measure(image, arguments.preset, arguments.threads)
        failed |= "error" in facts
        print(json.dumps(facts) if arguments.json else as_line(facts), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
