"""How long Blender's main thread stands still for an import and for a picture. Run by a Python with bpy:

    /path/to/bpy-5.0/bin/python tests/bench/blender_import.py [TRIANGLES]

Wall time depends on what else the machine does, so the processor's time of this process is told as well. `edges` are
found in the worker thread; `import` is what the artist waits for, `draw` what Blender computes for its first drawing.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "in_blender"))

import bpy  # noqa: E402
import numpy as np  # noqa: E402

REPEATS = 5


def main(triangles: int) -> None:
    from blender_addon import importer, mesh_build, pictures
    from blender_addon.mesh_edges import find_edges

    stand_in_for_harness()
    from importing import ball, record

    print(f"Blender {bpy.app.version_string}, numpy {np.__version__}")
    data = ball(round((triangles / 2) ** 0.5))
    edges = find_edges(data.triangles)
    print(f"{len(data.triangles):,} triangles, {len(data.positions):,} vertices, {len(edges.vertices):,} edges")
    tell("edges, in the worker", lambda: find_edges(data.triangles))
    tell("placed", lambda: mesh_build.placed(data, 1.0, "BASE"))

    def place(given: object) -> None:
        importer.place_result(record(), data, edges=given)
        bpy.context.view_layer.update()

    tell("import with edges", lambda: place(edges), clean)
    tell("import without edges", lambda: place(None), clean)
    made = importer.place_result(record(), data, edges=edges)
    tell("draw: normals", lambda: normals(made.data))
    tell("validate (not done)", lambda: made.data.validate())
    clean()
    for side in (1024, 2048, 4096, 8192):
        image = bpy.data.images.new("noise", side, side, alpha=True)
        values = np.random.default_rng(0).random((side, side, 4), np.float32)
        values[..., 3] = 1
        image.pixels.foreach_set(values.ravel())
        del values
        size = len(pictures.picture_from_image(image).png)
        tell(f"picture {side} x {side}, {size / 1e6:.1f} MB", lambda image=image: pictures.picture_from_image(image))
        bpy.data.images.remove(image)


def normals(mesh: bpy.types.Mesh) -> None:
    mesh.update()  # forgets those that are known
    len(mesh.corner_normals)
    _ = mesh.corner_normals[0].vector


def clean() -> None:
    for mesh in list(bpy.data.meshes):
        bpy.data.meshes.remove(mesh)


def tell(what: str, work: Callable[[], object], after: Callable[[], None] = lambda: None) -> None:
    walls, processors = [], []
    for _ in range(REPEATS):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        after()
    wall, processor = statistics.median(walls), statistics.median(processors)
    print(f"  {what:32} {wall:6.3f} s (best {min(walls):.3f}), processor {processor:6.3f} s", flush=True)


def stand_in_for_harness() -> None:
    import importlib

    sys.modules["harness"] = SimpleNamespace(module=lambda name: importlib.import_module(f"blender_addon.{name}"))


if __name__ == "__main__":
    bpy.ops.wm.read_homefile(use_factory_startup=True)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000)
