"""The folders of jobs: whose they are, what may be named, and what is left when something fails."""

import errno
import os
import stat
import sys

import pytest

from server.jobs.files import JobFiles
from server.jobs.model import ARTIFACTS, new_id

posix = pytest.mark.skipif(sys.platform == "win32", reason="no modes there")


@pytest.fixture
def files(tmp_path):
    return JobFiles(tmp_path / "data" / "jobs")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_job_has_a_folder_with_its_picture(files):
    job_id = new_id()
    files.create(job_id, b"picture")
    assert files.folder(job_id) == files.root / job_id
    assert files.source(job_id).read_bytes() == b"picture"
    assert [path.name for path in files.root.iterdir()] == [job_id]
    assert files.size(job_id) == 7
    files.artifact(job_id, "mesh.glb").write_bytes(b"12345")
    assert files.size(job_id) == 12
    assert files.size(new_id()) == 0


@posix
def test_only_the_owner_can_look_in(files, monkeypatch):
    old = os.umask(0)
    try:
        inner = JobFiles(files.root.parent / "others")
        inner.create(job_id := new_id(), b"picture")
    finally:
        os.umask(old)
    assert mode(inner.root) == mode(inner.folder(job_id)) == 0o700


@pytest.mark.parametrize("job_id", ["", "..", "../" + "a" * 29, "A" * 32, "a" * 31, "a" * 32 + "/x", "/etc"])
def test_no_path_is_made_of_what_is_no_id(files, job_id):
    for use in (files.folder, files.source, files.size, files.remove, files.clear_results):
        with pytest.raises(AssertionError):
            use(job_id)
    with pytest.raises(AssertionError):
        files.create(job_id, b"")


@pytest.mark.parametrize("name", ["source", "..", "../token", "mesh.GLB", "mesh.glb/", "", "/etc/passwd", "job.json\0"])
def test_no_path_is_made_of_what_is_no_artifact(files, name):
    with pytest.raises(AssertionError):
        files.artifact(new_id(), name)


def test_every_artifact_lies_in_its_job_s_folder(files):
    job_id = new_id()
    assert {files.artifact(job_id, name).parent for name in ARTIFACTS} == {files.folder(job_id)}


@pytest.mark.parametrize("step", ["open", "fsync"])
def test_a_picture_that_cannot_be_written_leaves_nothing(files, monkeypatch, step):
    def no_room(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("builtins.open" if step == "open" else "os.fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        files.create(new_id(), b"picture")
    assert list(files.root.iterdir()) == []


def test_a_folder_is_never_taken_over(files):
    files.create(job_id := new_id(), b"first")
    with pytest.raises(FileExistsError):
        files.create(job_id, b"second")
    assert files.source(job_id).read_bytes() == b"first"


def test_a_second_attempt_starts_with_the_picture_alone(files):
    files.create(job_id := new_id(), b"picture")
    for name in ("mesh.glb", "coarse.glb", "job.json"):
        files.artifact(job_id, name).write_bytes(b"old")
    (files.folder(job_id) / ".mesh.glb.1234.part").write_bytes(b"half")
    files.clear_results(job_id)
    assert [path.name for path in files.folder(job_id).iterdir()] == ["source"]
    files.clear_results(new_id())  # a folder that somebody has removed: the worker says so


def test_removed_is_removed_and_others_stay(files):
    first, second = new_id(), new_id()
    files.create(first, b"1")
    files.create(second, b"2")
    files.artifact(first, "mesh.glb").write_bytes(b"mesh")
    files.remove(first)
    files.remove(first)
    files.remove(new_id())
    assert [path.name for path in files.root.iterdir()] == [second]


def test_a_folder_that_cannot_be_removed_whole_is_no_job_s_any_more(files, monkeypatch):
    files.create(job_id := new_id(), b"picture")
    monkeypatch.setattr("shutil.rmtree", lambda path, ignore_errors: None)  # as if killed in the middle
    files.remove(job_id)
    monkeypatch.undo()
    (left,) = files.root.iterdir()
    assert left.name.startswith(".trash-") and not files.folder(job_id).exists()
    assert files.sweep({job_id}) == 1 and list(files.root.iterdir()) == []


def test_a_folder_in_use_is_removed_where_it_lies(files, monkeypatch):
    files.create(job_id := new_id(), b"picture")

    def in_use(self, target):
        raise PermissionError(errno.EACCES, "being used by another process")

    monkeypatch.setattr("pathlib.Path.rename", in_use)
    files.remove(job_id)
    assert not files.folder(job_id).exists()


def test_the_sweep_takes_what_belongs_to_no_job_and_nothing_of_others(files):
    known, stray = new_id(), new_id()
    for job_id in (known, stray):
        files.create(job_id, b"picture")
    (files.root / ".trash-x").mkdir()
    (files.root / "my notes").mkdir()
    (files.root / "my notes" / "keep.txt").write_text("mine")
    assert files.sweep({known}) == 2
    assert sorted(path.name for path in files.root.iterdir()) == sorted([known, "my notes"])
    assert (files.root / "my notes" / "keep.txt").exists()
    assert files.sweep({known}) == 0


@posix
def test_a_link_in_a_job_s_folder_is_not_followed(files, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 1000)
    files.create(job_id := new_id(), b"12")
    (files.folder(job_id) / "link").symlink_to(outside)
    assert files.size(job_id) < 1000
    files.remove(job_id)
    assert (outside / "big").exists()
