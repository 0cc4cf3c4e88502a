"""Every kind of failure becomes one line and the right status."""

import errno

import pytest
import torch

from core.cli.errors import DEBUG_VARIABLE, describe, run_reporting
from core.errors import (
    CheckpointError,
    DeviceMemoryError,
    DiskFullError,
    InputError,
    NoSurfaceError,
    is_memory_error,
)


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    monkeypatch.delenv(DEBUG_VARIABLE, raising=False)


def failing(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("chair.png is no picture.\nGive a PNG."), 2),
        (CheckpointError("weights missing"), 2),
        (NoSurfaceError("nothing there"), 1),
        (MemoryError(), 1),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ..."), 1),
        (ValueError("two\nlines"), 1),
        (KeyboardInterrupt(), 130),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 1),
        (OSError(errno.ENOSPC, "No space left on device", "mug.glb"), 1),
        (DiskFullError("no space left for mug.glb. Free some and run again."), 1),
    ],
)
def test_one_line_and_a_status(error, status, capsys):
    assert run_reporting(failing(error)) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1 and captured.err.startswith("s2mesh: ")


def test_a_result_passes_through():
    assert run_reporting(lambda: 3) == 3
    assert run_reporting(lambda: None) == 0
    with pytest.raises(SystemExit):
        run_reporting(failing(SystemExit(2)))


def test_debug_shows_the_traceback_before_the_line(monkeypatch, capsys):
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    run_reporting(failing(InputError("no picture")))
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("s2mesh: error: no picture\n")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.0 GB)"),
        DeviceMemoryError("told already"),
    ],
)
def test_memory_errors_are_known_by_class_or_words(error):
    assert is_memory_error(error)
    message, status = describe(error)
    assert status == 1 and ("smaller preset" in message or message == "told already")


def test_other_errors_are_no_memory_errors():
    assert not is_memory_error(RuntimeError("shapes do not match"))
    assert "bug in S2 Mesh" in describe(RuntimeError("shapes do not match"))[0]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_no_bug_wherever_it_is_met(code):
    message, status = describe(OSError(code, "so says the system", "mug.glb"))
    assert status == 1 and message == "no space left for mug.glb (so says the system). Free some and run again."
    assert "bug in S2 Mesh" in describe(OSError(errno.EIO, "Input/output error"))[0]
