#!/usr/bin/env python3
"""What is done on a borrowed GPU machine that has its own Python with torch and no network.

    python3 packaging/gpu_duty.py --tests --parity --bench --out OUT
    python3 packaging/gpu_duty.py --train 20 --phases dense_dit sparse_dit --run runs/gpu --out OUT

Each duty runs in its own process, so that one that fails does not stop the next; exit status 1 if any failed.
Results are copied into OUT (default: the variable OUT): `duty.json` with status, seconds and the last lines of
each duty, benchmark results, the training log and the weights. Standard library only. Nothing is installed but,
with --wheels FOLDER, the wheels of that folder, into a folder of their own.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SITE = Path("/tmp/s2mesh-wheels")
LARGEST_FILE = 16 * 2**20  # bytes that one returned file may have
KEPT_LINES = 40
DESCRIBE = """
import json, sys, torch, triton
p = torch.cuda.get_device_properties(0)
print(json.dumps({"gpu": p.name, "memory_gb": p.total_memory / 1e9, "capability": [p.major, p.minor],
                  "torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}))
"""


def main() -> int:
    options = build_parser().parse_args()
    if options.out is None:
        sys.exit("gpu_duty: error: name a folder for the results with --out, or in the variable OUT")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.minutes * 60
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    if options.wheels:
        environment["PYTHONPATH"] += os.pathsep + str(install_wheels(options.wheels))
    record = {"machine": describe(environment), "duties": []}
    for name, command in duties(options, record["machine"]):
        entry, output = perform(name, command, environment, deadline)
        if name.startswith("bench "):
            entry["rows"] = json_lines(output)
        record["duties"].append(entry)
        (options.out / "duty.json").write_text(json.dumps(record, indent=1))  # after each: the lease may end
    if options.bench is not None:
        keep_bench(record, options.out)
    if options.train is not None:
        keep_training(options.run, options.out)
    return 1 if any(entry["status"] for entry in record["duties"]) else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Run tests, benchmarks and training on a borrowed GPU machine.")
    parser.add_argument("--tests", action="store_true", help="tests/gpu, and all tests marked gpu")
    parser.add_argument("--parity", action="store_true", help="the golden tensors of tests/golden, on the GPU")
    parser.add_argument("--bench", nargs="*", metavar="NAME", help="benchmarks of tests/bench (none named: all)")
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train the starter preset for so long")
    parser.add_argument("--recipe", default="gpu", help="of the training (%(default)s)")
    parser.add_argument("--phases", nargs="+", default=[], help="of the training (all)")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "gpu", help="folder of the training (%(default)s)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of packages that the machine lacks")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop whatever runs after this long (%(default)s)")
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(out) if out else None, help="folder of results ($OUT)")
    return parser


def duties(options: argparse.Namespace, machine: dict) -> list[tuple[str, list[str]]]:
    """Name and command of everything that was asked for, short duties first."""
    python, found = sys.executable, []
    if options.parity:
        golden = sorted(map(str, (ROOT / "tests" / "golden").glob("*.safetensors")))
        found.append(("parity", [python, "-m", "core.cli.parity", *golden, "--device", "cuda"]))
    if options.tests:
        # The machine's own packages may warn of what ours do not: warnings are no errors there.
        found.append(("tests", [python, "-m", "pytest", "-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider"]))
    if options.bench is not None:
        files = [path for path in sorted((ROOT / "tests" / "bench").glob("*.py")) if not path.stem.startswith("_")]
        for path in files:
            if not options.bench or path.stem in options.bench:
                device = ["--device", "cuda"] if "--device" in path.read_text() and "gpu" in machine else []
                found.append((f"bench {path.stem}", [python, "-m", f"tests.bench.{path.stem}", "--json", *device]))
    if options.train is not None:
        train = [python, "-m", "core.cli.train_starter", "--device", "cuda", "--recipe", options.recipe]
        train += ["--minutes", str(options.train), "--run", str(options.run)]
        found.append(("train", [*train, *(["--phases", *options.phases] if options.phases else [])]))
    return found


def perform(name: str, command: Sequence[str], environment: dict, deadline: float) -> tuple[dict, str]:
    """Runs one duty until it ends or time is up, printing what it prints; (its entry, its whole output)."""
    print(f"== {name}: {' '.join(command)}", flush=True)
    started, lines = time.monotonic(), []
    process = subprocess.Popen(
        ["timeout", "--signal=INT", "--kill-after=20", str(max(1, int(deadline - started))), *command],
        cwd=ROOT,
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip())
    status = process.wait()
    if name == "train" and status == 3:  # its time was up, as planned
        status = 0
    if name == "tests" and status == 5:  # no test is marked gpu yet
        status = 0
    seconds = round(time.monotonic() - started, 1)
    print(f"== {name}: status {status} after {seconds} s", flush=True)
    entry = {"duty": name, "status": status, "seconds": seconds, "last_lines": lines[-KEPT_LINES:]}
    return entry, "\n".join(lines)


def install_wheels(folder: Path) -> Path:
    """Unpacks the wheels of ``folder`` where only our duties see them."""
    wheels = sorted(map(str, folder.glob("*.whl")))
    if not wheels:
        sys.exit(f"gpu_duty: error: {folder} holds no wheels")
    flags = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade"]
    subprocess.run([sys.executable, "-m", "pip", "install", *flags, "--target", str(SITE), *wheels], check=True)
    return SITE


def describe(environment: dict) -> dict:
    """What the results were measured on."""
    result = subprocess.run([sys.executable, "-c", DESCRIBE], env=environment, capture_output=True, text=True)
    return json.loads(result.stdout) if result.returncode == 0 else {"problem": result.stderr.strip()[-300:]}


def json_lines(output: str) -> list:
    """The JSON objects among the lines that a benchmark printed."""
    rows = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def keep_bench(record: dict, out: Path) -> None:
    """One file per GPU in tests/bench/results, and a copy in ``out``."""
    name = re.sub(r"[^a-z0-9]+", "-", record["machine"].get("gpu", "cpu").lower()).strip("-")
    rows = {entry["duty"].removeprefix("bench "): entry.get("rows") for entry in record["duties"] if "rows" in entry}
    target = ROOT / "tests" / "bench" / "results" / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({"machine": record["machine"], "results": rows}, indent=1) + "\n")
    shutil.copy(target, out / f"bench-{name}.json")


def keep_training(run: Path, out: Path) -> None:
    """Weights and log of the run, each file that is small enough to come back."""
    kept = out / "starter"
    kept.mkdir(exist_ok=True)
    for path in sorted({*run.glob("starter/*.safetensors"), *run.glob("*.jsonl")}):
        if path.stat().st_size <= LARGEST_FILE:
            shutil.copy(path, kept / path.name)
        else:
            print(f"== {path.name} is too large to come back ({path.stat().st_size / 1e6:.0f} MB)", flush=True)


if __name__ == "__main__":
    sys.exit(main())
