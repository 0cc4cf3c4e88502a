"""The bench of the approximate options on tiny networks: it runs, and counts what it says."""

import io
import json

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from core.geometry.mesh import Mesh
from core.pipeline.evaluation import TestObject as EvaluationObject
from tests.bench import accelerations
from tests.support.tiny_models import tiny_store
from tests.support.tiny_presets import TINY


@pytest.fixture
def ball() -> EvaluationObject:
    """A sphere and a picture that could be of it."""
    pixels, file = np.zeros((40, 40, 4), np.uint8), io.BytesIO()
    pixels[10:30, 10:30] = (200, 80, 40, 255)
    Image.fromarray(pixels).save(file, "PNG")
    shape = trimesh.creation.icosphere(subdivisions=2)
    mesh = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    return EvaluationObject("ball", False, file.getvalue(), mesh)


def test_rows_of_a_tiny_run(tmp_path, capsys, ball):
    networks = tiny_store(TINY, tmp_path)
    common = {"dense_steps": 3, "sparse_steps": 3, "sparse_guidance": 2.0}
    settings = {"tiny": (common, {"heun": {"solver": "heun"}, "unconditional once": {"unconditional_every": 100}})}
    rows = accelerations.run(networks, [ball], settings, None)
    assert json.loads(json.dumps(rows)) == rows
    assert [row["case"] for row in rows] == ["exact", "heun", "unconditional once"]
    exact, heun, once = rows
    assert [(row["dense_evaluations"], row["sparse_evaluations"]) for row in rows] == [(6, 6), (10, 10), (4, 4)]
    assert set(accelerations.COLUMNS) <= set(exact) and exact["shapes"] == 1
    assert exact["f_05_to_exact"] > 0.9 and exact["chamfer_to_exact"] < heun["chamfer_to_exact"] < 1
    assert exact["jaccard"].keys() == {"picture", "none"} and "jaccard" not in heun
    assert all(len(steps) == 2 and all(0 <= step <= 1 for step in steps) for steps in exact["jaccard"].values())
    few = accelerations.solver_errors(networks, [ball], 24)
    assert [row["evaluations_of_a_branch"] for row in few] == [8, 12, 16, 24]
    assert few[-1]["euler"] == 0 < few[0]["euler"] and few[0]["multistep"] > 0 < few[0]["heun"]
    assert "forward" not in vars(networks.get("dense_dit")) and "1 of 1" in capsys.readouterr().err


def test_agreement_of_choices():
    a = torch.tensor([[[0, 2, 5], [1, 2, -1]]])
    b = torch.tensor([[[0, 2, 5], [2, 3, -1]]])
    assert accelerations.jaccard(a, a) == 1
    assert accelerations.jaccard(a, b) == pytest.approx((1 + 1 / 3) / 2)


def test_every_case_is_one_of_the_options():
    for common, cases in accelerations.SETTINGS.values():
        for changes in cases.values():
            accelerations.GenerationOptions(**{**common, **changes})
