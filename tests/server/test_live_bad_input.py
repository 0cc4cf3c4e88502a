"""What cannot become a job, or is no part of an address: pictures, options, ids, parameters, on a real server."""

import json
import struct
import zlib

import pytest

from core.config.generation import MAX_IMAGE_PIXELS
from server.schemas import job_option_table
from tests.support.live_server import picture_bytes
from tests.support.raw_http import FORM, ask, form, picture_form, send_job

PICTURE = ("image", "box.png", picture_bytes())
NOBODY = "0" * 32
NUMBERS = [row for row in job_option_table() if row.type in ("integer", "number") and row.minimum is not None]
CHOICES = [row for row in job_option_table() if row.choices and row.type == "string"]


@pytest.fixture(autouse=True)
def nothing_is_left(server):
    """What is refused leaves neither a row nor a folder, and no traceback in the log."""

    def state() -> tuple:
        jobs = [job["id"] for job in server.get("/v1/jobs").json()["jobs"]]
        return jobs, len(list((server.data_dir / "jobs").iterdir())), server.log.read_text().count("Traceback")

    before = state()
    yield
    assert state() == before


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and has next to nothing of it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    size = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- the form ---


@pytest.mark.parametrize(
    ("content_type", "status", "code"),
    [
        ("Content-Type: application/json", 415, "unsupported_media_type"),
        ("Content-Type: application/x-www-form-urlencoded", 415, "unsupported_media_type"),
        ("Content-Type: image/png", 415, "unsupported_media_type"),
        ("Content-Type: text/plain", 415, "unsupported_media_type"),
        ("Content-Type: ", 415, "unsupported_media_type"),
        ("X-None: none", 415, "unsupported_media_type"),
        ("Content-Type: multipart/form-data", 400, "bad_request"),
        ("Content-Type: multipart/form-data; boundary=another", 400, "bad_request"),
    ],
)
def test_another_content_type(server, content_type, status, code):
    send_job(server, picture_form(), content_type=content_type).refused(status, code)


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        (b"", 400, "bad_request", "cut short"),
        (b"\x00" * 1000, 400, "bad_request", "cut short"),
        (form(), 422, "image_missing", "`image`"),
        (form(("options", None, b"{}")), 422, "image_missing", "`image`"),
        (form(("picture", "box.png", picture_bytes())), 422, "image_missing", "`image`"),
        (form(("image", None, picture_bytes())), 422, "image_missing", "`image`"),
        (form(PICTURE, PICTURE), 422, "invalid_parameter", "more than once"),
        (form(PICTURE, ("options", None, b"{}"), ("options", None, b"{}")), 422, "invalid_parameter", "more than once"),
        (form(PICTURE, ("options", "o.json", b"{}")), 400, "bad_request", "not as a file"),
        (form(PICTURE, ("seed", None, b"1")), 422, "invalid_parameter", "seed"),
        (form(PICTURE, ("mesh", "a.glb", b"glTF")), 422, "invalid_parameter", "mesh"),
    ],
)
def test_another_form(server, body, status, code, word):
    assert word in send_job(server, body).refused(status, code)["message"]


# --- the picture ---


