"""The systemd units and the container file start `s2mesh serve` as it is: its options, port and grace time."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from server.commands.serve import build_parser

ROOT = Path(__file__).resolve().parents[2]
PACKAGING = ROOT / "packaging"
UNITS = ("s2mesh.service", "s2mesh-user.service")
# They break CUDA, or the compilers of PyTorch and Triton.
HARMFUL = {"MemoryDenyWriteExecute", "PrivateDevices", "DeviceAllow", "DevicePolicy", "ProtectClock", "ProcSubset"}


def unit(name: str) -> dict[str, str]:
    """Keys and values of a unit; a key that comes twice would be lost, so it is an error."""
    lines = [line.strip() for line in (PACKAGING / name).read_text().splitlines()]
    pairs = [tuple(line.split("=", 1)) for line in lines if line and line[0] not in "#["]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def container() -> list[tuple[str, str]]:
    """(instruction, the rest) of the container file, continued lines joined."""
    text = (PACKAGING / "server.Containerfile").read_text()
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


def of_container(instruction: str) -> list[str]:
    return [rest for name, rest in container() if name == instruction]


def command_of(name: str) -> list[str]:
    """What the file starts, as a list of words."""
    if name in UNITS:
        return shlex.split(unit(name)["ExecStart"])
    return [word for part in ("ENTRYPOINT", "CMD") for rest in of_container(part) for word in json.loads(rest)]


def serve_arguments(name: str) -> list[str]:
    command = command_of(name)
    assert Path(command[0]).name == "s2mesh" and command[1] == "serve"
    return command[2:]


@pytest.mark.parametrize("name", [*UNITS, "server.Containerfile"])
def test_serve_knows_every_option(name):
    arguments = serve_arguments(name)
    known = {text for action in build_parser()._actions for text in action.option_strings}  # no abbreviations
    assert {word for word in arguments if word.startswith("--")} <= known
    assert build_parser().parse_args(arguments).log == "json"


@pytest.mark.parametrize("name", UNITS)
def test_a_stop_leaves_the_running_job_its_grace_time(name):
    keys = unit(name)
    grace = build_parser().parse_args(serve_arguments(name)).grace
    assert grace == build_parser().get_default("grace")
    assert int(keys["TimeoutStopSec"]) >= grace + 15  # the worker's own end comes on top
    # With systemd's default the worker would get the signal too, and the job would be lost at once.
    assert (keys["KillMode"], keys["KillSignal"]) == ("mixed", "SIGTERM")
    assert (keys["Restart"], keys["RestartPreventExitStatus"]) == ("on-failure", "2")
    assert keys["OOMPolicy"] == "continue"


def test_the_service_runs_as_a_user_of_its_own_who_may_use_the_gpu():
    keys = unit("s2mesh.service")
    assert keys["User"] == "s2mesh" and keys["NoNewPrivileges"] == "yes" and keys["ProtectSystem"] == "strict"
    arguments = build_parser().parse_args(serve_arguments("s2mesh.service"))
    assert str(arguments.data_dir) == f"/var/lib/{keys['StateDirectory']}" and keys["StateDirectoryMode"] == "0700"
    assert arguments.host == "127.0.0.1"
    assert not HARMFUL & (set(keys) | set(unit("s2mesh-user.service")))


def test_the_user_s_service_keeps_its_jobs_where_the_other_verbs_look():
    assert "User" not in unit("s2mesh-user.service") and "--data-dir" not in serve_arguments("s2mesh-user.service")


@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_units(name, tmp_path):
    if not (verify := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze")
    text = (PACKAGING / name).read_text()
    text, replaced = re.subn(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.M)  # the real one is not here
    (tmp_path / name).write_text(text)
    manager = ["--user"] if "user" in name else []
    # Anything that is written counts: of an unknown key it warns, and returns 0. The name of a known bad one shows
    # that it does complain.
    for content, accepted in ((text, True), (text.replace("KillMode=", "KillMood="), False)):
        (tmp_path / name).write_text(content)
        result = subprocess.run(
            [verify, *manager, "verify", "--man=no", str(tmp_path / name)],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        complaints = [line for line in result.stderr.splitlines() if str(tmp_path) in line or name in line]
        assert replaced == 1 and (not complaints and result.returncode == 0) == accepted, result.stderr


def test_the_image_is_built_from_what_is_there():
    assert container()[0][0] == "FROM"
    copied = [word for rest in of_container("COPY") for word in rest.split()[:-1]]
    assert copied and all(list(ROOT.glob(pattern)) for pattern in copied)
    needed = ["LICENSE", "README.md", "pyproject.toml", "core", "server", "packaging/constraints", "packaging/*.py"]
    assert sorted(copied) == sorted(needed)
    install = next(rest for rest in of_container("RUN") if "run.py" in rest)
    assert 'packaging/run.py "--$BUILD" doctor' in install and "BUILD=cpu" in of_container("ARG")


def test_the_container_is_reached_by_clients_and_by_its_health_check():
    arguments = build_parser().parse_args(serve_arguments("server.Containerfile"))
    assert (arguments.host, str(arguments.data_dir)) == ("0.0.0.0", "/data") and of_container("VOLUME") == ["/data"]
    assert of_container("EXPOSE") == [str(arguments.port)]
    (check,) = of_container("HEALTHCHECK")
    code = json.loads(check.split("CMD", 1)[1])[-1]
    compile(code, "HEALTHCHECK", "exec")
    assert f"http://127.0.0.1:{arguments.port}/v1/health" in code


def test_the_container_s_server_is_not_root_and_is_asked_to_end():
    assert of_container("USER") == ["10001:10001"] and of_container("STOPSIGNAL") == ["SIGTERM"]
    names = [name for name, _ in container()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    text = (PACKAGING / "server.Containerfile").read_text()
    stop = int(re.search(r"--stop-timeout (\d+)", text).group(1))
    assert stop >= build_parser().parse_args(serve_arguments("server.Containerfile")).grace + 15
