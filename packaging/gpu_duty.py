#!/usr/bin/env python3
"""What is done on a borrowed GPU machine that has its own Python with torch and no network.

    python3 packaging/gpu_duty.py --all --wheels .whl --reference .reference/Direct3D-S2 --out OUT
    python3 packaging/gpu_duty.py --tests --bench ssa --out OUT
    python3 packaging/gpu_duty.py --train 20 --phases dense_dit sparse_dit --run runs/gpu --out OUT

Each duty runs in its own process and within its own time, so that one that fails or hangs does not stop the next; exit
status 1 if any failed. Results are copied into OUT (default: the variable OUT): `duty.json` with status, seconds and
the last lines of each duty, the GPU's results file (put it into tests/bench/results and run `python -m
tests.bench.report`), the training log and the weights. Standard library only. Nothing is installed but, with --wheels
FOLDER, the wheels of that folder, into a folder of their own. The machine has torch, Triton, numpy, scipy,
scikit-image, transformers, safetensors, pytest and einops; it lacks trimesh, libigl, platformdirs and
fast-simplification.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SITE = Path("/tmp/s2mesh-wheels")
RESULTS = ROOT / "tests" / "bench" / "results"
LARGEST_FILE = 16 * 2**20  # bytes that one returned file may have
KEPT_LINES = 40
LEAST_SECONDS = 2  # with less no duty is started
KERNEL_BENCHES = ("ssa", "conv", "block")  # they know --minutes and keep their results themselves
OTHER_BENCHES = ("extraction", "starter", "server", "blender_import")
SHARE = {
    "parity": 0.1,
    "tests": 0.35,
    "ssa": 0.4,
    "conv": 0.12,
    "block": 0.15,
    "report": 0.05,
}  # of all minutes, at most
LEAST_TRAINING = 1.0  # minutes
TEST_PROCESSES = 6  # compiling kernels is what takes the time
DESCRIBE = """
import json, sys, torch, triton
p = torch.cuda.get_device_properties(0)
print(json.dumps({"gpu": p.name, "memory_gb": p.total_memory / 1e9, "capability": [p.major, p.minor],
                  "torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}))
"""


class Duty(NamedTuple):
    """One process to run."""

    name: str
    command: Callable[[float], list[str]]  # from the minutes that it has; empty: not worth starting
    share: float = 1.0  # of all minutes, at most


def main(argv: Sequence[str] | None = None) -> int:
    options = build_parser().parse_args(argv)
    if options.out is None:
        sys.exit("gpu_duty: error: name a folder for the results with --out, or in the variable OUT")
    options.out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.minutes * 60
    environment = environment_of(options)
    if options.wheels:
        environment["PYTHONPATH"] += os.pathsep + str(install_wheels(options.wheels))
    record = {"machine": describe(environment), "duties": []}
    for duty in duties(options, record["machine"]):
        seconds = min(deadline - time.monotonic(), duty.share * options.minutes * 60)
        command = duty.command(seconds / 60)
        if not command or seconds < LEAST_SECONDS:
            record["duties"].append({"duty": duty.name, "status": None, "why": "no time was left"})
        else:
            entry, output = perform(duty.name, command, environment, seconds)
            if duty.name.startswith("bench "):
                entry["rows"] = json_lines(output)
            record["duties"].append(entry)
        (options.out / "duty.json").write_text(json.dumps(record, indent=1))  # after each: the lease may end
        keep_results(results_folder(options), options.out)
        if duty.name == "train" and command:
            keep_training(options.run, options.out)
    return 1 if any(entry["status"] for entry in record["duties"]) else 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, prog="gpu_duty.py"
    )
    parser.add_argument("--all", action="store_true", help="parity, tests, kernel benchmarks, then training")
    parser.add_argument("--tests", action="store_true", help="tests/gpu, and the kernels' tests, on the GPU")
    parser.add_argument("--parity", action="store_true", help="the golden tensors of tests/golden, on the GPU")
    parser.add_argument(
        "--bench", nargs="*", metavar="NAME", choices=(*KERNEL_BENCHES, *OTHER_BENCHES),
        help=f"benchmarks (none named: {', '.join(KERNEL_BENCHES)}; also {', '.join(OTHER_BENCHES)})",
    )  # fmt: skip
    parser.add_argument("--train", type=float, metavar="MINUTES", help="train the starter preset for so long")
    parser.add_argument("--recipe", default="gpu", help="of the training (%(default)s)")
    parser.add_argument("--phases", nargs="+", default=[], help="of the training (all)")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "gpu", help="folder of the training (%(default)s)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of packages that the machine lacks")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="checkout of the authors' repository")
    parser.add_argument("--quick", action="store_true", help="benchmarks at tiny sizes, also without a GPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="stop whatever runs after this long (%(default)s)")
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(out) if out else None, help="folder of results ($OUT)")
    return parser


def environment_of(options: argparse.Namespace) -> dict[str, str]:
    """The variables of every duty: kernels run on the GPU, never in Triton's interpreter."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("TRITON_INTERPRET", None)
    if options.reference:
        environment["DIRECT3D_S2_REFERENCE"] = str(options.reference.resolve())
    return environment


def duties(options: argparse.Namespace, machine: dict) -> list[Duty]:
    """Everything that was asked for: what tells most comes first, training takes what is left."""
    python, found = sys.executable, []
    if options.parity or options.all:
        golden = sorted(map(str, (ROOT / "tests" / "golden").glob("*.safetensors*")))
        command = [python, "-m", "core.cli.parity", *golden, "--device", "cuda"]
        found.append(Duty("parity", lambda _: command, SHARE["parity"]))
    if options.tests or options.all:
        found.append(Duty("tests", lambda _: test_command(), SHARE["tests"]))
    if options.bench is not None or options.all:
        names = options.bench or KERNEL_BENCHES
        for name in names:
            found.append(Duty(f"bench {name}", bench_command(name, options, machine), SHARE.get(name, 1.0)))
        if "gpu" in machine and not options.quick and set(names) & set(KERNEL_BENCHES):
            found.append(Duty("report", lambda _: [python, "-m", "tests.bench.report"], SHARE["report"]))
    if options.train is not None or options.all:
        found.append(Duty("train", lambda minutes: train_command(options, minutes)))
    return found


def test_command() -> list[str]:
    """The tests that mean something on a GPU."""
    kernels = ROOT / "tests" / "core" / "ops" / "kernels"
    command = [sys.executable, "-m", "pytest", "-q", "tests/gpu", str(kernels.relative_to(ROOT))]
    command += [f"--ignore={kernels.relative_to(ROOT) / 'test_offline_compile.py'}"]  # it needs no GPU
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(TEST_PROCESSES)]
    # The machine's own packages may warn of what ours do not: warnings are no errors there.
    return [*command, "-W", "default", "-p", "no:cacheprovider"]


def bench_command(name: str, options: argparse.Namespace, machine: dict) -> Callable[[float], list[str]]:
    """The command of one benchmark, from its minutes."""
    command = [sys.executable, "-m", f"tests.bench.{name}", "--json"]
    if name not in KERNEL_BENCHES:
        return lambda _: command
    if "gpu" in machine:
        command += ["--device", "cuda"]
    if options.quick:
        command += ["--quick"]
    command += ["--backward", "--results", str(results_folder(options))]
    return lambda minutes: [*command, "--minutes", f"{0.8 * minutes:.2f}"]  # the case that runs then ends


def results_folder(options: argparse.Namespace) -> Path:
    """Where benchmarks merge what they measured; tiny sizes stay out of the repository."""
    return options.out if options.quick else RESULTS


def train_command(options: argparse.Namespace, minutes: float) -> list[str]:
    """Training for the minutes that were asked for, or those that are left."""
    wanted = minutes - 0.5 if options.train is None else options.train
    if options.train is None and wanted < LEAST_TRAINING:
        return []
    train = [sys.executable, "-m", "core.cli.train_starter", "--device", "cuda", "--recipe", options.recipe]
    train += ["--minutes", f"{wanted:.2f}", "--run", str(options.run)]
    return [*train, *(["--phases", *options.phases] if options.phases else [])]


def perform(name: str, command: Sequence[str], environment: dict, seconds: float) -> tuple[dict, str]:
    """Runs one duty until it ends or ``seconds`` are up, printing what it prints; (its entry, its whole output)."""
    print(f"== {name}: {' '.join(command)}", flush=True)
    started, lines = time.monotonic(), []
    with subprocess.Popen(
        ["timeout", "--signal=INT", "--kill-after=20", str(max(1, int(seconds))), *command],
        cwd=ROOT,
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    status = process.returncode
    if name == "train" and status == 3:  # its time was up, as planned
        status = 0
    took = round(time.monotonic() - started, 1)
    print(f"== {name}: status {status} after {took} s", flush=True)
    return {"duty": name, "status": status, "seconds": took, "last_lines": lines[-KEPT_LINES:]}, "\n".join(lines)


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


def keep_results(folder: Path, out: Path) -> None:
    """A copy of the results files in ``out``: one for each device."""
    if folder != out and folder.is_dir():
        for path in folder.glob("*.json"):
            shutil.copy(path, out / path.name)


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
