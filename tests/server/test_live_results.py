"""A finished job's files, and what the server tells of itself, held against the types that describe them."""

import hashlib
import io
import json
import struct

import pytest
import trimesh
from PIL import Image

from core import __version__
from core.config.generation import MAX_IMAGE_PIXELS, MESH_FORMATS
from core.config.stages import stage_names
from server.jobs.model import ARTIFACTS
from server.schemas import (
    OF_THE_SERVER,
    ErrorAnswer,
    HealthAnswer,
    JobAnswer,
    JobsAnswer,
    UnloadAnswer,
    job_option_table,
)
from server.settings import Limits
from tests.support.live_server import assert_refused, picture_bytes, wait_for
from tests.support.raw_http import ask
from tests.support.tiny_presets import TINY, TINY_TWO


@pytest.fixture(scope="module")
def job(server):
    """A job with every kind of file."""
    done = server.finished(server.queued(seed=7, formats=list(MESH_FORMATS), turntable=True, faces=2000))
    assert done["state"] == "succeeded", done
    return done


def url(job, name: str) -> str:
    return f"/v1/jobs/{job['id']}/artifacts/{name}"


def content(server, job, name: str) -> bytes:
    answer = server.get(url(job, name))
    assert answer.status_code == 200, answer.text
    return answer.content


# --- files ---


def test_every_file_is_what_the_job_says_of_it(server, job):
    assert {artifact["name"] for artifact in job["artifacts"]} == set(ARTIFACTS)
    for artifact in job["artifacts"]:
        answer = server.get(artifact["url"])
        digest = hashlib.sha256(answer.content).hexdigest()
        assert (len(answer.content), digest) == (artifact["bytes"], artifact["sha256"])
        assert answer.headers["ETag"] == f'"{digest}"'
        assert answer.headers["Content-Type"] == artifact["media_type"] == ARTIFACTS[artifact["name"]]
        assert answer.headers["Content-Disposition"] == f"attachment; filename={artifact['name']}"
        assert answer.headers["Content-Length"] == str(artifact["bytes"])
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("name", ["mesh.glb", "job.json"])
def test_head_tells_the_same_without_the_file(server, job, name):
    whole, answer = server.get(url(job, name)), server.session.head(server.url + url(job, name))
    assert answer.status_code == 200 and answer.content == b""
    for header in ("ETag", "Content-Length", "Content-Type", "Content-Disposition", "Accept-Ranges"):
        assert answer.headers[header] == whole.headers[header], header


def test_a_file_that_the_client_has(server, job):
    tag = server.get(url(job, "mesh.glb")).headers["ETag"]
    for same in (tag, f'"other", {tag}', "*", f"W/{tag}"):
        answer = server.get(url(job, "mesh.glb"), headers={"If-None-Match": same})
        assert (answer.status_code, answer.content) == (304, b"") and answer.headers["ETag"] == tag
    for other in ('"other"', tag[:-2] + '"', "nonsense"):
        assert server.get(url(job, "mesh.glb"), headers={"If-None-Match": other}).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ("bytes=0-0", slice(0, 1)),
        ("bytes=10-99", slice(10, 100)),
        ("bytes=100-", slice(100, None)),
        ("bytes=-7", slice(-7, None)),
        ("bytes=5-999999999", slice(5, None)),
    ],
)
def test_a_part_of_a_file(server, job, wanted, part):
    whole = content(server, job, "mesh.ply")
    answer = server.get(url(job, "mesh.ply"), headers={"Range": wanted})
    assert answer.status_code == 206 and answer.content == whole[part]
    start = range(len(whole))[part][0]
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(whole[part]) - 1}/{len(whole)}"


@pytest.mark.parametrize(
    "wanted", ["bytes=0-1,5-6", "pages=1-2", "bytes=a-b", "bytes=", "0-5", "bytes=0-0\u00b2", "bytes=-99999999", ""]
)
def test_a_range_that_means_nothing_is_ignored(server, job, wanted):
    answer = ask(server, "GET", url(job, "mesh.ply"), f"Range: {wanted}")
    assert (answer.status, answer.body) == (200, content(server, job, "mesh.ply"))


@pytest.mark.parametrize("wanted", ["bytes=99999999-", "bytes=-0", "bytes=9-5"])
def test_a_range_beyond_the_file(server, job, wanted):
    size = len(content(server, job, "mesh.ply"))
    answer = server.get(url(job, "mesh.ply"), headers={"Range": wanted})
    assert_refused(answer, 416, "range_not_satisfiable")
    assert answer.headers["Content-Range"] == f"bytes */{size}"


