"""Presets that a server downloads: progress, resumption, refusals, faults, the one at a time; and its Python client."""

import threading

import pytest

from server.client import Client
from server.client_errors import DownloadFailed, Refused
from server.errors import DOWNLOAD_FAILURES
from tests.support import tiny_release
from tests.support.fake_hub import FakeHub
from tests.support.live_server import assert_refused, wait_for

NAME = tiny_release.NAME
URL = f"/v1/presets/{NAME}/download"
DENSE, EYE = "somebody/tiny/v1/model_dense.ckpt", "somebody/eye/model.safetensors"


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> dict[str, bytes]:
    return tiny_release.write_hub(tmp_path_factory.mktemp("served"))


@pytest.fixture
def hub(served, monkeypatch):
    with FakeHub(dict(served)) as started:
        monkeypatch.setenv("HF_ENDPOINT", started.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield started


@pytest.fixture
def server(hub, start_server, tmp_path):
    """With an empty models folder."""
    models = tmp_path / "models"
    models.mkdir()
    return start_server(tiny_release=True, worker={"models_dir": str(models), "start_at_once": False})


def ended(server) -> dict:
    return wait_for(lambda: (d := server.get(URL).json())["state"] != "running" and d, f"the end; log: {server.log}")


def test_a_preset_is_downloaded_resumed_and_used(server, hub, tmp_path):
    models = tmp_path / "models"
    presets = {preset["name"]: preset for preset in server.get("/v1/capabilities").json()["presets"]}
    assert not presets[NAME]["installed"] and presets["tiny"]["download"] is None
    assert [source["license"] for source in presets[NAME]["download"]["sources"]] == ["MIT", "Apache-2.0"]
    assert server.get(URL).json()["state"] == "none"
    error = assert_refused(server.post(URL, json={"accept_license": False}), 422, "license_not_accepted")
    assert error["details"] == presets[NAME]["download"] and "MIT, Apache-2.0" in error["message"]
    assert not hub.requests

    hub.gate = threading.Event()
    answer = server.post(URL, json={"accept_license": True})
    assert answer.status_code == 202 and answer.json()["state"] == "running"
    assert hub.waiting.wait(60)
    assert server.post(URL, json={"accept_license": True}).status_code == 200, "it runs already"
    cancelled = server.post(f"{URL}/cancel")
    assert cancelled.status_code == 202
    assert ended(server)["state"] == "cancelled"
    assert server.post(f"{URL}/cancel").json()["state"] == "cancelled"
    hub.gate.set()
    hub.gate = None
    hub.requests.clear()

    told = []
    with Client(data_dir=server.data_dir) as client:
        done = client.download_preset(NAME, accept_license=True, on_progress=told.append)
        assert client.preset_download(NAME) == done
    assert done["state"] == "succeeded" and done["installed"] and done["kept_bytes"] == 0 and done["error"] is None
    assert told[0]["state"] == "running" and told[-1] == done
    assert [path.name for path in models.iterdir() if path.is_dir()] == [NAME]
    assert server.post(URL, json={"accept_license": True}).status_code == 200, "it is installed"
    presets = {preset["name"]: preset for preset in server.get("/v1/capabilities").json()["presets"]}
    assert presets[NAME]["installed"] and presets[NAME]["bytes"] > 100_000
    assert "Traceback" not in server.log.read_text()


def test_faults_are_told_in_the_one_shape_and_the_next_try_goes_on(server, hub):
    hub.status[DENSE] = 403
    server.post(URL, json={"accept_license": True})
    failed = ended(server)
    assert (failed["state"], failed["error"]["code"]) == ("failed", "hub_failed")
    assert failed["error"].keys() == {"code", "message", "details"} and "HF_TOKEN" in failed["error"]["message"]
    with Client(data_dir=server.data_dir) as client:
        with pytest.raises(DownloadFailed, match="refuses") as told:
            client.download_preset(NAME, accept_license=True)
        assert told.value.code == "hub_failed" and told.value.code in DOWNLOAD_FAILURES
        with pytest.raises(Refused) as refused:
            client.download_preset(NAME, accept_license=False)
        assert refused.value.code == "license_not_accepted"

    hub.status.clear()
    hub.gate = threading.Event()
    server.post(URL, json={"accept_license": True})
    assert hub.waiting.wait(60)
    (child,) = _children(server)
    child.kill()
    failed = ended(server)
    assert failed["error"]["code"] == "download_died" and "it goes on" in failed["error"]["message"]
    assert failed["kept_bytes"] > 0

    hub.waiting.clear()
    server.post(URL, json={"accept_license": True})
    assert hub.waiting.wait(60)
    (child,) = _children(server)
    server.kill()  # its child must not go on alone
    child.wait(60)
    hub.gate.set()


def test_refusals(server, hub):
    for path in ("", "/cancel"):
        assert_refused(server.post(f"/v1/presets/nothing/download{path}", json={"accept_license": True}), 404,
                       "preset_not_found")  # fmt: skip
    assert_refused(server.get("/v1/presets/nothing/download"), 404, "preset_not_found")
    assert_refused(server.get("/v1/presets/tiny/download"), 422, "preset_not_downloadable")
    assert_refused(server.post(URL, json={}), 422, "invalid_parameter")
    assert_refused(server.post(URL, json={"accept_license": "yes"}), 422, "invalid_parameter")
    assert_refused(server.post(URL, data=b"["), 400, "bad_request")
    assert server.session.get(server.url + URL, headers={"Authorization": ""}).status_code == 401
    assert not hub.requests


def test_room_is_told_before_anything_comes(hub, start_server, tmp_path):
    """Files of the child may not grow either."""
    models = tmp_path / "models"
    models.mkdir()
    settings = {"models_dir": str(models), "start_at_once": False}
    server = start_server("small", tiny_release=True, no_room=150_000, worker=settings)
    server.post(URL, json={"accept_license": True})
    failed = ended(server)
    assert failed["error"]["code"] == "disk_full" and "no space left" in failed["error"]["message"]
    assert not (models / NAME).exists()


def _children(server) -> list:
    import psutil

    return [child for child in psutil.Process(server.process.pid).children() if "download" in child.cmdline()]
