"""Whole generations with the starter preset, as the README shows them: a picture, a mesh, a saved file."""

from __future__ import annotations

import bpy
import harness
import numpy as np

SERVER = "starter"
LIMIT_S = 600

MUG = harness.PICTURES / "mug.png"


def box(made: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    points = np.empty(3 * len(made.data.vertices), np.float32)
    made.data.vertices.foreach_get("co", points)
    points = points.reshape(-1, 3)
    return points.min(axis=0), points.max(axis=0)


def test_a_mug_of_thirty_centimetres_in_a_saved_file():
    path = harness.work / "mug.blend"
    result = bpy.ops.s2mesh.generate(filepath=str(MUG), preset="starter", seed=7, size=0.3, wait=True)
    assert result == {"FINISHED"}
    assert bpy.context.view_layer.objects.active.name == "mug"
    bpy.ops.wm.save_as_mainfile(filepath=str(path))
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    bpy.ops.wm.open_mainfile(filepath=str(path))
    made = bpy.data.objects["mug"]
    low, high = box(made)
    assert abs((high - low).max() - 0.3) < 1e-4, (low, high)
    assert abs(low[2]) < 1e-5, "it stands on its origin"
    assert np.abs((low + high)[:2]).max() < 1e-4, "which is in the middle of its underside"
    assert made.matrix_world.translation.length < 1e-6
    assert len(made.data.polygons) > 1000
    assert not made.data.validate(), "Blender finds nothing to repair"
    told = harness.module("provenance").provenance_of(made)
    assert told["seed"] == 7 and told["options"]["preset"] == "starter" and told["job_id"]


def test_the_shell_batch_makes_each_picture_once():
    """examples/batch_folder.py, run here as `blender -b --python` runs it."""
    import runpy
    import shutil

    folder, out = harness.work / "pictures", harness.work / "batch.blend"
    folder.mkdir()
    shutil.copy(MUG, folder / "cup.png")
    script = runpy.run_path(str(harness.Path(harness.module().__file__).parent / "examples" / "batch_folder.py"))
    arguments = [str(folder), str(out), "--faces", "3000", "--size", "0.5"]
    assert script["main"](arguments) == 0
    made = bpy.data.objects["cup"]
    assert len(made.data.polygons) <= 3000 and out.exists()
    jobs = len(harness.server.get("/v1/jobs")["jobs"])
    assert script["main"](arguments) == 0
    assert len(harness.server.get("/v1/jobs")["jobs"]) == jobs, "what is there is not made again"
