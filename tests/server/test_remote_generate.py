"""``s2mesh generate --server``: the same files, words and statuses as on this machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from core.cli import generate as local
from core.cli.errors import run_reporting
from core.config import presets
from core.geometry.export import read_extras
from server.client import Client
from server.commands import generate
from tests.support.live_server import picture_bytes, wait_for
from tests.support.tiny_presets import TINY

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def picture(tmp_path):
    (tmp_path / "box.png").write_bytes(picture_bytes())
    return tmp_path / "box.png"


@pytest.fixture
def run(server, capsys, monkeypatch, tmp_path):
    """Runs the command in an empty folder; gives (status, output, error output)."""
    monkeypatch.delenv("S2MESH_TOKEN", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(*arguments, on=server, module=generate):
        line = ["--server", "local", "--data-dir", on.data_dir, *arguments] if on else arguments
        status = run_reporting(lambda: module.main([str(word) for word in line]))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def files(folder="."):
    return sorted(name for _, _, names in os.walk(folder) for name in names)


def assert_one_error(result, status, *words):
    got, out, err = result
    assert got == status and out == ""
    assert err.count("\n") == 1 and err.startswith("s2mesh: error: ") and "bug in S2 Mesh" not in err
    for word in words:
        assert word in err


@pytest.fixture
def one_thread():
    """Sums in the same order as in the worker, which the live server starts with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_the_same_mesh_and_the_same_facts_as_here(run, picture, tiny_models_dir, monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", TINY)
    options = ["--seed", "5", "--steps", "2", "--guidance", "2.5", "--no-remove-floaters", "--json", "--quiet"]
    here = ["--preset", "tiny", "--models-dir", tiny_models_dir, "--device", "cpu"]
    status, out, err = run(picture, "-o", "here.ply", "--preview", "here.png", *options, *here, on=None)
    assert status == 0
    ours = json.loads(out)
    status, out, err = run(picture, "-o", "there.ply", "--preview", "there.png", *options)
    assert (status, err) == (0, "")
    theirs = json.loads(out)
    assert theirs.keys() == ours.keys()
    for name in ("image", "vertices", "faces", "watertight", "seed", "tokens", "notes"):
        assert theirs[name] == ours[name], name
    assert Path("here.ply").read_bytes() == Path("there.ply").read_bytes()
    assert Path("here.png").read_bytes() == Path("there.png").read_bytes()


def test_words_progress_and_settings(run, picture):
    status, out, err = run(picture, "-o", "box.glb", "--seed", "5")
    assert status == 0
    assert out.startswith("box.glb: ") and out.count("\n") == 1 and " vertices, " in out
    lines = err.splitlines()
    assert lines[0].startswith("box.png: [1/8] load done") and lines[-1].startswith("box.png: [8/8] export done")
    assert read_extras("box.glb")["seed"] == 5 and read_extras("box.glb")["settings"]["preset"] == "tiny"
    assert trimesh.load("box.glb", force="mesh").faces.shape[0] > 100
    assert files() == ["box.glb"]


def test_a_resolution_leaves_out_the_stages_after_it(run, picture):
    status, _, err = run(picture, "-o", "box.glb", "--preset", "tiny-two", "--resolution", "32")
    assert status == 0 and "[8/8] export" in err and "64" not in err
    status, _, err = run(picture, "-o", "box.glb", "--preset", "tiny-two")
    assert status == 0 and "[11/11] export" in err and "detail 64" in err


def test_a_terminal_gets_the_server_s_own_fractions(run, picture, monkeypatch):
    shown = []
    real = generate.shown_progress

    def watched(*arguments, fraction, **named):
        return real(*arguments, **named, fraction=lambda *at: shown.append(fraction(*at)) or shown[-1])

    monkeypatch.setattr(generate, "shown_progress", watched)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run(picture)[0] == 0
    assert shown == sorted(shown) and shown[0] < 0.2 and shown[-1] == 1.0 and len(shown) > 8


def test_several_pictures_and_a_bad_one_among_them(run, picture, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    names = [picture, tmp_path / "notes.png", tmp_path / "none.png"]
    for number in range(4):
        names.append(tmp_path / f"{number}.png")
        names[-1].write_bytes(picture_bytes(100 + number))
    status, out, err = run(*names, "-o", "out", "--preview", "out", "--json", "--quiet")
    told = [json.loads(line) for line in out.splitlines()]
    assert status == 2 and [Path(facts["image"]) for facts in told] == names
    assert [facts.get("status") for facts in told] == [None, 2, 2, None, None, None, None]
    assert "does not exist" in told[2]["error"]
    assert files("out") == sorted(f"{name}.{end}" for name in ("box", *"0123") for end in ("glb", "png"))
    assert err.count("s2mesh: error:") == 2 and "notes.png: " in err


def test_a_full_queue_is_waited_for(run, start_server, tmp_path):
    server = start_server(limits={"queue": 1})
    names = [tmp_path / f"{number}.png" for number in range(4)]
    for number, name in enumerate(names):
        name.write_bytes(picture_bytes(100 + number))
    server.fault("slow", "structure")
    status, out, err = run(*names, "-o", "out", on=server)
    assert status == 0 and files("out") == ["0.glb", "1.glb", "2.glb", "3.glb"]


def test_ctrl_c_cancels_what_is_on_the_server(server, tmp_path):
    server.fault("slow", "structure")
    names = []
    for number in range(3):
        names.append(str(tmp_path / f"{number}.png"))
        Path(names[-1]).write_bytes(picture_bytes(number))
    line = [sys.executable, "-m", "server.cli", "generate", *names, "-o", str(tmp_path / "out"), "--steps", "1000"]
    line += ["--server", "local", "--data-dir", str(server.data_dir)]
    with Client(data_dir=server.data_dir) as client:
        before = {job["id"] for job in client.jobs()}

        def ours():
            jobs = [job for job in client.jobs() if job["id"] not in before]
            return jobs if len(jobs) == 3 and jobs[-1]["stage"] == "structure" else None

        process = subprocess.Popen(
            line,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` makes it ignored
        )
        try:
            jobs = wait_for(ours, "three jobs")
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
        assert (process.returncode, out) == (130, "") and "interrupted" in err
        assert [server.finished(job["id"])["state"] for job in jobs] == ["cancelled"] * 3
    assert not (tmp_path / "out").exists()
    server.no_fault()


def test_a_job_that_fails(run, server, picture):
    server.fault("memory", "structure")
    try:
        assert_one_error(run(picture, "--quiet"), 1, "out of memory", "smaller resolution")
    finally:
        server.no_fault()
        server.worker_idle()
    assert files() == []


def test_what_the_server_decides_is_refused(run, picture):
    for option in (["--device", "cpu"], ["--dtype", "float16"], ["--models-dir", "x"]):
        assert_one_error(run(picture, *option), 2, option[0], "s2mesh serve")
    assert_one_error(run(picture, "--no-cuda-graphs"), 2, "--no-cuda-graphs", "this machine")
    assert_one_error(run(picture, "--steps", "0"), 2, "dense_steps", "1")
    assert_one_error(run(picture, "--preset", "tini"), 2, "there is no preset")
    assert_one_error(run(picture, "-o", "x.fbx"), 2, "names no mesh format")
    assert_one_error(run(picture, "-o", "no/such/x.glb"), 2, "Create it first")
    assert_one_error(run(picture, "--token-file", "x", on=None), 2, "--token-file", "--server")
    assert_one_error(run(picture, "--server", "http://127.0.0.1:1", "--token-file", picture, on=None), 2, "token file")
    assert files() == []


def test_every_option_of_a_job_reaches_the_server(run, server, picture):
    line = "--seed 9 --resolution 32 --steps 2 --sparse-steps 1 --guidance 2 --sparse-guidance 3 --iso 0.1 --faces 90 "
    line += "--max-tokens 9000 --background none --interior keep --no-remove-floaters --no-remove-interior "
    line += "--preset tiny --format stl --solver heun --guided-from 0.8 --guided-until 0.2 --unconditional-every 2 "
    line += "--selection-every 3 --memory stage"
    assert run(picture, *line.split())[0] == 0
    with Client(data_dir=server.data_dir) as client:
        options = next(client.jobs(limit=1))["options"]
    assert options == {
        "preset": "tiny", "seed": 9, "resolution": 32, "dense_steps": 2, "sparse_steps": 1, "dense_guidance": 2.0,
        "sparse_guidance": 3.0, "iso_level": 0.1, "faces": 90, "max_tokens": 9000, "background": "none",
        "interior": "keep", "remove_floaters": False, "remove_interior": False, "solver": "heun", "guided_from": 0.8,
        "guided_until": 0.2, "unconditional_every": 2, "selection_every": 3, "memory": "stage", "formats": ["stl"],
        "turntable": False,
    }  # fmt: skip


def test_without_a_server_it_is_the_local_command(run, picture, monkeypatch):
    seen = []
    monkeypatch.setattr(local, "main", lambda argv: seen.append(argv) or 7)
    assert run(picture, "-o", "x.glb", on=None)[0] == 7
    assert seen == [[str(picture), "-o", "x.glb"]]


def test_local_work_loads_no_client():
    code = """
import sys
from server.cli import main
assert main(["generate", "a.png", "b.png", "-o", "x.glb"]) == 2
print(*{"requests", "server.client"} & set(sys.modules))
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "\n"), result.stderr


def test_the_picture_of_a_preview_is_one(run, picture):
    run(picture, "--preview", "view.png", "--quiet")
    with Image.open("view.png") as image:
        assert image.size == (512, 512) and len(np.unique(np.asarray(image))) > 10
