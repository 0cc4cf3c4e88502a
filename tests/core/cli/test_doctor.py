"""The doctor's report: complete, machine-readable, and honest about what is missing."""

import json

import torch

from core.cli import doctor
from core.config.presets import PRESETS
from core.ops.backend import OPS
from core.pipeline.memory_plan import MODES


def test_json_names_devices_backends_and_presets(capsys, tmp_path):
    status = doctor.main(["--json", "--models-dir", str(tmp_path)])
    report = json.loads(capsys.readouterr().out)
    assert status == (1 if report["problems"] else 0)
    assert report["torch"] == torch.__version__
    assert report["devices"][-1]["device"] == "cpu" and all(entry["works"] is True for entry in report["devices"])
    assert {entry["op"] for entry in report["backends"]} == set(OPS)
    assert {entry["preset"] for entry in report["presets"]} == set(PRESETS)
    for entry in report["presets"]:  # also of those that are not installed
        assert entry["memory"] in MODES and entry["memory_why"].startswith(f"{entry['memory']}: at most about")


def test_a_preset_that_lacks_files_is_not_installed(tmp_path):
    report = doctor.examine(tmp_path)
    released = next(entry for entry in report["presets"] if entry["preset"] == "direct3d-s2-v1.1")
    assert not released["installed"] and released["missing"] and released["folder"].startswith(str(tmp_path))


def test_a_device_that_fails_is_a_problem(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_works", lambda device: "no kernel image")
    assert doctor.main([]) == 1
    assert "cannot compute: no kernel image" in capsys.readouterr().out
