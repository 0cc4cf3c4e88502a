"""``server/API.md`` against the code: its tables are those of the code, its walks run as they stand.

The tables are made here from what the server itself uses; a test that fails prints the table that belongs there.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trimesh

from core.config.generation import MAX_IMAGE_PIXELS
from server.api import jobs
from server.app import create_app
from server.client import Client
from server.commands import serve
from server.errors import CODES, DOWNLOAD_FAILURES, FAILURES
from server.jobs.model import ARTIFACTS, TRANSITIONS, JobState
from server.schemas import DownloadAnswer, JobAnswer, job_option_table
from server.security import Gate
from server.service import Service
from server.settings import Limits, ServerSettings
from tests.support.live_server import picture_bytes

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "server" / "API.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"API.md has no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the table in a section, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def assert_table(title: str, expected: list[list[str]]) -> None:
    lines = "\n".join(f"| {' | '.join(cells)} |" for cells in expected)
    assert rows(title) == expected, f"the table under {title!r} should be\n{lines}"


# --- tables ---


def as_json(value: object) -> str:
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def option_rows() -> list[list[str]]:
    """Of every option of a job."""
    made = []
    for row in job_option_table():
        limits = "" if row.minimum is None else f"{row.minimum} to {row.maximum}"
        if row.choices is not None:
            limits = (f"{limits} of " if limits else "") + ", ".join(f"`{choice}`" for choice in row.choices)
        kind = row.type + (" or null" if row.nullable else "")
        default = "the server's" if row.name == "preset" else as_json(row.default)
        made.append([f"`{row.name}`", kind, default, limits or "–", row.help])
    return made


def test_every_option_with_its_limits():
    assert_table("Options", option_rows())


def test_every_error_code_with_its_status():
    expected = [[str(status.value), f"`{code}`", text] for code, (status, text) in CODES.items()]
    assert_table("Refusals", expected)


def test_every_code_of_a_failed_job():
    assert_table("Failed jobs", [[f"`{code}`", text] for code, text in FAILURES.items()])


def test_every_code_of_a_failed_download():
    assert_table("Failed downloads", [[f"`{code}`", text] for code, text in DOWNLOAD_FAILURES.items()])


def test_the_example_of_a_download_is_one():
    download = json.loads(next(text for text in blocks("json") if '"accept' not in text and '"offer"' in text))
    assert list(download) == list(DownloadAnswer.model_fields)
    DownloadAnswer.model_validate(download)


def test_every_state_and_what_may_follow():
    listed = {state: following for state, _, following in rows("States")}
    order = list(JobState)
    expected = {
        f"`{state.value}`": ", ".join(f"`{other.value}`" for other in sorted(following, key=order.index)) or "–"
        for state, following in TRANSITIONS.items()
    }
    assert listed == expected


def test_every_artifact_with_its_type():
    expected = {f"`{name}`": f"`{media_type}`" for name, media_type in ARTIFACTS.items()}
    assert {name: media_type for name, media_type, _ in rows("Files")} == expected


def test_every_route(tmp_path):
    settings = ServerSettings(data_dir=tmp_path)
    gate = Gate("127.0.0.1", (), lambda: "")
    app = create_app(Service(settings=settings, store=None, files=None, supervisor=None, gate=gate))
    expected = {
        (method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule))
        for rule in app.url_map.iter_rules()
        if rule.rule.startswith("/v1/")
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    listed = [tuple(cells[0].strip("`").split(" ")) for cells in rows("Routes")]
    assert len(listed) == len(set(listed))
    assert {(method, path.replace("{id}", "{job_id}")) for method, path in listed} == expected


def test_limits_and_times():
    limits = Limits()
    expected = [
        f"{limits.body_bytes // 2**20} MiB",
        f"{limits.request_s:.0f} s",
        f"{MAX_IMAGE_PIXELS // 10**6} megapixels",
        f"{limits.queue} jobs",
        f"{limits.event_streams} event streams",
        f"{limits.job_bytes // 2**30} GiB",
        f"{limits.keep_jobs} finished jobs",
        f"{limits.keep_bytes // 2**30} GiB",
        f"{jobs.KEY_LIFE_S / 3600:.0f} hours",
    ]
    missing = [text for text in expected if text not in section("Limits")]
    assert not missing


def test_every_argument_of_serve_that_it_names():
    named = set(re.findall(r"--[a-z-]+", " ".join(re.findall(r"`s2mesh serve[^`]*`|`--[^`]*`", TEXT))))
    ours = {flag for action in serve.build_parser()._actions for flag in action.option_strings}
    clients = {"--server", "--token-file", "--data-dir", "--new"}
    assert named <= ours | clients


def test_the_example_of_a_job_is_one():
    job = json.loads(next(text for text in blocks("json") if '"queue_position"' in text))
    assert list(job) == list(JobAnswer.model_fields)
    JobAnswer.model_validate(job)
    assert list(job["options"]) == [row.name for row in job_option_table()]


def test_the_examples_of_events_are_like_real_ones(server):
    examples = [
        json.loads(line)
        for text in blocks("json")
        if '"at"' in text.split("\n")[0]
        for line in text.split("\n")
        if line
    ]
    with Client(data_dir=server.data_dir) as client:
        real = list(client.events(client.submit(picture_bytes())["id"]))
    for example in examples:
        if example["type"] != "note":
            assert {tuple(event) for event in real if event["type"] == example["type"]} == {tuple(example)}
    assert {event["type"] for event in examples} == {"state", "progress", "artifact", "note"}


# --- walks ---


@pytest.fixture
def machine(tmp_path, server):
    """A folder to work in and an environment in which `s2mesh` is this checkout's, with the server's data directory."""
    shim = tmp_path / "bin" / "s2mesh"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec {sys.executable} -m server.cli "$@" --data-dir {server.data_dir}\n')
    shim.chmod(0o755)
    folder = tmp_path / "work"
    (folder / "packaging" / "examples").mkdir(parents=True)
    (folder / "packaging" / "examples" / "mug.png").write_bytes(picture_bytes())
    path = f"{shim.parent}{os.pathsep}{os.environ['PATH']}"
    return folder, {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("bash")), reason="needs curl and bash")
def test_the_walk_with_curl(machine, server):
    folder, environment = machine
    script = "\n".join(blocks("bash"))
    address = "http://127.0.0.1:8493"
    assert script.count(address) == 1
    script = script.replace(address, server.url)
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert trimesh.load(folder / "mug.glb", force="mesh").faces.shape[0] > 100
    assert "event: progress\n" in result.stdout and '"state": "succeeded"' in result.stdout
    job_id = re.search(r'"id":"([0-9a-f]{32})"', result.stdout)[1]
    assert server.get(f"/v1/jobs/{job_id}").status_code == 404  # the walk's last step deletes it


def test_the_walk_in_python(machine, server):
    folder, environment = machine
    (script,) = blocks("python")
    assert script.count("Client()") == 1
    script = script.replace("Client()", f"Client(data_dir={str(server.data_dir)!r})")
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert trimesh.load(folder / "mug.glb", force="mesh").faces.shape[0] > 100
