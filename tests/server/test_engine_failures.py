"""How a job fails in the worker: each cause has its kind, a sentence and advice, and the next job runs."""

import errno
import io
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from core.config.presets import PRESETS
from core.errors import CheckpointError, ConfigError, DeviceMemoryError, InputError, NoSurfaceError
from core.files import write_atomically
from server.errors import FAILURES
from server.worker import engine as engine_module
from server.worker import protocol
from server.worker.engine import JobTooLarge
from tests.support.engine_bench import Bench
from tests.support.live_server import picture_bytes
from tests.support.tiny_models import save_tiny_weights
from tests.support.tiny_presets import TINY_TWO


def failed(bench: Bench, command: protocol.Run | None = None, **how) -> protocol.Failed:
    """The end of a job that must fail."""
    end = bench.run(command, **how)
    assert isinstance(end, protocol.Failed), end
    assert end.kind in FAILURES and end.message and end.advice.endswith(".")
    return end


def raising(monkeypatch, error: BaseException) -> None:
    """From inside the generation."""

    def fail(*arguments, **named):
        raise error

    monkeypatch.setattr(engine_module, "generate", fail)


# --- what torch, its devices and we ourselves raise ---

MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 40.00 GiB. GPU 0 has ..."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
    MemoryError(),
    DeviceMemoryError("cpu has too little free memory for dense_dit.safetensors. Free some, or use another device."),
]
DEVICE = [
    RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."),
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("HIP error: invalid device function"),
    RuntimeError("MPS backend: command buffer exited with error status"),
]
if hasattr(torch, "AcceleratorError"):  # since torch 2.8
    DEVICE += [torch.AcceleratorError("CUDA error: unspecified launch failure"), torch.AcceleratorError("")]
    MEMORY += [torch.AcceleratorError("CUDA error: out of memory")]
OTHERS = [
    (InputError("the picture shows nothing."), "image_unusable"),
    (ConfigError("resolution is 9."), "options_unusable"),
    (NoSurfaceError("no shape was found."), "no_surface"),
    (CheckpointError("x.safetensors is damaged."), "weights_unusable"),
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/x"), "disk_full"),
    (JobTooLarge("the job's files would take more than 1 MiB."), "job_too_large"),
    (ZeroDivisionError("division by zero"), "internal"),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "internal"),
    (RuntimeError("an error about a CUDA error: in the middle"), "internal"),
    (KeyError(), "internal"),
    (AssertionError(), "internal"),
]


def title(value: object) -> str:
    return repr(value)[:50] if isinstance(value, BaseException) else str(value)


@pytest.mark.parametrize("error", MEMORY, ids=title)
def test_memory_that_ran_out(bench, monkeypatch, error):
    raising(monkeypatch, error)
    end = failed(bench)
    assert end.kind == "out_of_memory" and end.fatal, "only a new process has all of its memory again"
    assert "memory" in end.message and "smaller resolution" in end.advice and "\n" not in end.message


@pytest.mark.parametrize("error", DEVICE, ids=title)
def test_a_device_that_failed(bench, monkeypatch, error):
    raising(monkeypatch, error)
    end = failed(bench)
    assert end.kind == "device_failed" and end.fatal, "after such an error every call fails"
    assert "the device reported an error" in end.message and "driver" in end.advice and "\n" not in end.message


@pytest.mark.parametrize(("error", "kind"), OTHERS, ids=title)
def test_everything_else(bench, monkeypatch, error, kind):
    raising(monkeypatch, error)
    end = failed(bench)
    assert end.kind == kind and not end.fatal
    if kind not in ("internal", "disk_full"):
        assert end.message == str(error)


def test_our_own_mistakes_are_logged_with_their_trace_and_the_user_s_are_not(bench, monkeypatch, caplog):
    raising(monkeypatch, InputError("the picture shows nothing."))
    failed(bench)
    assert not caplog.records
    raising(monkeypatch, ZeroDivisionError("division by zero"))
    end = failed(bench)
    (record,) = caplog.records
    assert record.exc_info[0] is ZeroDivisionError and record.job == end.job_id
    assert "ZeroDivisionError" in end.message


@pytest.mark.parametrize("stage", ["load", "image", "structure", "detail 32", "decode 32", "cleanup", "export"])
def test_a_failure_at_any_stage_leaves_the_engine_good(bench, stage):
    def fail(event):
        if isinstance(event, protocol.Progress) and event.stage == stage:
            raise RuntimeError("CUDA error: device-side assert triggered")

    bench.watch = fail
    command = bench.command()
    assert failed(bench, command).kind == "device_failed"
    assert not Path(command.folder, "job.json").exists()
    bench.watch = lambda event: None
    if stage in ("load", "decode 32"):
        assert isinstance(bench.run(), protocol.Done)


