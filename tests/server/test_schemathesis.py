"""schemathesis, an outsider that reads the document and tries what it allows and what it does not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("schemathesis", reason="the extra `dev` is not installed")

# A schema cannot say which resolutions a preset has, which presets are installed and that no format is named twice:
# values that it allows may be refused.
UNFIT_CHECKS = "positive_data_acceptance"
EXAMPLES, SEED = 10, 1


@pytest.mark.slow
def test_the_document_and_the_server_agree(start_server, tmp_path):
    server = start_server(limits={"queue": 3, "keep_jobs": 10})
    program = shutil.which("schemathesis", path=Path(sys.executable).parent)
    arguments = ["run", f"{server.url}/v1/openapi.json", "--header", f"Authorization: Bearer {server.token}"]
    arguments += ["--checks", "all", "--exclude-checks", UNFIT_CHECKS, "--generation-database", "none", "--no-color"]
    arguments += ["--max-examples", str(EXAMPLES), "--seed", str(SEED), "--no-shrink", "--warnings", "off"]
    run = subprocess.run([program, *arguments], capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr
    operations = sum(len(path) for path in server.get("/v1/openapi.json").json()["paths"].values()) - 1  # itself
    assert f"{operations} selected / {operations} total" in run.stdout, run.stdout[:3000]
    jobs = server.get("/v1/jobs?limit=100").json()["jobs"]
    assert jobs, "not one job was made of all that was tried"
    assert "Traceback" not in server.log.read_text(), server.log


def test_the_document_says_what_a_client_must_know(server):
    document = server.get("/v1/openapi.json").json()
    assert document["openapi"].startswith("3.1.") and document["info"]["version"]
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for where, operation in operations.items():
        public = where == "GET /v1/health"
        assert operation["security"] == ([] if public else [{"token": []}]), where
        assert operation["tags"] != ["default"] and operation["summary"], where
        assert {"400", "403", "422", *(() if public else ("401",))} <= operation["responses"].keys(), where
        for status, answer in operation["responses"].items():
            if status >= "400":
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, (where, status)
    create = operations["POST /v1/jobs"]
    assert [(row["name"], row["required"]) for row in create["parameters"]] == [("Idempotency-Key", False)]
    assert create["requestBody"]["required"] is True
    assert operations["POST /v1/unload"]["requestBody"]["required"] is False
    assert "content" not in operations["DELETE /v1/jobs/{job_id}"]["responses"]["204"]
