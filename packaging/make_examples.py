"""Draw the example pictures and the sheet of the README: python packaging/make_examples.py [--sheet]

The pictures are rendered from solids in this file and in core.data, at a user's size. `castle` and `chair` belong to
families that the starter is never trained on, and `lighthouse` and `watering_can` to no family at all.
With --sheet, every picture also goes through `generate` and is drawn beside its mesh.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.data.builder import Builder  # noqa: E402  (found through the line above)
from core.data.families import make_shape  # noqa: E402
from core.data.parts import SUBTRACT, normalized, pack  # noqa: E402
from core.data.render import random_views, render  # noqa: E402

EXAMPLES = ROOT / "packaging" / "examples"
SHEET = EXAMPLES / "sheet.png"


def lighthouse(b: Builder) -> None:
    b.rod((0, -0.95, 0), 0.42, 0.08)
    b.rod((0, -0.2, 0), 0.3, 0.7, taper=0.12, color=1)
    b.rod((0, 0.52, 0), 0.26, 0.04)
    b.rod((0, 0.68, 0), 0.13, 0.14, color=2)
    b.rod((0, 0.9, 0), 0.2, 0.1, taper=0.19)


def watering_can(b: Builder) -> None:
    b.ring((-0.42, 0.1, 0), 0.33, 0.05, "z", color=1)
    b.beam((0.3, -0.25, 0), (0.95, 0.5, 0), 0.09, taper=0.03, color=1)
    b.rod((0, 0, 0), 0.42, 0.42, edge=0.03)
    b.rod((0, 0.2, 0), 0.36, 0.42, op=SUBTRACT)
    b.beam((0.93, 0.47, 0), (1.02, 0.58, 0), 0.14, color=2)


# name: family or function, seed of the shape, yaw and pitch in degrees
PICTURES: dict[str, tuple[str | Callable[[Builder], None], int, float, float]] = {
    "mug": ("mug", 14, 20, 25),
    "lamp": ("lamp", 3, 15, 15),
    "teapot": ("teapot", 5, 10, 20),
    "sofa": ("sofa", 8, 30, 22),
    "chair": ("chair", 4, 30, 20),
    "castle": ("castle", 2, 35, 28),
    "lighthouse": (lighthouse, 1, 10, 15),
    "watering_can": (watering_can, 6, 15, 20),
}


def draw(name: str, size: int = 512) -> Image.Image:
    """One picture with a transparent background."""
    source, seed, yaw, pitch = PICTURES[name]
    rng = np.random.default_rng(seed)
    if isinstance(source, str):
        parts = make_shape(source, rng)
    else:
        builder = Builder(rng)
        source(builder)
        parts = builder.parts
    generator = torch.Generator().manual_seed(seed)
    # A range of zero width fixes the camera; lights stay random.
    views = random_views(1, generator, max_yaw=0.0, pitch=(pitch, pitch), jitter=0.0, textured=0.0)
    turned = np.radians(yaw)
    spin = torch.tensor(
        [[np.cos(turned), 0, np.sin(turned)], [0, 1, 0], [-np.sin(turned), 0, np.cos(turned)]], dtype=torch.float32
    )
    views.eye, views.axes, views.light = views.eye @ spin.T, views.axes @ spin.T, views.light @ spin.T
    views.shine = views.shine.clamp(max=0.25)
    rgba = render(normalized(pack([parts])), views, 2 * size)[0]
    pixels = (rgba * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(np.ascontiguousarray(pixels), "RGBA").resize((size, size), Image.Resampling.LANCZOS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sheet", action="store_true", help="also generate every mesh and draw the README's sheet")
    parser.add_argument("--models-dir", type=Path, help="try other weights than the bundled ones")
    arguments = parser.parse_args()
    EXAMPLES.mkdir(exist_ok=True)
    for name in PICTURES:
        draw(name).save(EXAMPLES / f"{name}.png", optimize=True)
    if arguments.sheet:
        draw_sheet(arguments.models_dir)
    return 0


def draw_sheet(models_dir: Path | None) -> None:
    from core.checkpoints.installed import find_preset_folder
    from core.checkpoints.load import NetworkStore
    from core.config.generation import GenerationOptions
    from core.config.presets import STARTER
    from core.geometry.preview import contact_sheet, render_mesh
    from core.pipeline.image_to_shape import generate

    networks = NetworkStore(STARTER, find_preset_folder(STARTER, models_dir))
    cells = []
    for name, (_, _, yaw, pitch) in PICTURES.items():
        mesh = generate(EXAMPLES / f"{name}.png", networks, GenerationOptions()).mesh
        picture = np.asarray(Image.open(EXAMPLES / f"{name}.png"))
        cells.append([picture, render_mesh(mesh, yaw=yaw, pitch=pitch), render_mesh(mesh, yaw=yaw - 60, pitch=pitch)])
        print(name, mesh.num_faces, "faces", flush=True)
    rows = [cells[i] + cells[i + 1] for i in range(0, len(cells), 2)]
    contact_sheet(rows, cell=200).quantize(128).save(SHEET, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
