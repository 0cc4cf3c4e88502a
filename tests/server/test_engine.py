"""What the worker makes of a picture: files and their digests, every format, progress, cancelling at every stage."""

import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
import psutil
import pytest
import trimesh
from PIL import Image

from core.config.generation import MESH_FORMATS
from core.errors import ConfigError
from server.jobs.estimate import Estimate, job_stages
from server.jobs.model import ARTIFACTS
from server.worker import protocol
from server.worker.engine import Engine
from tests.support.live_server import picture_bytes
from tests.support.tiny_presets import TINY_TWO

ALWAYS = ["input.png", "coarse.glb", "mesh.glb", "preview.png", "job.json"]  # in order


class RedIsTheObject:
    """A matting network that a test can look into."""

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        return np.where(rgb[..., 0] > 127, 255, 0).astype(np.uint8)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def gltf(content: bytes) -> dict:
    """The JSON part of a binary glTF file."""
    magic, version, total, length, kind = struct.unpack("<4sII I4s", content[:20])
    assert (magic, version, total, kind) == (b"glTF", 2, len(content), b"JSON")
    return json.loads(content[20 : 20 + length])


def test_a_photograph_is_cut_out_by_the_matting_network_that_came_meanwhile(bench, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    noise[..., 0] = 20
    noise[20:40, 20:40] = (230, 20, 20)
    content = io.BytesIO()
    Image.fromarray(noise).save(content, format="PNG")
    alphas = []
    try:
        for installed in (None, RedIsTheObject()):
            monkeypatch.setattr("server.worker.engine.installed_matting", lambda models_dir, found=installed: found)
            command = bench.command(picture=content.getvalue())
            assert isinstance(bench.run(command), protocol.Done)
            used = np.asarray(Image.open(Path(command.folder, "input.png")))
            alphas.append(used[..., 3] if used.shape[-1] == 4 else np.full((60, 60), 255))
    finally:
        bench.engine._matting = None
    assert alphas[0].min() == 255 and alphas[1][30, 30] == 255 and alphas[1][5, 5] == 0


def test_a_picture_becomes_a_mesh_and_every_file_is_told_as_it_lies_there(bench):
    command = bench.command()
    done = bench.run(command)
    assert isinstance(done, protocol.Done)
    told = bench.of(protocol.ArtifactWritten)
    assert [artifact.name for artifact in told] == ALWAYS
    for artifact in told:
        content = Path(command.folder, artifact.name).read_bytes()
        assert artifact.bytes == len(content) > 0
        assert artifact.sha256 == hashlib.sha256(content).hexdigest()
        assert artifact.name in ARTIFACTS
    assert names(Path(command.folder)) == {"source", *ALWAYS}, "no half-written file is left"


def test_a_file_is_whole_when_it_is_told(bench):
    command = bench.command()

    def look(event):
        if isinstance(event, protocol.ArtifactWritten):
            assert Path(command.folder, event.name).stat().st_size == event.bytes

    bench.watch = look
    assert isinstance(bench.run(command), protocol.Done)


def test_the_result_says_what_was_made(bench):
    command = bench.command(resolution=None, faces=None)
    result = bench.run(command).result
    mesh = trimesh.load(Path(command.folder, "mesh.glb"), force="mesh", process=False)
    assert (len(mesh.vertices), len(mesh.faces)) == (result["vertices"], result["faces"]) and result["faces"] > 10
    assert result["device"] == "cpu" and result["dtype"] == "float32" and type(result["watertight"]) is bool
    assert result["tokens"].keys() == {"detail 32", "detail 64"} and min(result["tokens"].values()) > 0
    assert list(result["timings"]) and set(result["timings"]) == set(job_stages(TINY_TWO))
    assert result["seconds"] > 0 and all(seconds >= 0 for seconds in result["timings"].values())


def test_job_json_has_all_that_makes_the_same_mesh_again(bench):
    command = bench.command(sparse_steps=1)
    result = bench.run(command).result
    described = json.loads(Path(command.folder, "job.json").read_bytes())
    assert described["job_id"] == command.job_id and described["title"] == "box.png"
    assert described["image_sha256"] == hashlib.sha256(picture_bytes()).hexdigest()
    assert described["options"] == command.options and described["seed"] == 7 and described["result"] == result
    assert described["settings"]["sparse_steps"] == [1] and described["settings"]["dense_steps"] == 3
    assert described["settings"]["versions"].keys() == {"s2mesh", "torch", "python"}
    assert result["faces"] <= 200 and described["settings"]["resolution"] == 32
    extras = json.dumps(gltf(Path(command.folder, "mesh.glb").read_bytes()))
    assert command.job_id in extras and described["image_sha256"] in extras


def test_the_same_job_gives_the_same_bytes_and_another_seed_does_not(bench):
    def digests(**how) -> dict[str, str]:
        bench.run(job_id="a" * 32, **how)
        return {event.name: event.sha256 for event in bench.of(protocol.ArtifactWritten) if event.name != "job.json"}

    first = digests()
    assert digests() == first
    other = digests(seed=8)
    assert other["input.png"] == first["input.png"] and other["mesh.glb"] != first["mesh.glb"]


def test_every_format_holds_the_same_mesh(bench):
    command = bench.command(formats=list(MESH_FORMATS))
    result = bench.run(command).result
    meshes = [event.name for event in bench.of(protocol.ArtifactWritten) if event.name.startswith("mesh.")]
    assert meshes == [f"mesh.{name}" for name in MESH_FORMATS]
    for name in meshes:
        path = Path(command.folder, name)
        mesh = trimesh.load(path, force="mesh", process=False)
        assert len(mesh.faces) == result["faces"], name
        assert path.stat().st_size > 100
    text = Path(command.folder, "mesh.obj").read_text()
    assert sum(line.startswith("f ") for line in text.splitlines()) == result["faces"]
    assert Path(command.folder, "mesh.ply").read_bytes().startswith(b"ply\n")


def test_only_what_was_asked_for_is_made(bench):
    command = bench.command(formats=["stl"])
    assert isinstance(bench.run(command), protocol.Done)
    assert names(Path(command.folder)) == {"source", "input.png", "coarse.glb", "mesh.stl", "preview.png", "job.json"}


def test_pictures_of_the_mesh(bench):
    command = bench.command(turntable=True)
    assert isinstance(bench.run(command), protocol.Done)
    assert [event.name for event in bench.of(protocol.ArtifactWritten)] == [*ALWAYS[:-1], "turntable.webp", "job.json"]
    with Image.open(Path(command.folder, "preview.png")) as preview:
        assert preview.format == "PNG" and preview.size == (512, 512) and preview.getextrema()[0] != (0, 0)
    with Image.open(Path(command.folder, "turntable.webp")) as turntable:
        assert turntable.format == "WEBP" and turntable.n_frames > 8


def test_the_picture_as_used_shows_what_is_taken_for_the_object(bench):
    opaque = io.BytesIO()
    with Image.open(io.BytesIO(picture_bytes())) as picture:
        plain = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        plain.alpha_composite(picture)
    plain.convert("RGB").save(opaque, "PNG")
    command = bench.command(picture=opaque.getvalue())
    assert isinstance(bench.run(command), protocol.Done)
    with Image.open(Path(command.folder, "input.png")) as used:
        assert used.mode == "RGBA" and used.getpixel((0, 0))[3] == 0 and used.getpixel((25, 20))[3] == 255
    bench.run(whole := bench.command(picture=opaque.getvalue(), background="none"))
    with Image.open(Path(whole.folder, "input.png")) as used:
        assert used.getpixel((0, 0))[3] == 255


def test_the_coarse_shape_comes_before_the_details(bench):
    bench.run()
    told = [getattr(event, "name", None) or getattr(event, "stage", None) for event in bench.events]
    assert told.index("coarse.glb") < told.index("detail 32") < told.index("mesh.glb")


@pytest.mark.parametrize("resolution", [32, None])
def test_progress_goes_through_the_stages_that_were_announced(bench, resolution):
    bench.run(resolution=resolution)
    stages = job_stages(TINY_TWO, resolution)
    steps = bench.of(protocol.Progress)
    assert list(dict.fromkeys(event.stage for event in steps)) == stages
    for stage in stages:
        of_stage = [event for event in steps if event.stage == stage]
        done = [event.step / max(event.steps, 1) for event in of_stage]
        assert done[0] == 0.0 and done[-1] == 1.0 and done == sorted(done), stage
    estimate = Estimate(stages, {})
    assert [estimate.after(event)[0] for event in steps][-1] == pytest.approx(1.0)
    assert estimate.measured.keys() == set(stages)


def test_a_note_is_passed_on_and_kept(bench):
    noise = io.BytesIO()
    Image.effect_noise((50, 40), 200).convert("RGB").save(noise, "PNG")  # no background that could be cut away
    command = bench.command(picture=noise.getvalue())
    assert isinstance(bench.run(command), protocol.Done)
    notes = [note.message for note in bench.of(protocol.Note)]
    assert notes and notes == json.loads(Path(command.folder, "job.json").read_bytes())["notes"]


def test_the_networks_stay_for_the_next_job_and_go_for_another_preset(bench):
    bench.run()
    networks = bench.engine._networks
    assert bench.engine.heartbeat().preset == "tiny-two"
    bench.run()
    assert bench.engine._networks is networks
    bench.run(preset="tiny")
    assert bench.engine._networks is not networks and bench.engine.heartbeat().preset == "tiny"


def test_what_the_engine_says_of_itself(bench):
    ready = bench.engine.ready()
    assert (ready.device, ready.dtype) == (
        "cpu",
        "float32",
    ) and ready.memory.total_bytes == psutil.virtual_memory().total
    memory = bench.engine.heartbeat().memory
    assert 0 < memory.used_bytes < memory.total_bytes and 0 < memory.free_bytes <= memory.total_bytes


def test_a_device_that_is_not_there():
    with pytest.raises(ConfigError, match="cuda:99"):
        Engine("cuda:99", "auto", None, print)
    with pytest.raises(ConfigError, match="float8"):
        Engine("cpu", "float8", None, print)


# --- cancelling ---


@pytest.mark.parametrize("stage", [*job_stages(TINY_TWO, 32), "detail 64"])
def test_a_cancel_stops_at_the_next_step_of_any_stage(bench, stage):
    def cancel(event):
        if isinstance(event, protocol.Progress) and event.stage == stage:
            bench.engine.cancel(event.job_id)

    bench.watch = cancel
    command = bench.command(resolution=64 if stage == "detail 64" else 32)
    assert isinstance(bench.run(command), protocol.Cancelled)
    last = bench.of(protocol.Progress)[-1]
    assert (last.stage, last.step) == (stage, 0), "nothing was done after it"
    assert "job.json" not in names(Path(command.folder))


@pytest.mark.parametrize("name", ALWAYS[:-1])
def test_a_cancel_between_files(bench, name):
    def cancel(event):
        if isinstance(event, protocol.ArtifactWritten) and event.name == name:
            bench.engine.cancel(event.job_id)

    bench.watch = cancel
    command = bench.command()
    assert isinstance(bench.run(command), protocol.Cancelled)
    assert [event.name for event in bench.of(protocol.ArtifactWritten)] == ALWAYS[: ALWAYS.index(name) + 1]


def test_a_cancel_before_the_job_and_one_of_another_job(bench):
    command = bench.command()
    bench.engine.cancel(command.job_id)
    assert isinstance(bench.run(command), protocol.Cancelled) and len(bench.events) == 1
    assert isinstance(bench.run(command), protocol.Done), "a cancel counts once"
    bench.engine.cancel("f" * 32)
    assert isinstance(bench.run(), protocol.Done)


def test_a_cancel_of_the_next_job_right_after_the_end_of_this_one(bench):
    """The server hands over the next job, and its cancel, as soon as it hears of the end."""
    following = bench.command()

    def cancel(event):
        if isinstance(event, protocol.Done):
            bench.engine.cancel(following.job_id)

    bench.watch = cancel
    assert isinstance(bench.run(), protocol.Done)
    assert isinstance(bench.run(following), protocol.Cancelled)
