"""``s2mesh train-starter``: train the starter preset on generated shapes, resumable, on a CPU or a GPU."""

import argparse
import sys
from pathlib import Path

from core.cli.errors import run_reporting
from core.config.training import PHASES, RECIPES


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh train-starter",
        description="Train the starter preset on procedurally generated shapes. Run it again to go on where it "
        "stopped; finished networks lie in RUN/starter and are used by `s2mesh generate --models-dir RUN`.",
    )
    add = parser.add_argument
    add("--run", type=Path, default=Path("runs/starter"), help="folder of states, log and weights (%(default)s)")
    add("--recipe", choices=tuple(RECIPES), default="cpu", help="sizes of the run (%(default)s)")
    add("--phases", nargs="+", default=list(PHASES), metavar="PHASE", help=f"of {', '.join(PHASES)} (all)")
    add("--minutes", type=float, default=float("inf"), help="stop, resumably, after this long")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    add("--seed", type=int, default=0, help="of shapes, weights and noise (%(default)s)")
    add("--pool", type=Path, help="training data of another run")
    add("--no-compile", action="store_true", help="do not compile the shape evaluation")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Train; status 0 when the phases are finished, 3 when the time was up before."""
    options = build_parser().parse_args(argv)
    from core.pipeline.devices import resolve_device
    from core.training.starter import StarterTraining

    training = StarterTraining(
        folder=options.run,
        recipe=RECIPES[options.recipe],
        device=resolve_device(options.device),
        seed=options.seed,
        compile=not options.no_compile,
        pool_folder=options.pool,
        report=lambda line: print("  ".join(f"{k} {v}" for k, v in line.items()), flush=True),
    )
    finished = training.run(tuple(options.phases), options.minutes * 60)
    print(f"weights: {training.weights}" if finished else "time is up; run the same command again to go on")
    return 0 if finished else 3


if __name__ == "__main__":
    sys.exit(run_reporting(main))
