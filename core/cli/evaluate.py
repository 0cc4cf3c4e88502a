"""``s2mesh evaluate``: score a preset on generated shapes that it was not trained on."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from core.cli.errors import run_reporting

COLUMNS = ("f_10", "f_05", "chamfer", "sphere_f_10", "sphere_f_05", "sphere_chamfer")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh evaluate",
        description="Generate meshes for rendered pictures of shapes that were not trained on, and print F-scores at "
        "0.1 and 0.05 and the Chamfer distance (longest side 2), beside what a sphere would score.",
    )
    parser.add_argument("--preset", default="starter", help="preset to score (%(default)s)")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="where presets that are not bundled are kept")
    parser.add_argument("--trained", type=int, default=64, metavar="N", help="shapes of trained families (%(default)s)")
    parser.add_argument("--left-out", type=int, default=32, metavar="N", help="of left-out families (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the generation (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (%(default)s)")
    parser.add_argument("--output", type=Path, metavar="JSON", help="also write every score to this file")
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="also draw pictures beside their meshes")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    from core.checkpoints.installed import find_preset_folder
    from core.checkpoints.load import NetworkStore
    from core.config.generation import GenerationOptions
    from core.config.presets import get_preset
    from core.files import write_atomically
    from core.pipeline.devices import resolve_device, resolve_dtype
    from core.pipeline.evaluation import evaluate, summary, test_objects

    preset, device = get_preset(arguments.preset), resolve_device(arguments.device)
    folder = find_preset_folder(preset, arguments.models_dir)
    networks = NetworkStore(preset, folder, device, resolve_dtype(device))
    options = GenerationOptions(preset=preset.name, seed=arguments.seed)
    results, rows = {}, []
    for name, count in (("trained families", arguments.trained), ("left-out families", arguments.left_out)):
        if count <= 0:
            continue
        objects = test_objects(count, left_out=name.startswith("left"))
        waiting = iter(objects)

        def show(score, mesh, waiting=waiting) -> None:
            rows.append((next(waiting).picture, mesh))
            print(f"{score.family:<12} F@0.1 {score.f_10:.3f}  F@0.05 {score.f_05:.3f}", flush=True)

        scores = evaluate(networks, options, objects, on_score=show)
        results[name] = {"mean": summary(scores), "shapes": [asdict(s) for s in scores]}
    print(f"\n{'':<20}" + "".join(f"{c:>16}" for c in COLUMNS))
    for name, result in results.items():
        print(f"{name:<20}" + "".join(f"{result['mean'][c]:>16.3f}" for c in COLUMNS))
    if arguments.output:
        write_atomically(arguments.output, json.dumps(results, indent=1).encode())
    if arguments.sheet:
        _draw(rows, arguments.sheet)
    return 0


def _draw(rows: list, path: Path) -> None:
    import io

    import numpy as np
    from PIL import Image

    from core.files import write_atomically
    from core.geometry.preview import contact_sheet, render_mesh

    pairs = []
    for picture, mesh in rows:
        shown = np.asarray(Image.open(io.BytesIO(picture)).convert("RGBA"))
        pairs.append([shown] + ([render_mesh(mesh, size=256)] if mesh is not None else []))
    file = io.BytesIO()
    contact_sheet([sum(pairs[i : i + 4], []) for i in range(0, len(pairs), 4)], cell=160).save(file, "PNG")
    write_atomically(path, file.getvalue())


if __name__ == "__main__":
    sys.exit(run_reporting(main))