@pytest.mark.parametrize(
    ("picture", "word"),
    [
        (b"", "empty"),
        (b"hello", "not a picture"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', "not a picture"),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (b"PK\x03\x04" + bytes(100), "not a picture"),
        (picture_bytes()[:8], "not a picture"),
        (picture_bytes()[: len(picture_bytes()) // 2], "cut short"),
        (picture_bytes()[:-24], "cut short"),
        (png_header(8001, 8000), "64"),
        (png_header(2**31 - 1, 2**31 - 1), "64"),
        (png_header(0, 10), "picture"),
    ],
    ids=["empty", "text", "svg", "pdf", "eps", "zip", "magic", "half", "end", "bomb", "huge", "flat"],
)
def test_a_picture_that_cannot_be_used(server, picture, word):
    error = send_job(server, picture_form(picture=picture)).refused(422, "image_unusable")
    assert word in error["message"] and "Traceback" not in error["message"]


def test_the_bomb_is_a_bomb():
    assert 8001 * 8000 > MAX_IMAGE_PIXELS >= 8000 * 8000


# --- the options ---


@pytest.mark.parametrize(
    "text",
    [
        b"seed=1", b"{", b'{"seed": 1,}', b"{'seed': 1}", b'{"seed": NaN}', b'{"iso_level": -Infinity}', b"\xff\xfe",
        b'{"seed": 1}{}', b"[]", b"1", b'"seed"', b"[" * 100_000, b'{"a":' * 50_000, b'{"seed": 1, "seed": 2}',
        b'{"seed": ' + b"9" * 5000 + b"}", b'[{"seed": 1}]',
    ],
)  # fmt: skip
def test_options_that_are_no_object(server, text):
    error = send_job(server, picture_form(text)).refused(400, "bad_request")
    assert "options" in error["message"] and error["details"]["field"] == "options"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sead", "'seed'"), ("Seed", "'seed'"), ("guidance", "'dense_guidance'"), ("format", "'formats'"), ("zzz", None)],
)
def test_an_unknown_option_has_a_hint(server, name, hint):
    error = refused_options(server, {name: 1}, "unknown_option")
    assert error["details"]["field"] == name and "seed" in error["details"]["choices"]
    assert ("Did you mean" in error["message"]) == (hint is not None) and (hint or "") in error["message"]


@pytest.mark.parametrize("name", ["device", "dtype", "models_dir", "__class__", "", "\ud800"])
def test_what_is_the_servers_own_is_no_option(server, name):
    refused_options(server, {name: "cpu"}, "unknown_option")


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.name)
def test_every_limit_is_held_and_named(server, row):
    step = 1 if row.type == "integer" else 1e-3
    for value in (row.minimum - step, row.maximum + step, -(10**30), 10**30):
        error = refused_options(server, {row.name: value}, "option_out_of_range")
        assert error["details"] == {"field": row.name, "min": row.minimum, "max": row.maximum}
        assert row.name in error["message"] and str(row.minimum) in error["message"]
        assert str(row.maximum) in error["message"]


def test_numbers_were_found():
    assert {"seed", "dense_steps", "faces", "iso_level", "sparse_guidance"} <= {row.name for row in NUMBERS}
    assert "background" in {row.name for row in CHOICES}


@pytest.mark.parametrize("row", job_option_table(), ids=lambda row: row.name)
def test_every_type_is_held_and_named(server, row):
    wrong = {
        "string": [1, True, [], {}, None],
        "boolean": [0, 1, "true", None, []],
        "integer": [1.5, "1", True, [1], {}],
        "number": ["1", True, [1], {}],
        "array": ["glb", 1, None, {"glb": 1}],
    }[row.type]
    for value in wrong:
        error = refused_options(server, {row.name: value}, "option_wrong_type")
        assert error["details"] == {"field": row.name, "type": row.type} and row.name in error["message"]


@pytest.mark.parametrize("row", CHOICES, ids=lambda row: row.name)
def test_every_choice_is_held_and_named(server, row):
    for value in ("", "x" * 1000, row.choices[0].upper(), row.choices[0] + " "):
        error = refused_options(server, {row.name: value}, "option_not_allowed")
        assert error["details"] == {"field": row.name, "choices": list(row.choices)}
        assert all(choice in error["message"] for choice in row.choices)


@pytest.mark.parametrize("formats", [[], ["exe"], ["glb", "glb"], ["GLB"], [1], [None], [["glb"]], ["glb"] * 1000])
def test_formats_are_a_choice_of_some(server, formats):
    error = refused_options(server, {"formats": formats}, "option_not_allowed")
    assert error["details"]["field"] == "formats" and "glb" in error["details"]["choices"]


@pytest.mark.parametrize("preset", ["starter", "TINY", "", "../tiny", "tiny\x00", "x" * 10_000])
def test_an_unknown_preset(server, preset):
    error = refused_options(server, {"preset": preset}, "option_not_allowed")
    assert error["details"] == {"field": "preset", "choices": ["tiny", "tiny-two"]}


def test_a_resolution_that_the_preset_has_not(server):
    error = refused_options(server, {"preset": "tiny", "resolution": 64}, "option_not_allowed")
    assert error["details"] == {"field": "resolution", "choices": [32]}
    error = refused_options(server, {"preset": "tiny-two", "resolution": 128}, "option_not_allowed")
    assert error["details"]["choices"] == [32, 64]


def test_a_preset_that_is_not_installed(start_server, tmp_path, tiny_models_dir):
    some = tmp_path / "some"
    some.mkdir()
    (some / "tiny").symlink_to(tiny_models_dir / "tiny")
    bare = start_server(worker={"models_dir": str(some), "start_at_once": False})
    error = refused_options(bare, {"preset": "tiny-two"}, "preset_not_installed")
    assert error["details"] == {"field": "preset"} and "tiny-two" in error["message"]
    presets = {preset["name"]: preset for preset in bare.get("/v1/capabilities").json()["presets"]}
    assert presets["tiny"]["installed"] and presets["tiny"]["bytes"] > 1000
    assert not presets["tiny-two"]["installed"] and presets["tiny-two"]["bytes"] is None


def refused_options(server, options: dict, code: str) -> dict:
    """The error of a job with these options."""
    return send_job(server, picture_form(json.dumps(options).encode())).refused(422, code)


# --- keys, ids, parameters ---


@pytest.mark.parametrize("key", ["", "x" * 201])
def test_a_key_that_cannot_be_used(server, key):
    answer = send_job(server, picture_form(), f"Idempotency-Key: {key}")
    assert answer.refused(422, "invalid_parameter")["details"] == {"field": "Idempotency-Key"}


@pytest.mark.parametrize(
    "job", [NOBODY, "0" * 31, "0" * 33, "A" * 32, "x", "%00", "1" * 5000, "job%20", NOBODY + "%0a"]
)
def test_an_unknown_job(server, job):
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/events"),
        ("POST", "/cancel"),
        ("GET", "/artifacts/mesh.glb"),
    ):
        ask(server, method, f"/v1/jobs/{job}{path}").refused(404, "job_not_found")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=101", "limit"), ("limit=x", "limit"), ("limit=", "limit"), ("limit=1e1", "limit"),
        ("limit=%00", "limit"), ("before=0", "before"), ("before=-1", "before"), ("before=x", "before"),
        (f"before={'9' * 5000}", "before"), (f"before={2**63}", "before"), ("state=done", "state"),
        ("state=", "state"), ("state=QUEUED", "state"), ("after=1", "after"), ("page=2", "page"),
    ],
)  # fmt: skip
def test_wrong_parameters_of_the_list(server, query, field):
    error = ask(server, "GET", f"/v1/jobs?{query}").refused(422, "invalid_parameter")
    assert error["details"]["field"] == field and field in error["message"]


