"""``s2mesh generate`` as a user meets it: results, and one line for everything that can go wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from core.cli.errors import run_reporting
from core.cli.generate import main, plan_jobs
from core.config import presets
from core.config.generation import GenerationOptions, option_table
from core.config.releases import MATTING
from core.errors import ConfigError
from core.geometry.export import read_extras
from tests.support.onnx_file import write_red_matting
from tests.support.tiny_models import save_tiny_weights
from tests.support.tiny_presets import TINY


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    save_tiny_weights(TINY, folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[10:30, 10:40] = (200, 80, 40, 255)
    Image.fromarray(pixels).save(tmp_path / "box.png")
    return tmp_path / "box.png"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path, models):
    """Runs the command in an empty folder with the tiny preset; gives (status, output, error output)."""
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments, models_dir=models, preset="tiny"):
        line = ["--preset", preset, "--models-dir", models_dir, "--device", "cpu", *arguments]
        status = run_reporting(lambda: main([str(word) for word in line]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def files(folder="."):
    return sorted(name for _, _, names in os.walk(folder) for name in names)


def assert_one_error(result, status, *words):
    got, out, err = result
    assert got == status and out == ""
    lines = [line for line in err.splitlines() if line.startswith("s2mesh: error:")]
    assert len(lines) == 1, err
    assert "bug in S2 Mesh" not in err
    for word in words:
        assert word in lines[0]


# --- results ---


def test_a_picture_becomes_a_glb_with_its_settings(run, picture):
    status, out, err = run(picture, "-o", "box.glb", "--seed", "5", "--steps", "2", "--preview", "box.png")
    assert status == 0
    assert out.startswith("box.glb: ") and out.count("\n") == 1
    for word in (" vertices, ", " faces, ", "watertight", " s"):
        assert word in out
    assert "structure" in err  # one line a stage where there is no terminal
    extras = read_extras("box.glb")
    assert (extras["seed"], extras["settings"]["dense_steps"], extras["image"]) == (5, 2, "box.png")
    assert len(extras["image_sha256"]) == 64
    assert trimesh.load("box.glb", force="mesh").faces.shape[0] > 100
    with Image.open("box.png") as preview:
        assert preview.size == (512, 512)
    assert files() == ["box.glb", "box.png"]


def test_the_settings_in_a_file_make_it_again(run, picture):
    run(picture, "-o", "a.glb", "--seed", "7", "--guidance", "2.5")
    settings = read_extras("a.glb")["settings"]
    assert (settings["dense_guidance"], settings["sparse_guidance"]) == (2.5, [2.5])
    again = ("--seed", settings["seed"], "--steps", settings["dense_steps"], "--resolution", settings["resolution"])
    run(picture, "-o", "b.glb", *again, "--guidance", 2.5)
    one, two = (trimesh.load(name, force="mesh") for name in ("a.glb", "b.glb"))
    np.testing.assert_array_equal(one.vertices, two.vertices)


@pytest.mark.parametrize("arguments, name", [
    (["-o", "m.stl"], "m.stl"), (["-o", "m.ply"], "m.ply"), (["--format", "obj"], "box.obj"), ([], "box.glb"),
    (["-o", "m", "--format", "obj"], "m.obj"), (["-o", "new/"], "box.glb"),
])  # fmt: skip
def test_the_format_comes_from_the_ending_or_the_option(run, picture, arguments, name):
    assert run(picture, "--quiet", *arguments) == (0, "", "")
    assert files() == [name]


def test_several_pictures_and_a_bad_one_among_them(run, picture, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "again").mkdir()
    same_name = tmp_path / "again" / "box.png"
    same_name.write_bytes(picture.read_bytes())
    status, out, err = run(picture, tmp_path / "notes.png", same_name, "-o", "out", "--preview", "out", "--quiet")
    assert status == 2
    assert files("out") == ["box-2.glb", "box-2.png", "box.glb", "box.png"]
    assert err.count("s2mesh: error:") == 1 and "notes.png" in err


def test_json_is_one_object_a_picture(run, picture, tmp_path):
    status, out, err = run(picture, tmp_path / "none.png", "-o", "out", "--json", "--quiet")
    failed, done = sorted(map(json.loads, out.splitlines()), key=lambda told: "error" not in told)
    assert status == 2 and err.count("\n") == 1
    assert done["faces"] > 0 and done["seconds"] > 0 and done["tokens"]["detail 32"] > 0
    assert done["peak_memory_bytes"] > 2**20
    assert failed["status"] == 2 and "does not exist" in failed["error"]


def test_several_seeds_of_each_picture(run, picture):
    status, out, err = run(picture, "--seeds", "2", "--seed", "7", "-o", "out", "--json")
    assert status == 0 and "box.png, seed 8: [1/6] image done" in err
    first, second = (json.loads(line) for line in out.splitlines())
    assert (first["seed"], second["seed"]) == (7, 8) and first["vertices"] != second["vertices"]
    assert files("out") == ["box-seed7.glb", "box-seed8.glb"]


def test_notes_are_told(run, tmp_path):
    frames = [Image.new("RGB", (30, 30), color) for color in ((200, 30, 30), (30, 200, 30))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    status, _, err = run(tmp_path / "moving.gif")
    assert status == 0
    assert "s2mesh: note: " in err and "several frames" in err


def test_a_photograph_is_cut_out_where_a_matting_network_is_installed(run, models, tmp_path):
    pytest.importorskip("onnxruntime", reason="the extra `matting` is not installed")
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    noise[..., 0] = 20
    noise[20:40, 20:40] = (230, 20, 20)
    Image.fromarray(noise).save(tmp_path / "photograph.png")
    status, _, told = run(tmp_path / "photograph.png")
    assert status == 0 and "the whole picture was kept" in told and "models download" in told
    shutil.copytree(models, tmp_path / "models")
    write_red_matting(tmp_path / "models" / MATTING / "model.onnx")
    status, _, told = run(tmp_path / "photograph.png", models_dir=tmp_path / "models")
    assert status == 0 and "the whole picture was kept" not in told


def test_the_background_option_reaches_the_picture(run, tmp_path):
    pixels = np.full((40, 50, 3), 240, np.uint8)
    pixels[10:30, 10:40] = (200, 80, 40)
    Image.fromarray(pixels).save(tmp_path / "opaque.png")
    meshes = {}
    for background in ("auto", "alpha", "none"):
        assert run(tmp_path / "opaque.png", "-o", f"{background}.ply", "--background", background)[0] == 0
        meshes[background] = Path(f"{background}.ply").read_bytes()
    assert meshes["alpha"] == meshes["none"] != meshes["auto"]  # it has no alpha


# --- bad input: the user's mistakes ---


def bad_picture(folder, kind):
    path = folder / f"{kind}.png"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    if kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        Image.fromarray(noise).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "transparent":
        Image.fromarray(np.zeros((20, 20, 4), np.uint8)).save(path)
    elif kind == "bomb":
        Image.new("1", (10_000, 10_000)).save(path)
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize("kind, word", [
    ("text", "not a picture"), ("empty", "is empty"), ("truncated", "damaged or cut short"), ("folder", "folder"),
    ("transparent", "transparent"), ("bomb", "megapixels"), ("absent", "does not exist"),
])  # fmt: skip
def test_pictures_that_cannot_be_used(run, tmp_path, kind, word):
    assert_one_error(run(bad_picture(tmp_path, kind), "-o", "m.glb", "--quiet"), 2, word)
    assert files() == []


@pytest.mark.parametrize("kind", ["webp", "16-bit", "palette", "jpeg"])
def test_unusual_pictures_are_read(run, tmp_path, kind):
    gray = np.zeros((40, 40), np.uint16)
    gray[10:30, 10:30] = 40_000
    if kind == "webp":
        frames = [Image.new("RGB", (30, 30), color) for color in ("red", "green")]
        frames[0].save(path := tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    elif kind == "16-bit":
        Image.fromarray(gray).save(path := tmp_path / "deep.png")
    elif kind == "palette":
        Image.fromarray((gray // 256).astype(np.uint8)).convert("P").save(path := tmp_path / "p.png")
    else:
        Image.fromarray((gray // 256).astype(np.uint8)).save(path := tmp_path / "p.jpg")
    status, _, _ = run(path, "-o", "m.glb", "--quiet")
    assert status == 0 and files() == ["m.glb"]


@pytest.mark.parametrize("arguments, words", [
    (["-o", "m.obj", "--format", "glb"], [".obj", "--format"]), (["-o", "m.txt"], ["m.txt", "glb"]),
    (["-o", "no/such/m.glb"], ["no folder"]), (["--preview", "p.jpg"], [".png"]),
    (["--preview", "no/such/p.png"], ["no folder"]), (["--steps", "0"], ["dense_steps", "between"]),
    (["--seed", "-1"], ["seed"]), (["--guidance", "nan"], ["dense_guidance"]), (["--iso", "2"], ["iso_level"]),
    (["--sparse-guidance", "-1"], ["sparse_guidance"]), (["--resolution", "64"], ["resolution is 64", "tiny", "32"]),
    (["--faces", "3"], ["faces"]), (["--max-tokens", "2"], ["tokens", "at most 2"]),
    (["--device", "cuda:99"], ["cuda"]), (["--device", "gpu"], ["there is no device"]),
])  # fmt: skip
def test_options_that_cannot_be_used(run, picture, arguments, words):
    assert_one_error(run(picture, "--quiet", *arguments), 2, *words)
    assert files() == []


def test_an_output_that_is_a_file_where_a_folder_is_needed(run, picture):
    (picture.parent / "work" / "taken").write_text("mine")
    assert_one_error(run(picture, "-o", "taken/m.glb", "--quiet"), 2, "no folder")
    assert_one_error(run(picture, picture, "-o", "m.glb", "--quiet"), 2, "folder with -o")
    assert_one_error(run(picture, picture, "-o", "taken", "--quiet"), 2, "taken")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(run, picture):
    os.mkdir("locked", 0o500)
    assert_one_error(run(picture, "-o", "locked/m.glb", "--quiet"), 2, "may write to")


def test_an_unknown_preset(run, picture):
    assert_one_error(run(picture, "-o", "m.glb", preset="tinny"), 2, "'tinny'", "tiny")


def test_missing_weights(run, picture, tmp_path):
    result = run(picture, "-o", "m.glb", models_dir=tmp_path / "nowhere")
    assert_one_error(result, 2, "not installed", "dense_dit")


@pytest.mark.parametrize("damage, word", [
    ("truncated", "damaged"), ("swapped", "DenseDiTConfig"), ("pickle", "pickle"),
])  # fmt: skip
def test_weights_that_cannot_be_used_stop_all_pictures(run, picture, tmp_path, damage, word):
    folder = save_tiny_weights(TINY, tmp_path / "models")
    path = folder / "dense_dit.safetensors"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "swapped":
        path.write_bytes((folder / "dense_vae.safetensors").read_bytes())
    else:
        torch.save({"a": torch.zeros(1)}, path)
    result = run(picture, picture, "-o", "out", "--quiet", models_dir=tmp_path / "models")
    assert_one_error(result, 2, "dense_dit.safetensors", word)
    assert os.listdir() == []


# --- what is not the user's fault ---


def test_no_surface_at_the_level(run, picture, tmp_path):
    def positive(name, network):
        if name == "sparse_vae_32":
            network.decoder.out_layer.bias.data.fill_(20.0)

    save_tiny_weights(TINY, tmp_path / "models", tune=positive)
    result = run(picture, "-o", "m.glb", "--quiet", models_dir=tmp_path / "models")
    assert_one_error(result, 1, "never crosses", "Try another seed")
    assert files() == []


@pytest.mark.parametrize("failure", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")])
def test_out_of_memory(run, picture, monkeypatch, failure):
    from core.models.dense_dit import DenseDiT

    def exhausted(*_):
        raise failure

    monkeypatch.setattr(DenseDiT, "forward", exhausted)
    assert_one_error(run(picture, "-o", "m.glb", "--quiet"), 1, "out of memory", "smaller preset")
    assert files() == []


def test_interrupted(run, picture, monkeypatch):
    from core.models.sparse_dit import SparseDiT

    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(SparseDiT, "forward", pressed)
    status, out, err = run(picture, picture, "-o", "out", "--quiet")
    assert (status, out) == (130, "") and "interrupted" in err
    assert os.listdir() == []


def test_a_failed_write_leaves_the_old_file(run, picture, monkeypatch):
    Path("m.glb").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert_one_error(run(picture, picture, "-o", "m/", "--quiet"), 1, "no space left", "m/box.glb")  # the rest as well
    assert os.listdir() == ["m.glb"]
    assert_one_error(run(picture, "-o", "m.glb", "--quiet"), 1, "no space left")
    assert Path("m.glb").read_text() == "old" and files() == ["m.glb"]


# --- parts ---


def test_names_that_meet_are_told_apart():
    plan = plan_jobs([Path("a.png"), Path("b", "A.jpg"), Path("a.webp")], "out", None, None)
    assert [job.output.name for job in plan] == ["a.glb", "A-2.glb", "a-3.glb"]  # one file where case is ignored


def test_the_picture_itself_is_not_overwritten(tmp_path):
    (tmp_path / "m.obj").touch()
    with pytest.raises(ConfigError, match="picture itself"):
        plan_jobs([tmp_path / "m.obj"], str(tmp_path / "m.obj"), None, None)


def test_help_is_light():
    code = "import sys; from core.cli.generate import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'numpy', 'rich') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for option in ("--preset", "--seed", "--sparse-steps", "--guidance", "--iso", "--faces", "--background"):
        assert option in done.stdout
    said = "".join(done.stdout.split())
    for option in option_table(GenerationOptions):
        assert "".join(option.help.split()) in said, option.name