def test_every_kind_has_advice():
    assert engine_module._ADVICE.keys() <= FAILURES.keys()
    assert FAILURES.keys() - engine_module._ADVICE.keys() == {
        "worker_died",
        "worker_hung",
        "worker_garbled",
        "interrupted_twice",
    }


# --- files ---


@pytest.mark.parametrize("room", [0, 100, 2000, 20_000])
def test_a_job_may_not_take_more_room_than_allowed(bench, room):
    command = bench.command(max_bytes=room)
    end = failed(bench, command)
    written = [path for path in Path(command.folder).iterdir() if path.name != "source"]
    assert end.kind == "job_too_large" and "MiB that a job may" in end.message
    assert sum(path.stat().st_size for path in written) <= room
    assert {path.name for path in written} == {event.name for event in bench.of(protocol.ArtifactWritten)}


def test_the_room_of_one_job_is_not_that_of_the_next(bench):
    bench.run(job_id="a" * 32)
    size = sum(event.bytes for event in bench.of(protocol.ArtifactWritten))
    for _ in range(2):
        assert isinstance(bench.run(job_id="a" * 32, max_bytes=size + 1000), protocol.Done)
    assert failed(bench, job_id="a" * 32, max_bytes=size - 1000).kind == "job_too_large"


@pytest.mark.parametrize("name", ["input.png", "mesh.glb", "job.json"])
def test_a_full_disk(bench, monkeypatch, name):
    def full(path, content):
        if path.name != name:
            return write_atomically(path, content)
        monkeypatch.setattr("os.fsync", no_room)
        try:
            return write_atomically(path, content)
        finally:
            monkeypatch.undo()

    def no_room(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(engine_module, "write_atomically", full)
    command = bench.command()
    end = failed(bench, command)
    assert end.kind == "disk_full" and name in end.message and "Free some space" in end.advice
    assert name not in [event.name for event in bench.of(protocol.ArtifactWritten)]
    assert not [path for path in Path(command.folder).iterdir() if path.name.startswith((name, f".{name}"))]


def test_a_folder_that_was_removed_meanwhile_is_not_the_picture_s_fault(bench):
    def remove(event):
        if isinstance(event, protocol.Progress) and event.stage == "detail 32":
            shutil.rmtree(bench.folder / event.job_id, ignore_errors=True)

    bench.watch = remove
    assert failed(bench).kind == "internal"
    bench.watch = lambda event: None
    command = bench.command()
    shutil.rmtree(command.folder)
    assert failed(bench, command).kind == "internal"
    command = bench.command()
    Path(command.folder, "preview.png").mkdir()
    end = failed(bench, command)
    assert end.kind == "internal" and "preview.png" in end.message


# --- pictures ---


def test_pictures_that_cannot_be_used(bench):
    good, nothing = picture_bytes(), io.BytesIO()
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(nothing, "PNG")
    for bad in (b"", b"no picture", good[: len(good) // 2], nothing.getvalue()):
        end = failed(bench, picture=bad)
        assert end.kind == "image_unusable" and not end.fatal
        assert bench.of(protocol.ArtifactWritten) == [] or bad == nothing.getvalue()


# --- presets and options ---


def test_weights_that_are_missing_damaged_or_of_another_network(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny-two", TINY_TWO)
    bench = Bench(tmp_path, tmp_path / "models")
    assert failed(bench).kind == "weights_unusable"
    save_tiny_weights(TINY_TWO, tmp_path / "models")
    path = tmp_path / "models" / "tiny-two" / "dense_dit.safetensors"
    whole = path.read_bytes()
    for content in (
        b"",
        whole[: len(whole) // 2],
        b"\x80\x04pickle",
        path.with_name("conditioner.safetensors").read_bytes(),
    ):
        path.write_bytes(content)
        end = failed(bench)
        assert end.kind == "weights_unusable" and "dense_dit" in end.message and not end.fatal
    path.write_bytes(whole)
    assert isinstance(bench.run(dense_steps=1, sparse_steps=1), protocol.Done), "once they are there it goes on"


def test_a_preset_that_is_no_more(bench):
    command = bench.command()
    command.options["preset"] = "gone"
    end = failed(bench, command)
    assert end.kind == "options_unusable" and "gone" in end.message


def test_options_that_do_not_fit_the_picture(bench):
    end = failed(bench, max_tokens=1)
    assert end.kind == "options_unusable" and "at most 1" in end.message


def test_options_of_another_version(bench):
    for change in ({"new_option": 1}, {"faces": 3}, {"formats": []}):
        command = bench.command()
        command.options.update(change)
        assert failed(bench, command).kind in ("internal", "options_unusable")
    command = bench.command()
    del command.options["turntable"]
    assert failed(bench, command).kind == "internal"
