"""``s2mesh jobs`` and ``s2mesh token`` against a real server."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core.cli.errors import run_reporting
from server.client import Client
from server.commands import jobs, token
from tests.support.live_server import picture_bytes

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(server, capsys, monkeypatch, tmp_path):
    """Runs a verb in an empty folder; gives (status, output, error output)."""
    monkeypatch.delenv("S2MESH_TOKEN", raising=False)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(verb, *arguments, data_dir=server.data_dir):
        line = [str(word) for word in arguments] + (["--data-dir", str(data_dir)] if data_dir else [])
        status = run_reporting(lambda: verb.main(line))
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def done(server):
    """A job that has succeeded."""
    with Client(data_dir=server.data_dir) as client:
        return client.wait(client.submit(picture_bytes(), {"seed": 7}, title="box.png")["id"])


@pytest.fixture
def waiting(server):
    """Jobs of which the first runs slowly and the others wait, until two of them begin with the same digit."""
    server.fault("slow", "structure")
    with Client(data_dir=server.data_dir) as client:
        ids = [client.submit(picture_bytes(), {"dense_steps": 1000})["id"]]
        server.in_stage(ids[0], "structure")
        while len({job_id[0] for job_id in ids[1:]}) == len(ids[1:]):
            ids.append(client.submit(picture_bytes(), {"dense_steps": 1000})["id"])
        yield ids
        for job_id in ids[::-1]:
            client.cancel(job_id)
        for job_id in ids:
            server.finished(job_id)
    server.no_fault()


def assert_one_error(result, status, *words):
    got, out, err = result
    assert got == status and out == ""
    assert err.count("\n") == 1 and err.startswith("s2mesh: error: ") and "bug in S2 Mesh" not in err
    for word in words:
        assert word in err


# --- jobs ---


def test_list(run, done):
    status, out, err = run(jobs, "list")
    assert (status, err) == (0, "")
    line = next(line for line in out.splitlines() if line.startswith(done["id"][:8]))
    assert "succeeded" in line and line.endswith("box.png")
    status, out, _ = run(jobs, "list", "--json", "--state", "succeeded", "--limit", "1")
    assert status == 0 and [json.loads(line)["id"] for line in out.splitlines()] == [done["id"]]
    status, out, err = run(jobs, "list", "--state", "interrupted")
    assert (status, out) == (0, "") and "no such jobs" in err
    assert_one_error(run(jobs, "list", "--limit", "-1"), 2, "--limit", "0 or more")


def test_show_takes_the_beginning_of_an_id(run, done):
    status, out, err = run(jobs, "show", done["id"][:12].upper())
    assert (status, err) == (0, "")
    for word in (done["id"], "box.png", "succeeded", "mesh.glb", "seed 7", "vertices"):
        assert word in out
    status, out, _ = run(jobs, "show", done["id"], "--json", "--wait")
    assert status == 0 and json.loads(out) == done


def test_fetch(run, done):
    status, out, err = run(jobs, "fetch", done["id"], "mesh.glb", "job.json", "-o", "out")
    assert (status, out.split(), err) == (0, [os.path.join("out", "mesh.glb"), os.path.join("out", "job.json")], "")
    assert json.loads(Path("out/job.json").read_text())["job_id"] == done["id"]
    assert_one_error(run(jobs, "fetch", done["id"], "job.json", "-o", "out"), 2, "is there already", "--force")
    assert run(jobs, "fetch", done["id"], "job.json", "-o", "out", "--force")[0] == 0
    assert run(jobs, "fetch", done["id"])[0] == 0
    assert {path.name for path in Path().iterdir()} == {entry["name"] for entry in done["artifacts"]} | {"out"}


def test_fetch_of_what_is_not_there(run, done):
    assert_one_error(run(jobs, "fetch", done["id"], "mesh.stl"), 2, "mesh.stl", "It has: ")
    assert_one_error(run(jobs, "fetch", done["id"], "../token"), 2, "no job has a file", "mesh.glb")
    assert_one_error(run(jobs, "fetch", done["id"], "-o", "a/b"), 2, "cannot make the folder")
    assert list(Path().iterdir()) == []


def test_cancel_and_delete(run, server, waiting):
    last, first = waiting[-1], waiting[0]
    assert run(jobs, "cancel", last) == (0, f"{last[:8]}: cancelled\n", "")
    assert_one_error(run(jobs, "delete", first), 2, "cancel it first")
    status, out, _ = run(jobs, "list")
    assert "running, " in out and "queued, number 1" in out
    assert run(jobs, "cancel", first)[1] in (f"{first[:8]}: stops at its next step\n", f"{first[:8]}: cancelled\n")
    server.finished(first)
    assert run(jobs, "show", first, "--wait")[0] == 1
    assert run(jobs, "delete", first, last) == (0, f"{first[:8]}: deleted\n{last[:8]}: deleted\n", "")
    assert_one_error(run(jobs, "show", first), 2, "no job of this id")
    assert server.get(f"/v1/jobs/{last}").status_code == 404
    waiting.remove(first)
    waiting.remove(last)


def test_an_id_that_means_several_jobs_or_none(run, waiting):
    letters = [job_id[0] for job_id in waiting[1:]]
    twice = next(letter for letter in letters if letters.count(letter) == 2)
    assert_one_error(run(jobs, "cancel", twice), 2, "may mean", "Write more")
    assert_one_error(run(jobs, "show", "xyz"), 2, "s2mesh jobs list")
    assert_one_error(run(jobs, "show", ""), 2, "s2mesh jobs list")


def test_where_there_is_no_server(run, tmp_path):
    assert_one_error(run(jobs, "list", data_dir=tmp_path), 1, "no server runs", "s2mesh serve")
    assert_one_error(run(jobs, "list", "--server", "http://#"), 2, "no address")


# --- token ---


def test_the_token_and_nothing_else(run, server):
    assert run(token) == (0, f"{server.token}\n", "")


def test_a_token_is_made_where_there_is_none(run, tmp_path):
    folder = tmp_path / "new" / "data"
    status, out, _ = run(token, data_dir=folder)
    assert status == 0 and len(out) > 30 and (folder / "token").read_text() == out
    if os.name == "posix":
        assert stat.S_IMODE((folder / "token").stat().st_mode) == 0o600
    assert run(token, data_dir=folder)[1] == out
    (folder / "token").write_text("short\n")
    assert_one_error(run(token, data_dir=folder), 2, "s2mesh token --new")
    assert run(token, "--new", data_dir=folder)[0] == 0


def test_a_new_token_holds_at_once(run, server, tmp_path, monkeypatch):
    old = tmp_path / "old"
    old.write_text(server.token + "\n")
    assert run(jobs, "list", "--token-file", old)[0] == 0
    server.token = run(token, "--new")[1].strip()
    server.session.headers["Authorization"] = f"Bearer {server.token}"
    assert_one_error(run(jobs, "list", "--token-file", old), 2, "s2mesh token")
    assert run(jobs, "list")[0] == 0


def test_the_token_is_looked_for_in_this_order(run, server, tmp_path, monkeypatch):
    right = tmp_path / "right"
    right.write_text(server.token)
    monkeypatch.setenv("S2MESH_TOKEN", "a-wrong-one-of-enough-letters")
    assert_one_error(run(jobs, "list"), 2, "s2mesh token")  # before the data directory's
    assert run(jobs, "list", "--token-file", right)[0] == 0  # after the file
    monkeypatch.setenv("S2MESH_TOKEN", server.token)
    assert run(jobs, "list", "--server", server.url, data_dir=None)[0] == 0


@pytest.mark.parametrize("content, words", [(b"two\nlines", "one line"), (b"", "one line"), (b"\xff\xfe", "no text")])
def test_what_is_no_token_file(run, tmp_path, content, words):
    (tmp_path / "token").write_bytes(content)
    assert_one_error(run(jobs, "list", "--token-file", tmp_path / "token"), 2, words)
    assert_one_error(run(jobs, "list", "--token-file", tmp_path / "none"), 2, "cannot be read")


def test_the_commands_are_verbs(server):
    """Once through the real command line, in a process of its own."""
    line = [sys.executable, "-m", "server.cli", "token", "--data-dir", str(server.data_dir)]
    result = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, f"{server.token}\n", "")