@pytest.mark.parametrize("after", ["-1", "x", "", "1.5", str(2**63), "9" * 5000, "NaN"])
def test_a_wrong_place_among_the_events(server, after):
    for path in (f"/v1/jobs/{NOBODY}", f"/v1/jobs/{NOBODY}/events"):
        error = ask(server, "GET", f"{path}?after={after}").refused(422, "invalid_parameter")
        assert error["details"]["field"] == "after"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"[]", 400, "bad_request"), (b"x", 400, "bad_request"), (b"null", 400, "bad_request"),
        (b"\xff", 400, "bad_request"), (b"[" * 100_000, 400, "bad_request"), (b'"{}"', 400, "bad_request"),
        (b'{"wait": 1}', 422, "invalid_parameter"), (b'{"wait": "true"}', 422, "invalid_parameter"),
        (b'{"wait": null}', 422, "invalid_parameter"), (b'{"now": true}', 422, "invalid_parameter"),
    ],
)  # fmt: skip
def test_a_wrong_body_of_unload(server, body, status, code):
    ask(server, "POST", "/v1/unload", "Content-Type: application/json", body=body).refused(status, code)


def test_a_form_for_unload(server):
    ask(server, "POST", "/v1/unload", FORM, body=picture_form()).refused(400, "bad_request")
