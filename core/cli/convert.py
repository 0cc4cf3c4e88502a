"""``s2mesh convert``: the authors' released checkpoints to the weights of a preset."""

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh convert",
        description="Convert a released Direct3D-S2 folder (config.yaml and five .ckpt files), once. "
        "The preset's folder appears in the models folder when all networks are converted and checked.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the downloaded folder")
    parser.add_argument(
        "--out", type=Path, metavar="MODELS_DIR", help="models folder (default: the user's data folder)"
    )
    parser.add_argument(
        "--dinov2", type=Path, metavar="FILE", help="image encoder's weights (default: looked for in FOLDER)"
    )
    parser.add_argument(
        "--dtype", choices=("keep", "float16", "float32"), default="keep", help="of the stored weights (default: keep)"
    )
    parser.add_argument("--replace", action="store_true", help="replace the preset if it is installed already")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Convert one folder; prints a line for each network and the folder that was made."""
    arguments = build_parser().parse_args(argv)
    import torch  # seconds to load: after --help

    from core.checkpoints.convert_direct3d_s2 import convert
    from core.checkpoints.installed import default_models_dir

    made = convert(
        arguments.folder,
        arguments.out or default_models_dir(),
        dinov2=arguments.dinov2,
        dtype=None if arguments.dtype == "keep" else getattr(torch, arguments.dtype),
        replace=arguments.replace,
        on_network=lambda name, number, total: print(f"[{number}/{total}] {name}", file=sys.stderr, flush=True),
    )
    print(made)
    return 0


if __name__ == "__main__":
    from core.cli.errors import run_reporting

    sys.exit(run_reporting(main))
