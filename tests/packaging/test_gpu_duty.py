"""The duties of a GPU machine: what is run, in what order and how long, and that results come back."""

import json
import sys
from pathlib import Path

import pytest

from tests.bench.parts.results import parser_of


@pytest.fixture
def duty(load):
    return load("gpu_duty")


def planned(duty, *arguments, machine=None, minutes=9.0):
    options = duty.build_parser().parse_args([*arguments, "--out", "out"])
    found = duty.duties(options, {"gpu": "NVIDIA X"} if machine is None else machine)
    return {one.name: one.command(min(minutes, minutes * one.share)) for one in found}, found


def test_one_call_does_everything_and_trains_last(duty):
    commands, found = planned(duty, "--all")
    assert list(commands) == ["parity", "tests", "bench ssa", "bench conv", "bench block", "report", "train"]
    assert "tests/gpu" in commands["tests"] and "tests/core/ops/kernels" in commands["tests"]
    for name in ("ssa", "conv", "block"):
        command = commands[f"bench {name}"]
        assert command[:3] == [sys.executable, "-m", f"tests.bench.{name}"]
        assert "--backward" in command and command[command.index("--device") + 1] == "cuda"
        minutes = float(command[command.index("--minutes") + 1])
        assert 0 < minutes < 9 * next(one.share for one in found if one.name == f"bench {name}")
    assert commands["train"][commands["train"].index("--minutes") + 1] == "8.50"


def test_training_starts_only_if_there_is_time_or_it_was_asked_for(duty):
    assert planned(duty, "--all", minutes=1.2)[0]["train"] == []
    command = planned(duty, "--train", "20", "--phases", "sparse_dit", minutes=1.2)[0]["train"]
    assert command[command.index("--minutes") + 1] == "20.00" and command[-2:] == ["--phases", "sparse_dit"]


def test_benchmarks_by_name(duty):
    assert list(planned(duty, "--bench")[0]) == ["bench ssa", "bench conv", "bench block", "report"]
    for name in ("ssa", "conv", "block"):  # and the benchmark understands it
        options = parser_of(name, "").parse_args(planned(duty, "--bench", name, "--quick")[0][f"bench {name}"][3:])
        assert options.quick and options.backward and options.results == Path("out") and options.minutes > 0
    commands, _ = planned(duty, "--bench", "starter", "extraction")
    assert commands == {
        f"bench {name}": [sys.executable, "-m", f"tests.bench.{name}", "--json"] for name in ("starter", "extraction")
    }
    assert "--device" not in planned(duty, "--bench", "ssa", machine={})[0]["bench ssa"]


def test_kernels_do_not_run_in_the_interpreter(duty, monkeypatch, tmp_path):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    options = duty.build_parser().parse_args(["--all", "--reference", str(tmp_path)])
    environment = duty.environment_of(options)
    assert "TRITON_INTERPRET" not in environment
    assert environment["DIRECT3D_S2_REFERENCE"] == str(tmp_path)


def test_a_duty_that_fails_or_hangs_is_recorded_with_what_it_said(duty, monkeypatch, tmp_path):
    script = "import sys, time; print('{\"ms\": 1}', flush=True); time.sleep(float(sys.argv[1])); sys.exit('broken')"
    commands = {
        "fails": lambda _: [sys.executable, "-c", script, "0"],
        "hangs": lambda _: [sys.executable, "-c", script, "600"],
        "late": lambda _: [],
    }
    monkeypatch.setattr(duty, "describe", lambda environment: {})
    monkeypatch.setattr(
        duty, "duties", lambda options, machine: [duty.Duty(f"bench {k}", v, 0.02) for k, v in commands.items()]
    )
    assert duty.main(["--bench", "--out", str(tmp_path), "--minutes", "2"]) == 1
    fails, hangs, late = json.loads((tmp_path / "duty.json").read_text())["duties"]
    assert fails["status"] == 1 and fails["rows"] == [{"ms": 1}] and fails["last_lines"][-1] == "broken"
    assert hangs["status"] == 124 and hangs["rows"] == [{"ms": 1}]
    assert late["status"] is None and "no time" in late["why"]


def test_results_and_weights_come_back(duty, tmp_path):
    results, run, out = (tmp_path / name for name in ("results", "run", "out"))
    for folder in (results, run / "starter", out):
        folder.mkdir(parents=True)
    (results / "nvidia-x.json").write_text("{}")
    (run / "starter" / "dense_dit.safetensors").write_bytes(b"x" * 10)
    (run / "starter" / "large.safetensors").write_bytes(b"x" * (duty.LARGEST_FILE + 1))
    (run / "log.jsonl").write_text("")
    duty.keep_results(results, out)
    duty.keep_training(run, out)
    kept = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    assert kept == ["nvidia-x.json", "starter/dense_dit.safetensors", "starter/log.jsonl"]


def test_without_a_folder_for_results_nothing_runs(duty, monkeypatch):
    monkeypatch.delenv("OUT", raising=False)
    with pytest.raises(SystemExit, match="--out"):
        duty.main(["--all"])
