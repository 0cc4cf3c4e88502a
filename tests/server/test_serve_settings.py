"""What `s2mesh serve` makes of its arguments, and which it refuses before anything is opened."""

import os

import pytest

from core.errors import ConfigError
from server.commands.serve import build_parser, settings_from


def made(*arguments: str):
    return settings_from(build_parser().parse_args(arguments))


def test_defaults_are_those_of_the_settings(tmp_path):
    settings = made("--data-dir", str(tmp_path))
    assert (settings.host, settings.port, settings.preset) == ("127.0.0.1", 8493, "starter")
    assert settings.data_dir == tmp_path and settings.worker.models_dir == tmp_path / "models"


@pytest.mark.parametrize(
    ("given", "host"),
    [
        ("0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("localhost", "localhost"),
        ("Box.local", "box.local"),
    ],
)
def test_a_host_takes_its_usual_form(given, host):
    assert made("--host", given).host == host


@pytest.mark.parametrize("host", ["", " ", "0", "1.2.3", "127.1", "a b", "http://x", "-x"])
def test_a_host_that_a_system_could_take_for_everywhere_is_refused(host):
    with pytest.raises(ConfigError, match="--host is .*must be an IP address or a name"):
        made(f"--host={host}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "65536"], "--port"),
        (["--port=-1"], "--port"),
        (["--idle-unload=-1"], "--idle-unload"),
        (["--grace", "nan"], "--grace"),
        (["--grace", "inf"], "--grace"),
        (["--keep-jobs=-3"], "--keep-jobs"),
        (["--keep-gb=-0.1"], "--keep-gb"),
        (["--preset", "nope"], "no preset 'nope'"),
        (["--parent-pid", "999999999"], "no such process"),
    ],
)
def test_values_that_cannot_be_meant(arguments, words):
    with pytest.raises(ConfigError, match=words):
        made(*arguments)


def test_everything_that_is_given_arrives(tmp_path):
    settings = made(
        "--port", "0", "--allow-host", "a.example", "--allow-host", "b.example", "--device", "cpu",
        "--dtype", "float32",
        "--idle-unload", "7", "--grace", "8", "--keep-jobs", "9", "--keep-gb", "0.5", "--parent-pid", str(os.getpid()),
        "--models-dir", str(tmp_path),
    )  # fmt: skip
    assert settings.allowed_hosts == ("a.example", "b.example") and settings.port == 0
    assert (settings.worker.device, settings.worker.dtype, settings.worker.idle_unload_s) == ("cpu", "float32", 7)
    assert (settings.grace_s, settings.limits.keep_jobs, settings.limits.keep_bytes) == (8, 9, 2**29)
    assert settings.parent_pid == os.getpid() and settings.worker.models_dir == tmp_path
