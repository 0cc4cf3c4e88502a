"""Parity command: what it prints and returns for good, wrong and unreadable files; how it compares."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from core.cli.golden import compare_at_coords, compare_gradients, compare_sets, recipe_weights, relative_error
from core.cli.parity import main
from core.models.refiner import FeatureMLP

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = GOLDEN / "geo_decoder.safetensors"


def contents(path: Path = SMALL) -> tuple[dict, dict[str, torch.Tensor]]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["golden"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def write(path: Path, header: dict, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, path, metadata={"golden": json.dumps(header)})
    return str(path)


def test_one_line_a_tensor_and_status_zero(capsys):
    assert main([str(SMALL), str(GOLDEN / "timestep_embedder.safetensors")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    name, tensor, error, shape = lines[0].split("  ")
    assert (name, tensor, shape) == ("geo_decoder.safetensors", "out.x", "[50, 8]")
    assert float(error) < 1e-6


def test_wrong_output_is_status_one(tmp_path, capsys):
    header, tensors = contents()
    tensors["out.x"] = tensors["out.x"] * 1.001
    file = write(tmp_path / "wrong.safetensors", header, tensors)
    assert main([file]) == 1
    assert "ABOVE TOLERANCE" in capsys.readouterr().out
    assert main([file, "--tol", "1e-2"]) == 0


def test_json_for_machines(tmp_path, capsys):
    header, tensors = contents()
    tensors["out.x"] = torch.full_like(tensors["out.x"], math.nan)
    assert main([str(SMALL), write(tmp_path / "nan.safetensors", header, tensors), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    good, bad = report["files"]
    assert not report["ok"] and good["ok"] and not bad["ok"]
    assert good["tensors"][0]["shape"] == [50, 8]
    assert bad["tensors"][0]["relative_rms_error"] is None


def test_tensor_that_nothing_compares_is_status_one(tmp_path, capsys):
    header, tensors = contents()
    file = write(tmp_path / "more.safetensors", header, {**tensors, "out.more": torch.zeros(1)})
    assert main([file]) == 1
    assert "out.more  inf  [1]  ABOVE TOLERANCE  was not compared" in capsys.readouterr().out


@pytest.mark.parametrize("header", [{"module": "vocoder", "config": {}}, {"config": {}}])
def test_unknown_or_missing_module(tmp_path, capsys, header):
    assert main([write(tmp_path / "x.safetensors", header, {"in.x": torch.zeros(1)}), str(SMALL)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("x.safetensors  cannot run: ") and lines[1].startswith("geo_decoder")


def test_unreadable_files(tmp_path, capsys):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "other.json").write_text('{"a": {"b": 1}}')
    files = [tmp_path / name for name in ("absent.safetensors", "broken.safetensors", "other.json", "absent.json")]
    assert main([str(file) for file in files]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("cannot run: InputError" in line for line in lines)


def test_weights_that_do_not_fit_and_no_weights(tmp_path, capsys):
    header, tensors = contents()
    stripped = {name: t for name, t in tensors.items() if not name.startswith("weights.")}
    partial = {name: t for name, t in tensors.items() if name != "weights.net.0.bias"}
    files = [write(tmp_path / f"{i}.safetensors", header, t) for i, t in enumerate((stripped, partial))]
    assert main(files) == 1
    out = capsys.readouterr().out
    assert "neither weights nor weights_recipe_seed" in out and "net.0.bias" in out


def test_weights_from_the_recipe(tmp_path):
    header, tensors = contents()
    model = FeatureMLP(32)
    model.load_state_dict(recipe_weights(model, 7))
    bare = {"in.x": tensors["in.x"], "out.x": model(tensors["in.x"]).detach()}
    assert main([write(tmp_path / "recipe.safetensors", {**header, "weights_recipe_seed": 7}, bare)]) == 0
    assert main([write(tmp_path / "other.safetensors", {**header, "weights_recipe_seed": 8}, bare)]) == 1


def test_recipe_scales():
    class Parts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = torch.nn.Parameter(torch.zeros(27, 64, 32))
            self.linear = torch.nn.Linear(400, 300)
            self.norm = torch.nn.LayerNorm(1000)

    weights = recipe_weights(Parts(), 3)
    assert weights["kernel"].std() == pytest.approx(1 / math.sqrt(27 * 64), rel=0.05)
    assert weights["linear.weight"].std() == pytest.approx(1 / math.sqrt(400), rel=0.05)
    assert weights["norm.weight"].mean() == pytest.approx(1, abs=0.02)
    assert weights["norm.bias"].mean() == pytest.approx(0, abs=0.02)


def test_relative_error():
    ones = torch.ones(4)
    assert relative_error(ones * 1.5, ones) == pytest.approx(0.5)
    assert relative_error(ones, torch.zeros(4)) == 1.0
    assert relative_error(ones[:2], ones) == math.inf
    assert relative_error(ones * math.nan, ones) == math.inf


def test_values_by_coordinate_allow_their_repeats_but_not_ours():
    coords = torch.tensor([[0, 1], [0, 2]])
    values = torch.tensor([[1.0], [2.0]])
    theirs = torch.tensor([[2.0], [1.0], [2.0]])
    repeated = torch.tensor([[0, 2], [0, 1], [0, 2]])
    assert compare_at_coords("x", values, coords, theirs, repeated).error == 0
    assert compare_at_coords("x", theirs, repeated, values, coords).error == math.inf
    assert compare_at_coords("x", values[:1], coords[:1], theirs, repeated).error == math.inf


def test_sets_excuse_rows_at_the_threshold():
    ours, theirs = torch.tensor([[1], [2], [3]]), torch.tensor([[2], [3], [4], [5]])
    assert compare_sets("x", ours, theirs).error == pytest.approx(3 / 4)
    assert compare_sets("x", ours, theirs, excused=torch.tensor([[1], [4], [5]])).error == 0


def test_vanishing_gradients_are_measured_against_the_largest():
    large, noise = torch.ones(3), torch.full((3,), 1e-7)
    rows = compare_gradients({"large": (large * 1.5, large), "noise": (-noise, noise), "gone": (large, noise)})
    assert [row.error for row in rows] == pytest.approx([0.5, 2e-7, 1.0], rel=1e-3)
    assert not rows[0].note and "largest" in rows[1].note
