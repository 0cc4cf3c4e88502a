"""``s2mesh models`` from end to end, with a tiny release in the authors' layout and a server that plays the hub."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from core.checkpoints import convert_direct3d_s2 as conversion
from core.checkpoints import store
from core.checkpoints.load import NetworkStore
from core.cli import models as models_command
from core.cli.errors import run_reporting
from core.cli.models import main
from core.config import presets, releases
from core.errors import DownloadError
from tests.support import tiny_release
from tests.support.fake_hub import FakeHub
from tests.support.released_config import shrunk

ROOT = Path(__file__).resolve().parents[3]
NAME = tiny_release.NAME
WEIGHTS = "somebody/tiny/v1/model_sparse_1024.ckpt"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, bytes]:
    return tiny_release.write_hub(tmp_path_factory.mktemp("served"))


@pytest.fixture
def hub(served):
    with FakeHub(dict(served)) as started:
        yield started


@pytest.fixture
def known(monkeypatch):
    """The tiny release in this process, beside the starter."""
    monkeypatch.setattr(presets, "PRESETS", presets.PRESETS)
    before = dict(releases.RELEASES), dict(presets.PRESETS)
    tiny_release.know_release()
    monkeypatch.setattr(conversion, "config_from_authors", shrunk)
    yield
    for table, content in zip((releases.RELEASES, presets.PRESETS), before, strict=True):
        table.clear()
        table.update(content)


def run(*arguments: object) -> int:
    return run_reporting(lambda: main([str(argument) for argument in arguments]))


def start(hub: FakeHub, *arguments: object, **more) -> subprocess.Popen:
    """The command in a process of its own, as huggingface_hub reads HF_ENDPOINT when it is imported."""
    script = ROOT / "tests" / "support" / "tiny_release.py"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, str(script), *map(str, arguments)], env=environment, **pipes, **more)


def by_hand(served: dict[str, bytes], folder: Path) -> Path:
    for path, content in served.items():
        name = Path(path).name
        target = folder / ("dinov2.safetensors" if name == "model.safetensors" else name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return folder


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_download_survives_a_kill_and_a_dead_server_and_ends_in_a_preset(hub, served, known, tmp_path, capsys):
    hub.gate = threading.Event()
    process = start(hub, "download", NAME, "--yes", "--json", "--models-dir", tmp_path)
    assert hub.waiting.wait(60), process.stderr.read()
    process.kill()  # in the middle of a file
    process.communicate(timeout=60)
    hub.gate.set()
    hub.gate = None
    assert not (tmp_path / NAME).exists()

    hub.status["somebody/tiny/v1/model_refiner.ckpt"] = 503
    process = start(hub, "download", NAME, "--yes", "--json", "--models-dir", tmp_path)
    output, words = process.communicate(timeout=120)
    assert process.returncode == 1 and b"status 503" in words
    error = json.loads(output.splitlines()[-1])
    assert error["type"] == "error" and error["kind"] == "DownloadError" and "status 503" in error["message"]
    assert not (tmp_path / NAME).exists()

    hub.status.clear()
    hub.requests.clear()
    process = start(hub, "download", NAME, "--yes", "--json", "--models-dir", tmp_path)
    output, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    events = [json.loads(line) for line in output.splitlines()]
    assert events[-1] == {"type": "done", "name": NAME, "folder": str(tmp_path / NAME)}
    stages = list(dict.fromkeys(event["stage"] for event in events[:-1]))
    assert stages == ["check", "download", "convert"]
    assert "model_dense.ckpt" not in [name for name, _ in hub.fetched()], "it had come before"
    total = sum(len(content) for content in served.values())
    done = [event["done"] for event in events[:-1] if event["stage"] == "download"]
    assert done == sorted(done) and {event["total"] for event in events if event.get("stage") == "download"} == {total}

    networks = {f"{NAME}/{network}.safetensors" for network in presets.PRESETS[NAME].networks()}
    assert files_in(tmp_path) == networks | {"downloads.json", ".lock"}, "the originals are gone"
    NetworkStore(presets.PRESETS[NAME], tmp_path / NAME).get("sparse_dit_1024")
    assert run("verify", NAME, "--models-dir", tmp_path) == 0
    assert "is whole" in capsys.readouterr().out


def test_what_comes_along_may_fail(tmp_path, monkeypatch, capsys):
    def one(release, arguments, models_dir):
        if release.name == releases.MATTING:
            raise DownloadError("the hub is tired.")

    preset = "direct3d-s2-v1.1"
    monkeypatch.setattr(models_command, "_download_one", one)
    monkeypatch.setattr(models_command, "with_companions", lambda names, models_dir: [*names, releases.MATTING])
    assert run("download", preset, "--yes", "--models-dir", tmp_path) == 0
    assert "note: birefnet-lite, which comes along, did not come: the hub is tired." in capsys.readouterr().err
    assert run("download", preset, releases.MATTING, "--yes", "--models-dir", tmp_path) == 1


def test_nobody_to_ask(known, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("download", NAME, "--models-dir", tmp_path) == 2
    told = capsys.readouterr().err
    assert "licence MIT" in told and "Apache-2.0" in told and "Add --yes" in told and "GB" in told
    assert not list(tmp_path.iterdir())


def test_a_terminal_is_asked(served, known, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    folder = by_hand(served, tmp_path / "by hand")
    for answer, status in (("\n", 2), ("yes\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        assert run("download", NAME, "--from", folder, "--models-dir", tmp_path / "models") == status
        assert "Accept the licences" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    assert run("remove", NAME, "--models-dir", tmp_path / "models") == 2
    assert "Remove 9 files" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert run("remove", NAME, "--models-dir", tmp_path / "models") == 2
    assert run("remove", NAME, "--yes", "--models-dir", tmp_path / "models") == 0
    assert files_in(tmp_path / "models") == {"downloads.json", ".lock"}
    assert run("remove", "starter", "--yes") == 2
    assert "part of S2 Mesh" in capsys.readouterr().err


def test_convert_of_a_folder_fetched_by_hand(served, known, tmp_path, capsys):
    folder = by_hand(served, tmp_path / "by hand")
    before = files_in(folder)
    assert run("convert", folder, "--dtype", "float16", "--models-dir", tmp_path / "models") == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "models" / NAME)
    assert files_in(folder) == before
    assert run("convert", folder, "--models-dir", tmp_path / "models") == 2
    assert "--replace" in capsys.readouterr().err
    shutil.move(folder / "dinov2.safetensors", tmp_path / "eye.safetensors")
    assert run("convert", folder, "--replace", "--models-dir", tmp_path / "models") == 2
    assert "lacks model.safetensors of DINOv2" in capsys.readouterr().err
    encoder = ("--dinov2", tmp_path / "eye.safetensors")
    assert run("convert", folder, "--replace", "--models-dir", tmp_path / "models", *encoder) == 0


def test_an_interrupted_conversion_starts_over(served, known, tmp_path, monkeypatch, capsys):
    folder, models = by_hand(served, tmp_path / "by hand"), tmp_path / "models"
    left = models / f".{NAME}.killed" / "new"
    left.mkdir(parents=True)
    (left / "dense_dit.safetensors").write_bytes(b"half")
    save, calls = store.save_tensors, []

    def interrupted(*arguments, **more):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        save(*arguments, **more)

    monkeypatch.setattr(conversion, "save_tensors", interrupted)
    assert run("convert", folder, "--models-dir", models) == 130
    assert files_in(models) == {"downloads.json", ".lock"} and not (models / NAME).exists()
    assert run("list", "--models-dir", models) == 0 and "not installed" in capsys.readouterr().out
    monkeypatch.setattr(conversion, "save_tensors", save)
    assert run("convert", folder, "--models-dir", models) == 0


def test_foreign_and_damaged_folders_are_named(served, known, tmp_path, monkeypatch, capsys):
    folder, models = by_hand(served, tmp_path / "by hand"), tmp_path / "models"
    (folder / "model_dense.ckpt").write_bytes(served["somebody/tiny/v1/model_dense.ckpt"][:-50])
    assert run("download", NAME, "--yes", "--from", folder, "--models-dir", models) == 2
    assert "model_dense.ckpt is damaged or cut short" in capsys.readouterr().err
    by_hand(served, folder)
    assert run("download", NAME, "--yes", "--from", folder, "--models-dir", models) == 2
    assert "not the file that was downloaded first" in capsys.readouterr().err, "the damaged one was recorded"
    other = releases.Release(name="starter", title="", sources=releases.RELEASES[NAME].sources)
    monkeypatch.setitem(releases.RELEASES, "starter", other)
    (models / "downloads.json").unlink()
    assert run("download", "starter", "--replace", "--yes", "--from", folder, "--models-dir", models) == 2
    assert f"holds {NAME}, not starter" in capsys.readouterr().err


def test_verify_names_what_was_changed(served, known, tmp_path, capsys):
    assert run("convert", by_hand(served, tmp_path / "by hand"), "--models-dir", tmp_path) == 0
    made = tmp_path / NAME
    damaged = bytearray((made / "dense_dit.safetensors").read_bytes())
    damaged[-1] ^= 1
    (made / "dense_dit.safetensors").write_bytes(damaged)
    (made / "dense_vae.safetensors").write_bytes((made / "dense_vae.safetensors").read_bytes()[:-9])
    shutil.copy(made / "sparse_dit_1024.safetensors", made / "sparse_dit_512.safetensors")
    (made / "refiner_512.safetensors").unlink()
    assert run("verify", NAME, "--models-dir", tmp_path) == 1
    told = capsys.readouterr().err
    assert "dense_dit.safetensors was changed" in told and "dense_vae.safetensors is damaged" in told
    assert "of another size: resolution" in told and "refiner_512.safetensors is missing" in told
    assert run("verify", "direct3d-s2-v1.1", "--models-dir", tmp_path / "empty") == 2
    assert "s2mesh models download" in capsys.readouterr().err


def test_list_says_what_there_is(known, tmp_path, capsys):
    partial = tmp_path / ".downloads" / "somebody--tiny" / "v1" / "model_dense.ckpt.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(bytes(20_000_000))
    assert run("list", "--models-dir", tmp_path) == 0
    told = capsys.readouterr().out
    assert "part of S2 Mesh" in told and "not installed, 0.02 GB of originals here" in told and "Apache-2.0" in told
    assert run("list", "--json", "--models-dir", tmp_path) == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)["models"]}
    assert models["starter"]["bundled"] and models[NAME]["kept_bytes"] == 20_000_000
    assert models[NAME]["sources"][0]["license"] == "MIT"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signal")
def test_it_ends_with_who_started_it(hub, tmp_path):
    hub.gate = threading.Event()
    process = start(hub, "download", NAME, "--yes", "--json", "--attended", "--models-dir", tmp_path)
    assert hub.waiting.wait(60)
    process.stdin.close()
    assert process.wait(60) == 1
    process.send_signal(signal.SIGTERM)  # nobody is there any more
    assert any(name.endswith(".part") for name in files_in(tmp_path))
    process.stdout.close()
    process.stderr.close()