def test_a_download_is_taken_up_only_if_the_file_is_the_same(server, job):
    tag = server.get(url(job, "mesh.stl")).headers["ETag"]
    same = server.get(url(job, "mesh.stl"), headers={"Range": "bytes=84-", "If-Range": tag})
    other = server.get(url(job, "mesh.stl"), headers={"Range": "bytes=84-", "If-Range": '"other"'})
    assert (same.status_code, other.status_code) == (206, 200)
    assert other.content[84:] == same.content


def test_the_mesh_is_the_same_in_every_format(server, job):
    for file_format in MESH_FORMATS:
        mesh = trimesh.load(
            io.BytesIO(content(server, job, f"mesh.{file_format}")), file_type=file_format, force="mesh"
        )
        assert len(mesh.faces) == job["result"]["faces"] <= 2000, file_format


def test_the_pictures(server, job):
    with Image.open(io.BytesIO(content(server, job, "input.png"))) as used:
        assert (used.format, used.size, used.mode) == ("PNG", (50, 40), "RGBA")
    with Image.open(io.BytesIO(content(server, job, "preview.png"))) as preview:
        assert preview.format == "PNG" and len(preview.convert("RGB").getcolors(10**6)) > 10
    with Image.open(io.BytesIO(content(server, job, "turntable.webp"))) as turning:
        assert turning.format == "WEBP" and turning.n_frames > 3


def glb_extras(data: bytes) -> dict:
    (length,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + length])["asset"]["extras"]


def test_files_say_what_made_them(server, job):
    picture = hashlib.sha256(picture_bytes()).hexdigest()
    told = json.loads(content(server, job, "job.json"))
    assert told["job_id"] == job["id"] and told["title"] == "box.png" and told["image_sha256"] == picture
    assert told["seed"] == 7 == job["options"]["seed"] and told["options"] == job["options"]
    assert told["result"] == job["result"] and told["s2mesh"] == __version__ and told["notes"] == job["notes"]
    assert told["settings"]["dense_steps"] == TINY.dense.sampling.steps  # what `null` meant
    extras = glb_extras(content(server, job, "mesh.glb"))
    assert (extras["job_id"], extras["image_sha256"], extras["seed"]) == (job["id"], picture, 7)
    assert extras["settings"] == told["settings"]
    assert glb_extras(content(server, job, "coarse.glb")) == {"job_id": job["id"], "coarse": True}


def test_a_format_that_was_not_asked_for(server):
    plain = server.finished(server.queued(seed=7, faces=2000))
    names = [artifact["name"] for artifact in plain["artifacts"]]
    assert sorted(names) == ["coarse.glb", "input.png", "job.json", "mesh.glb", "preview.png"]
    for name in ("mesh.obj", "turntable.webp"):
        assert "mesh.glb" in assert_refused(server.get(url(plain, name)), 404, "artifact_not_found")["message"]


def test_one_seed_is_one_mesh_and_another_is_another(server, job):
    same, other = (server.finished(server.queued(seed=seed, formats=["ply"], faces=2000)) for seed in (7, 8))
    assert content(server, same, "mesh.ply") == content(server, job, "mesh.ply")
    assert content(server, other, "mesh.ply") != content(server, job, "mesh.ply")


def test_a_drawn_seed_makes_the_same_mesh_again(server):
    drawn = server.finished(server.queued(formats=["ply"]))
    again = server.finished(server.queued(**drawn["options"]))
    assert content(server, again, "mesh.ply") == content(server, drawn, "mesh.ply")


# --- the end of a job ---


def test_a_deleted_job_is_gone_with_its_files(server):
    job = server.finished(server.queued())
    answer = server.session.delete(f"{server.url}/v1/jobs/{job['id']}")
    assert (answer.status_code, answer.content) == (204, b"") and "Content-Type" not in answer.headers
    for path in ("", "/events", "/artifacts/mesh.glb", "/artifacts/job.json"):
        assert_refused(server.get(f"/v1/jobs/{job['id']}{path}"), 404, "job_not_found")
    assert_refused(server.session.delete(f"{server.url}/v1/jobs/{job['id']}"), 404, "job_not_found")
    assert not (server.data_dir / "jobs" / job["id"]).exists()
    assert job["id"] not in [left["id"] for left in server.get("/v1/jobs").json()["jobs"]]


def test_a_finished_job_cannot_be_cancelled_but_asking_is_no_error(server, job):
    answer = server.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 202 and answer.json() == job


