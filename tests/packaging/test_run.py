"""packaging/run.py without installing anything: refusals, the plan of pip calls, state, lock, explanations."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "packaging" / "run.py"


# The guard -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(2, 7), (3, 9, 18), (3, 14), (4, 0)])
def test_other_versions_are_refused_in_one_line(load, version):
    line = load("run").refusal(version)
    assert "3.10 to 3.13" in line and "this one is {}.{}".format(*version) in line and "\n" not in line


def test_supported_versions_pass_and_32_bits_do_not(load):
    run = load("run")
    assert [run.refusal((3, minor)) for minor in range(10, 14)] == [None] * 4
    assert "32 bits" in run.refusal((3, 12), 32)


def test_the_guard_is_readable_for_old_interpreters():
    """No f-string, annotation or walrus: an old Python must get as far as its refusal."""
    tree = ast.parse(RUN.read_text(), feature_version=(3, 4))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr)]


def test_help_installs_nothing(tmp_path):
    environment = {**os.environ, "S2MESH_VENV": str(tmp_path / "venv")}
    for arguments, status in (["--help"], 0), ([], 2), (["--nonsense"], 2):
        result = subprocess.run([sys.executable, RUN, *arguments], env=environment, capture_output=True, text=True)
        assert result.returncode == status
        assert "run.py" in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_ours_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    environment = {**os.environ, "S2MESH_VENV": str(tmp_path)}
    result = subprocess.run([sys.executable, RUN, "setup"], env=environment, capture_output=True, text=True)
    assert result.returncode == 1
    assert "S2MESH_VENV" in result.stderr and "Traceback" not in result.stderr
    assert (tmp_path / "thesis.txt").exists()
    (tmp_path.parent / (tmp_path.name + ".lock")).unlink()


@pytest.mark.parametrize(
    ("arguments", "sets"),
    [
        (["setup"], ("runtime", "dev")),
        (["setup", "--runtime"], ("runtime",)),
        (["--cpu", "-v", "setup", "--runtime"], ("runtime",)),
        (["serve", "--help"], ("runtime",)),
        (["test"], ("runtime", "dev")),
    ],
)
def test_only_developers_get_the_test_tools(load, monkeypatch, tmp_path, arguments, sets):
    environment, asked = load("environment"), []
    monkeypatch.setenv("S2MESH_VENV", str(tmp_path))
    monkeypatch.setattr(environment, "is_current", lambda folder, wanted, build: asked.append(wanted) or True)
    monkeypatch.setattr(environment, "hand_over", lambda command: 0)
    monkeypatch.chdir(tmp_path)
    assert environment.main(arguments) == 0 and asked == [sets]


def test_runtime_belongs_to_setup(load, capsys):
    assert load("environment").main(["--runtime", "serve"]) == 2
    assert "no option '--runtime'" in capsys.readouterr().err


# The plan ------------------------------------------------------------------------------------------------


def test_gpus_are_read_from_the_driver_s_tool(load):
    module = load("install_plan")
    two = module.parse_machine("linux", "580.65.06, 9.0\n580.65.06, 7.5\n")
    assert (two.driver, two.capability, two.newest) == (580, 7.5, 9.0)
    for nothing in ("", "NVIDIA-SMI has failed because it couldn't communicate\n", "No devices were found\n"):
        assert module.parse_machine("linux", nothing).driver is None


@pytest.mark.parametrize(
    ("system", "driver", "capability", "wanted", "build", "index"),
    [
        ("linux", None, None, None, "cpu", "cpu"),
        ("linux", 580, 9.0, None, "cuda", None),  # pip's own index has CUDA 13 for Linux
        ("linux", 550, 8.6, None, "cuda", "cu126"),
        ("linux", 580, 6.1, None, "cuda", "cu126"),  # CUDA 13 has no Pascal
        ("linux", 470, 8.6, None, "cpu", "cpu"),
        ("linux", 570, 12.0, None, "cpu", "cpu"),  # CUDA 12.6 has no Blackwell
        ("linux", 580, 9.0, "cpu", "cpu", "cpu"),
        ("linux", None, None, "cuda", "cuda", None),
        ("win32", None, None, None, "cpu", None),
        ("win32", 581, 8.9, None, "cuda", "cu130"),
        ("darwin", None, None, None, "cpu", None),
    ],
)
def test_the_build_of_torch_fits_the_machine(load, system, driver, capability, wanted, build, index):
    module = load("install_plan")
    machine = module.Machine(system, driver, capability, capability)
    chosen, warning = module.choose_build(machine, wanted)
    assert (chosen, module.torch_index(machine, chosen)) == (build, index)
    assert (warning is not None) == (driver in (470, 570))


def test_cuda_on_macos_is_refused(load):
    module = load("install_plan")
    with pytest.raises(load("environment").SetupError, match="no CUDA on macOS"):
        module.choose_build(module.Machine("darwin"), "cuda")


def test_steps_of_a_first_run_and_of_a_change_of_build(load):
    plan = load("install_plan").plan
    first = [step.arguments for step in plan(("runtime", "dev"), "cpu", "cpu")]
    assert [Path(arguments[-1]).name for arguments in first] == ["common.txt", "torch.txt", "dev.txt", ROOT.name]
    assert "https://download.pytorch.org/whl/cpu" in first[1]
    assert all("--only-binary=:all:" in arguments for arguments in first[:3])
    changed = [step.arguments for step in plan(("runtime",), "cuda", None, replace_torch=True)]
    assert ("uninstall", "-y", "torch") in changed and not any("--index-url" in arguments for arguments in changed)
    assert [step.arguments[-1] for step in plan(("dev",), "cpu", None)] == [str(ROOT / "packaging/constraints/dev.txt")]


def test_every_requirement_is_pinned_once_per_python():
    from packaging.requirements import Requirement

    lines = [
        Requirement(line)
        for path in (ROOT / "packaging" / "constraints").glob("*.txt")
        if not path.stem.startswith("bpy-")  # of environments of their own; see test_bpy_environments.py
        for line in path.read_text().splitlines()
        if line and not line.startswith("#")
    ]
    assert all(str(line.specifier).startswith("==") for line in lines)
    for python in ("3.10", "3.11", "3.12", "3.13"):
        for system in ("linux", "win32", "darwin"):
            where = {"python_version": python, "sys_platform": system}
            names = [line.name for line in lines if line.marker is None or line.marker.evaluate(where)]
            assert len(names) == len(set(names))
            assert ("triton" in names, "triton-windows" in names) == (system == "linux", system == "win32")


def test_what_pyproject_asks_for_is_pinned():
    from packaging.requirements import Requirement

    paths = (ROOT / "packaging" / "constraints").glob("*.txt")
    pinned = "\n".join(path.read_text() for path in paths if not path.stem.startswith("bpy-"))
    text = (ROOT / "pyproject.toml").read_text()
    asked = []
    for name in ("dependencies", "server", "dev"):
        found = ast.literal_eval(text.split(f"\n{name} = ")[1].split("\n]")[0] + "]")
        assert len(found) > 5, name
        asked += found
    asked += ast.literal_eval(text.split("\nmatting = ")[1].split("\n")[0])
    for requirement in map(Requirement, asked):
        versions = [
            line.split("==")[1].split(";")[0]
            for line in pinned.splitlines()
            if line.startswith(requirement.name + "==")
        ]
        assert versions and all(requirement.specifier.contains(version) for version in versions), requirement


# State, lock, explanations -------------------------------------------------------------------------------


def test_current_means_everything_asked_for_was_completed(load, tmp_path):
    module = load("environment")
    version = sys.version_info[:2]
    done = {"runtime": module.digest("runtime", version)}
    module.python_of(tmp_path).parent.mkdir()
    module.python_of(tmp_path).touch()
    assert not module.is_current(tmp_path, ("runtime",), None)
    module.write_state(tmp_path, {"build": "cpu", "done": done})
    assert module.is_current(tmp_path, ("runtime",), None)
    assert module.is_current(tmp_path, ("runtime",), "cpu")
    assert not module.is_current(tmp_path, ("runtime",), "cuda")
    assert not module.is_current(tmp_path, ("runtime", "dev"), None)
    module.write_state(tmp_path, {"build": "cpu", "done": {"runtime": module.digest("runtime", (3, 9))}})
    assert not module.is_current(tmp_path, ("runtime",), None)
    (tmp_path / module.STATE).write_text('{"done": {"run')  # cut off by a power failure
    assert not module.is_current(tmp_path, ("runtime",), None)


def test_a_digest_follows_the_pins(load, tmp_path, monkeypatch):
    module = load("environment")
    before = module.digest("dev", (3, 11))
    assert before != module.digest("dev", (3, 12))
    monkeypatch.setattr(module, "CONSTRAINTS", tmp_path)
    (tmp_path / "dev.txt").write_text("pytest==9.9\n")
    assert module.digest("dev", (3, 11)) != before


def test_the_lock_is_free_again_when_its_holder_dies(load, tmp_path):
    module = load("pip_runner")
    path = tmp_path / "venv.lock"
    hold = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'packaging')!r}); import pathlib, pip_runner\n"
        f"with pip_runner.lock(pathlib.Path({str(path)!r}), lambda: None): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with path.open("a+b") as file:
            assert not module.try_lock(file)
            holder.kill()
            holder.wait()
            assert module.try_lock(file)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
        (
            "WARNING: Retrying ... NewConnectionError\nERROR: No matching distribution found for rich",
            "cannot be reached",
        ),
        ("ERROR: No matching distribution found for libigl==2.6.3", "no build for this system"),
        ("ERROR: something new", "failed: something new. Details"),
    ],
)
def test_failures_of_pip_are_explained(load, output, words):
    line = load("pip_runner").explain("installing the libraries", output.splitlines(), Path("install.log"))
    assert words in line and "\n" not in line and line.endswith("install.log")


def test_pip_runs_quietly_and_its_failure_is_raised(load, tmp_path, capsys):
    module, error = load("pip_runner"), load("environment").SetupError
    log = tmp_path / "install.log"
    module.run_pip(Path(sys.executable), "asking pip", ("--version",), log, verbose=False)
    assert "asking pip: done" in capsys.readouterr().err and "pip" in log.read_text()
    with pytest.raises(error, match="asking pip failed"):
        module.run_pip(Path(sys.executable), "asking pip", ("no-such-command",), log, verbose=False)


def test_an_interrupted_install_is_known_by_its_state(load, tmp_path):
    """`busy` stands in the state until pip is done; such a folder, if ours, is made anew, else it is kept."""
    module = load("installing")
    foreign = tmp_path / "venv"
    (foreign / "lib").mkdir(parents=True)
    (foreign / "s2mesh.json").write_text(json.dumps({"ours": False, "busy": True, "done": {}}))
    with pytest.raises(load("environment").SetupError, match="is no environment"):
        module.make_environment(foreign)
    assert (foreign / "lib").exists()
