"""A job that this version cannot run any more ends with a reason; it never takes the supervisor with it."""

import time

import pytest

from server.jobs.files import JobFiles
from server.jobs.model import Job, JobState, new_id
from server.jobs.runner import JobRunner
from server.jobs.store import JobStore
from server.schemas import parse_options
from server.settings import ServerSettings


@pytest.fixture
def parts(tmp_path):
    store, files = JobStore(tmp_path / "jobs.sqlite"), JobFiles(tmp_path / "jobs")
    yield store, files, JobRunner(ServerSettings(data_dir=tmp_path), store, files)
    store.close()


@pytest.mark.parametrize("gone", [{"preset": "of-another-version"}, {"resolution": 77}, {"sparse_steps": "absent"}])
def test_a_job_of_another_version_fails_with_a_reason(parts, gone):
    store, files, runner = parts
    options = {**parse_options({}, "starter"), **gone}
    if "sparse_steps" in gone:
        del options["sparse_steps"]
    job = Job(id=new_id(), title="old", state=JobState.QUEUED, options=options, created_at=time.time())
    files.create(job.id, b"picture")
    store.add(job, max_queued=10, idempotency_key=None, request_digest="")
    assert runner.give(store.next_queued(), worker=None, device="cpu") is False
    assert runner.current is None and store.next_queued() is None
    failed = store.get(job.id)
    assert failed.state is JobState.FAILED and failed.error["code"] == "options_unusable"
    assert "Send the picture again" in failed.error["details"]["advice"]