def test_old_jobs_make_room(start_server):
    server = start_server(limits={"keep_jobs": 2})
    jobs = [server.finished(server.queued(seed=seed))["id"] for seed in range(4)]
    wait_for(lambda: [job["id"] for job in server.get("/v1/jobs").json()["jobs"]] == jobs[:1:-1], "two jobs to be left")
    assert_refused(server.get(f"/v1/jobs/{jobs[0]}"), 404, "job_not_found")
    assert server.get(f"/v1/jobs/{jobs[3]}/artifacts/mesh.glb").status_code == 200
    folder = server.data_dir / "jobs"  # a job that is forgotten is moved aside, then deleted
    wait_for(lambda: {path.name for path in folder.iterdir()} == set(jobs[2:]), "only their folders to be left")


# --- what the server tells of itself ---


def test_capabilities_are_the_tables_of_the_core(server):
    told = server.get("/v1/capabilities").json()
    rows = {row.name: row for row in job_option_table()}
    assert [option["name"] for option in told["options"]] == list(rows) and not rows.keys() & set(OF_THE_SERVER)
    for option in told["options"]:
        row = rows[option["name"]]
        default = "tiny" if row.name == "preset" else list(row.default) if row.type == "array" else row.default
        assert option["default"] == default, option
        assert (option["type"], option["minimum"], option["maximum"]) == (row.type, row.minimum, row.maximum)
        assert option["choices"] == (None if row.choices is None else list(row.choices))
        assert option["nullable"] == row.nullable and option["help"] == row.help and row.help
    assert (told["version"], told["default_preset"]) == (__version__, "tiny")
    assert told["formats"] == list(MESH_FORMATS)
    limits = {name: value for name, value in vars(Limits()).items() if name in told["limits"]}
    assert told["limits"] == {**limits, "image_pixels": MAX_IMAGE_PIXELS} and len(limits) == 6
    assert [preset["name"] for preset in told["presets"]] == ["tiny", "tiny-two"]
    for preset, known in zip(told["presets"], (TINY, TINY_TWO), strict=True):
        assert preset["stages"] == ["load", *stage_names(known), "export"]
        assert [row["resolution"] for row in preset["resolutions"]] == [stage.resolution for stage in known.sparse]
        assert preset["installed"] and preset["bytes"] > 1000 and preset["license"] == "MIT"


def test_a_job_runs_through_the_stages_that_capabilities_tell(server, job):
    preset = server.get("/v1/capabilities").json()["presets"][0]
    seen = [event["stage"] for event in server.job(job["id"], after=0)["events"] if event["type"] == "progress"]
    assert list(dict.fromkeys(seen)) == preset["stages"]


def test_ready_tells_worker_queue_and_memory(server, job):
    told = server.worker_idle()
    assert told["ready"] is True and told["draining"] is False
    assert told["worker"]["pid"] > 0 and told["worker"]["restarts"] == 0
    assert told["queue"] == {"queued": 0, "running": 0, "limit": Limits().queue}
    assert told["device"].keys() == {"name", "title", "dtype"} and told["device"]["name"] == "cpu"
    assert told["device"]["dtype"] == job["result"]["dtype"] == "float32"
    assert 0 < told["memory"]["used_bytes"] < told["memory"]["total_bytes"]
    assert 0 < told["memory"]["free_bytes"] <= told["memory"]["total_bytes"]


def test_answers_fit_their_models(server, job):
    strict = {"strict": True, "extra": "forbid"}
    text = server.get(f"/v1/jobs/{job['id']}").text
    told = JobAnswer.model_validate_json(text, **strict)
    assert json.loads(text).keys() == JobAnswer.model_fields.keys() and told.events == []
    text = server.get(f"/v1/jobs/{job['id']}?after=0").text
    assert len(JobAnswer.model_validate_json(text, strict=True).events) == told.last_event  # events have more fields
    JobAnswer.model_validate_json(server.submit().text, **strict)
    JobAnswer.model_validate_json(server.post(f"/v1/jobs/{job['id']}/cancel").text, **strict)
    JobsAnswer.model_validate_json(server.get("/v1/jobs?limit=1").text, **strict)
    HealthAnswer.model_validate_json(server.get("/v1/health").text, **strict)
    ErrorAnswer.model_validate_json(server.get("/v1/jobs?limit=0").text, **strict)
    failed = server.finished(server.queued(max_tokens=1))
    assert failed["state"] == "failed" and failed["error"]["code"] == "options_unusable"
    JobAnswer.model_validate_json(server.get(f"/v1/jobs/{failed['id']}").text, **strict)
    server.worker_idle()
    UnloadAnswer.model_validate_json(server.post("/v1/unload").text, **strict)
