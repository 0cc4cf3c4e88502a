"""What the approximate options save, and how far the mesh moves: ``python -m tests.bench.accelerations``.

Shapes are those of ``s2mesh evaluate``; each is generated exactly and with every case, from one seed. A mesh is
compared to the exact one (Chamfer distance, F-score at 0.05) and to the true one (F-score at 0.1), all scaled to a
longest side of 2. What is saved is counted in evaluations of a branch of a network, and measured in CPU seconds of this
process inside the networks that walk, which other work on the machine disturbs less than seconds of the clock.

Solvers are also compared apart from meshes, by the dense stage's latents: a mesh of few Euler steps resembles the exact
one in its error too, which a better solver does not have.

"another seed" saves nothing: it says how far a mesh moves for no reason at all. The exact mesh beside itself gives the
distance that comes of comparing points drawn at random.

The numbers are the preset's. The starter is small, trained briefly and predicts samples; nothing follows for others.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from core.checkpoints.installed import find_preset_folder
from core.checkpoints.load import NetworkStore
from core.config.generation import GenerationOptions
from core.config.presets import get_preset
from core.errors import NoSurfaceError
from core.geometry.mesh import Mesh
from core.geometry.metrics import chamfer_and_fscore
from core.imaging.background import remove_background
from core.imaging.load import load_image
from core.imaging.preprocess import preprocess, to_tensor
from core.ops.kept_blocks import KeptBlocks
from core.pipeline import stages
from core.pipeline.evaluation import TestObject, test_objects
from core.pipeline.image_to_shape import Networks, generate

Changes = dict[str, Any]
GUIDED = {"dense_steps": 24, "sparse_steps": 6, "dense_guidance": 3.0, "sparse_guidance": 3.0}
HALF = {"dense_steps": 12, "sparse_steps": 3}
# Setting: what holds for all of its cases, and the cases.
SETTINGS: dict[str, tuple[Changes, dict[str, Changes]]] = {
    "as it comes": (
        {},
        {
            "another seed": {"seed": 1},
            "two thirds of the steps": {"dense_steps": 8, "sparse_steps": 2},
            "the same, multistep": {"dense_steps": 8, "sparse_steps": 2, "solver": "multistep"},
            "half the steps, heun": {"dense_steps": 6, "sparse_steps": 2, "solver": "heun"},
            "guided from 0.9 to 0.3": {"guided_from": 0.9, "guided_until": 0.3},
            "unconditional every 2": {"unconditional_every": 2},
            "selection every 3": {"selection_every": 3},
        },
    ),
    "more steps, guided": (
        GUIDED,
        {
            "another seed": {"seed": 1},
            "half the steps": HALF,
            "the same, multistep": {**HALF, "solver": "multistep"},
            "the same, heun": {**HALF, "solver": "heun"},
            "guided from 0.9": {"guided_from": 0.9},
            "guided until 0.3": {"guided_until": 0.3},
            "unconditional every 2": {"unconditional_every": 2},
            "selection every 2": {"selection_every": 2},
            "selection once": {"selection_every": 100},
            "multistep, half, unconditional and selection every 2": {
                **HALF, "solver": "multistep", "unconditional_every": 2, "selection_every": 2,
            },
        },
    ),
}  # fmt: skip
COLUMNS = (
    "shapes", "dense_evaluations", "sparse_evaluations", "cpu_s", "chamfer_to_exact", "f_05_to_exact",
    "f_10_to_truth", "chamfer_to_truth",
)  # fmt: skip
WALKING = ("dense_dit", "sparse_dit")


class Meter:
    """Evaluations and CPU seconds of the networks that walk; with ``watch`` also how much the choices of blocks agree.

    Watching needs a walk without a ``selection_every`` of its own, and changes nothing in it.
    """

    def __init__(self, networks: Networks, watch: bool = False):
        self.cpu_s = 0.0
        self.evaluations = dict.fromkeys(WALKING, 0)  # of one branch of guidance each
        self.agreements: dict[bool, list[float]] = {True: [], False: []}  # branch -> one Jaccard index a pair of steps
        self._networks, self._watch = networks, watch
        self._choices: dict[bool, list[KeptBlocks]] = {}

    @contextmanager
    def attached(self) -> Iterator["Meter"]:
        """Counts inside the ``with`` block."""
        names = [name for name in self._networks.preset.networks() if name.startswith(WALKING)]
        networks = [self._networks.get(name) for name in names]
        try:
            for name, network in zip(names, networks, strict=True):
                self._count(network, WALKING[name.startswith("sparse")])
            yield self
        finally:
            for network in networks:
                network.__dict__.pop("forward", None)  # the class's own is seen again

    def _count(self, network: torch.nn.Module, kind: str) -> None:
        forward = network.forward

        def counted(x: Any, t: torch.Tensor, cond: torch.Tensor, *rest: Any) -> Any:
            watched = self._watch and kind == "sparse_dit"
            branch = len(cond) > 0 if watched else True
            if watched:
                before = self._choices.get(branch)
                kept = [KeptBlocks() for _ in network.blocks]
                rest = (kept, True)
            begun = time.process_time()
            out = forward(x, t, cond, *rest)
            self.cpu_s += time.process_time() - begun
            self.evaluations[kind] += len(t)
            if watched:
                self._choices[branch] = kept
                if before is not None:
                    pairs = zip(before, kept, strict=True)
                    self.agreements[branch].append(float(np.mean([jaccard(a.index, b.index) for a, b in pairs])))
            return out

        network.forward = counted


def jaccard(
    a: torch.Tensor,  # [G, N, S] int32: blocks of each token, distinct, -1 is none
    b: torch.Tensor,  # [G, N, S]
) -> float:
    """Mean over tokens and key heads of |A and B| / |A or B|."""
    same = ((a[..., :, None] == b[..., None, :]) & (a[..., :, None] >= 0)).sum((-2, -1))
    union = (a >= 0).sum(-1) + (b >= 0).sum(-1) - same
    return float((same / union).double().mean())


def measure(networks: Networks, item: TestObject, exact: Mesh | None, changes: Changes, *, watch: bool = False) -> dict:
    """One generation: the mesh (None where nothing came) and the row of its numbers."""
    meter = Meter(networks, watch)
    try:
        with meter.attached():
            mesh = generate(item.picture, networks, GenerationOptions(preset=networks.preset.name, **changes)).mesh
    except NoSurfaceError:
        mesh = None
    row: dict[str, Any] = {f"{name.partition('_')[0]}_evaluations": n for name, n in meter.evaluations.items()}
    row |= {"cpu_s": meter.cpu_s, "mesh": mesh}
    row |= compared(mesh, item.mesh, "truth", 0.1)
    if exact is not None:
        row |= compared(mesh, exact, "exact", 0.05)
    if watch:
        row["jaccard"] = {("picture" if branch else "none"): v for branch, v in meter.agreements.items() if v}
    return row


def compared(mesh: Mesh | None, other: Mesh, name: str, threshold: float) -> dict[str, float]:
    """Chamfer distance and F-score of two meshes; 1 and 0 where no surface came, as in ``s2mesh evaluate``."""
    chamfer, score = 1.0, 0.0
    if mesh is not None:
        scores = chamfer_and_fscore(mesh, other, (threshold,))
        chamfer, score = scores.chamfer, scores.fscore[threshold]
    return {f"chamfer_to_{name}": chamfer, f"f_{100 * threshold:02.0f}_to_{name}": score}


def run(networks: Networks, objects: list[TestObject], settings: dict, minutes: float | None) -> list[dict[str, Any]]:
    """All cases of ``settings`` for one object after the other; no further object after ``minutes``."""
    found: dict[tuple[str, str], list[dict]] = defaultdict(list)
    until = time.monotonic() + 60 * (minutes or 1e6)
    for number, item in enumerate(objects, start=1):
        if time.monotonic() > until:
            break
        for setting, (common, cases) in settings.items():
            exact = measure(networks, item, None, common, watch=True)
            if exact["mesh"] is None:
                continue
            found[setting, "exact"].append(exact | compared(exact["mesh"], exact["mesh"], "exact", 0.05))
            for case, changes in cases.items():
                found[setting, case].append(measure(networks, item, exact["mesh"], {**common, **changes}))
        print(f"{number} of {len(objects)}: {item.family}", file=sys.stderr, flush=True)
    return [{"setting": setting, "case": case, **_mean(rows)} for (setting, case), rows in found.items()]


def solver_errors(networks: Networks, objects: list[TestObject], reference_steps: int = 200) -> list[dict[str, Any]]:
    """Relative error (RMS) of the dense latents of ``objects`` against a walk of very many steps, by evaluations."""
    preset, dit = networks.preset, networks.get("dense_dit")
    with torch.inference_mode():
        pictures = [remove_background(load_image(item.picture), "auto", None) for item in objects]
        pixels = [to_tensor(*preprocess(picture, preset.conditioner.image_size))[0] for picture in pictures]
        tokens = networks.get("conditioner")(torch.cat(pixels))  # [B, L, Cc]
        shape = stages.structure_noise_shape(preset.dense, len(objects))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))  # [B, C, r, r, r]

        def walk(solver: str, steps: int) -> torch.Tensor:
            sampling = replace(preset.dense.sampling, solver=solver, steps=steps)
            return stages.sample_structure(dit, tokens, noise, sampling, lambda done, total: None)

        reference, rows = walk("euler", reference_steps), []
        for evaluations in (8, 12, 16, 24):
            row: dict[str, Any] = {"setting": "dense latents", "evaluations_of_a_branch": evaluations}
            for solver in ("euler", "multistep", "heun"):
                end = walk(solver, evaluations // (1 + (solver == "heun")))
                row[solver] = round(((end - reference).square().mean() / reference.var()).sqrt().item(), 4)
            rows.append(row)
    return rows


def _mean(rows: list[dict[str, Any]]) -> dict[str, Any]:
    means = {name: round(float(np.mean([row[name] for row in rows])), 4) for name in COLUMNS[1:]}
    agreement: dict[str, list[float]] = {}
    for branch in ("picture", "none"):
        walks = [row["jaccard"][branch] for row in rows if branch in row.get("jaccard", {})]
        if walks:  # one number for each pair of steps that follow each other
            agreement[branch] = [round(float(np.mean(step)), 3) for step in zip(*walks, strict=True)]
    return {"shapes": len(rows), **means} | ({"jaccard": agreement} if agreement else {})


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.accelerations", description=__doc__)
    parser.add_argument("--preset", default="starter", help="(%(default)s)")
    parser.add_argument("--shapes", type=int, default=12, help="a quarter of them of left-out families (%(default)s)")
    parser.add_argument("--minutes", type=float, help="begin no further shape after this long")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one shape, few steps: shows that it runs")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    preset = get_preset(options.preset)
    networks = NetworkStore(preset, find_preset_folder(preset, None), torch.device("cpu"), torch.float32)
    settings = SETTINGS
    if options.quick:
        options.shapes, few = 1, {"dense_steps": 2, "sparse_steps": 2}
        cases = {"heun": {"solver": "heun"}, "selection once": {"selection_every": 100}}
        settings = {"quick": ({**few, "sparse_guidance": 3.0}, cases)}
    left_out = options.shapes // 4
    objects = test_objects(options.shapes - left_out, left_out=False)
    objects += test_objects(left_out, left_out=True) if left_out else []
    rows = run(networks, objects, settings, options.minutes)
    solvers = solver_errors(networks, objects[:6], 10 if options.quick else 200)
    if options.json:
        print("\n".join(map(json.dumps, [*rows, *solvers])))
        return 0
    print("| setting | case | " + " | ".join(COLUMNS) + " |\n|" + "---|" * (len(COLUMNS) + 2))
    for row in rows:
        print(f"| {row['setting']} | {row['case']} | " + " | ".join(f"{row[name]:.4g}" for name in COLUMNS) + " |")
    for row in rows:
        for branch, agreement in row.get("jaccard", {}).items():
            print(f"choices of following steps, {row['setting']}, branch of {branch}: {agreement}")
    for row in solvers:
        print(row)
    return 0


if __name__ == "__main__":
    sys.exit(main())
