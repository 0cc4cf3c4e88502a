"""Names of devices and dtypes: what exists is found, what does not is answered with what does."""

import platform
from pathlib import Path

import pytest
import torch

from core.errors import ConfigError
from core.pipeline.devices import available_devices, device_title, resolve_device, resolve_dtype


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two CUDA devices that only answer questions: one of capability 9.0 and one of 7.5."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: [(9, 0), (7, 5)][device.index])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "old GPU")


def test_auto_is_the_cpu_where_nothing_else_is(no_gpu):
    assert resolve_device("auto") == resolve_device() == resolve_device("cpu") == torch.device("cpu")
    assert resolve_dtype(torch.device("cpu")) is torch.float32


def test_auto_is_the_first_cuda_device(two_gpus):
    assert available_devices()[-1] == torch.device("cpu")
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cuda", "device 'cuda' is not available"),
        ("cuda:1", "Use|use one of: cpu"),
        ("mps", "needs macOS"),
        ("cpu:1", "does not exist"),
        ("cuda:", "there is no device"),
        ("cuda:-1", "there is no device"),
        ("cda", "Did you mean 'cuda'"),
        ("", "there is no device"),
    ],
)
def test_a_device_that_is_not_there(no_gpu, name, words):
    with pytest.raises(ConfigError, match=words):
        resolve_device(name)


def test_an_index_out_of_range_names_the_devices(two_gpus):
    with pytest.raises(ConfigError, match="this machine has cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_dtypes_follow_the_hardware(two_gpus):
    new, old = torch.device("cuda", 0), torch.device("cuda", 1)
    assert resolve_dtype(new) is torch.bfloat16
    assert resolve_dtype(old) is torch.float16
    assert resolve_dtype(old, "fp32") is torch.float32
    with pytest.raises(ConfigError, match="has no bfloat16"):
        resolve_dtype(old, "bfloat16")
    with pytest.raises(ConfigError, match="there is no dtype 'float8'"):
        resolve_dtype(new, "float8")


def test_every_device_has_a_title_and_the_cpu_its_maker_s():
    titles = [device_title(device) for device in available_devices()]
    assert all(titles)
    if Path("/proc/cpuinfo").exists() and platform.machine() == "x86_64":
        assert titles[-1] != "x86_64"
