"""Files of a release from a server that answers as the hub does: whole, interrupted, refused, damaged, changed."""

import hashlib
import json
import random
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.file_download
import pytest

from core.checkpoints.download import check_room, gather, plan_from_folder, plan_from_hub
from core.checkpoints.install import install, remove, verify
from core.checkpoints.ledger import Ledger
from core.checkpoints.standing import removable, standing, with_companions
from core.config import releases
from core.config.presets import PRESETS
from core.config.releases import Release, Source
from core.errors import CheckpointError, ConfigError, DiskFullError, DownloadError, InputError
from tests.support.fake_hub import FakeHub

SOURCE = Source(
    title="Numbers", repo="somebody/numbers", folder="v1", files=("big.bin", "small.txt"), license="MIT", about_bytes=1
)
RELEASE = Release(name="numbers", title="Numbers", sources=(SOURCE,), is_preset=False)
BIG, SMALL = "somebody/numbers/v1/big.bin", "somebody/numbers/v1/small.txt"


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setitem(releases.RELEASES, RELEASE.name, RELEASE)
    content = random.Random(1).randbytes(100_000)
    with FakeHub({BIG: content, SMALL: b"few words", "somebody/numbers/other.bin": b"not asked for"}) as started:
        yield started


def download(hub: FakeHub, models_dir: Path, told=lambda *progress: None, **how) -> Path:
    plan = plan_from_hub(RELEASE, models_dir, endpoint=hub.url, **how)
    gather(plan, models_dir, told, hub.url)
    return models_dir / "numbers"


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_whole_download_is_recorded_and_told(hub, tmp_path):
    told = []
    folder = download(hub, tmp_path, lambda *progress: told.append(progress))
    assert (folder / "big.bin").read_bytes() == hub.files[BIG] and (folder / "small.txt").read_bytes() == b"few words"
    assert files_in(tmp_path) == {"big.bin", "small.txt", "downloads.json"}
    of_big = [done for stage, file, done, total in told if (stage, file, total) == ("download", "big.bin", 100_000)]
    assert of_big[0] == 0 and of_big[-1] == 100_000 and of_big == sorted(of_big) and len(of_big) > 50
    record = json.loads((tmp_path / "downloads.json").read_text())["sources"]["somebody/numbers/v1"]
    assert record["commit"] == hub.commit and record["revision"] == "main"
    assert record["files"]["big.bin"]["bytes"] == 100_000 and len(record["files"]["small.txt"]["sha256"]) == 64
    assert all(hub.commit in path for _, path, _ in hub.requests if "/resolve/" in path), "not by a name that may move"


def test_nothing_is_asked_for_twice(hub, tmp_path):
    download(hub, tmp_path)
    before = len(hub.requests)
    download(hub, tmp_path)
    assert len(hub.requests) == before


def test_a_broken_connection_is_taken_up_in_the_same_run(hub, tmp_path):
    hub.cuts[BIG] = [30_000, 60_000]
    folder = download(hub, tmp_path)
    assert (folder / "big.bin").read_bytes() == hub.files[BIG]
    ranges = [wanted for name, wanted in hub.fetched() if name == "big.bin"]
    assert ranges[0] is None and len(ranges) == 3 and all(wanted.startswith("bytes=") for wanted in ranges[1:])


def test_a_server_that_dies_leaves_what_came_and_the_next_run_goes_on(hub, tmp_path):
    hub.cuts[BIG] = [40_000] * 10
    with pytest.raises(DownloadError, match="goes on where it stopped.*--from"):
        download(hub, tmp_path)
    partial = tmp_path / "numbers" / "big.bin.part"
    assert 0 < partial.stat().st_size <= 40_000 and not partial.with_name("big.bin").exists()
    came = partial.stat().st_size
    hub.cuts.clear()
    hub.requests.clear()
    download(hub, tmp_path)
    assert ("big.bin", f"bytes={came}-") in hub.fetched()
    assert (tmp_path / "numbers" / "big.bin").read_bytes() == hub.files[BIG] and not partial.exists()


def test_a_server_without_ranges_starts_over(hub, tmp_path):
    hub.cuts[BIG] = [40_000] * 10
    with pytest.raises(DownloadError):
        download(hub, tmp_path)
    hub.cuts.clear()
    hub.no_ranges = True
    assert (download(hub, tmp_path) / "big.bin").read_bytes() == hub.files[BIG]


def test_a_stop_keeps_what_came(hub, tmp_path):
    class Stopped(Exception):
        pass

    def told(stage, file, done, total):
        if done > 20_000:
            raise Stopped

    with pytest.raises(Stopped):
        download(hub, tmp_path, told)
    assert (tmp_path / "numbers" / "big.bin.part").stat().st_size > 20_000
    assert (download(hub, tmp_path) / "big.bin").read_bytes() == hub.files[BIG]


@pytest.mark.parametrize("key", [BIG, SMALL])
def test_a_wrong_digest_is_thrown_away(hub, tmp_path, key):
    hub.corrupt.add(key)
    with pytest.raises(DownloadError, match="arrived damaged.*fetch the file by hand"):
        download(hub, tmp_path)
    assert Path(key).name not in files_in(tmp_path) and not any(name.endswith(".part") for name in files_in(tmp_path))
    hub.corrupt.clear()
    download(hub, tmp_path)


@pytest.mark.parametrize(
    ("where", "status", "words"),
    [
        (SOURCE.repo, 404, "not on the hub any more"),
        (SOURCE.repo, 401, "Set HF_TOKEN to a valid token"),
        (SOURCE.repo, 403, "refuses"),
        (SOURCE.repo, 400, "answers with status 400"),
        (BIG, 404, "not on the hub any more"),
        (BIG, 500, "answers with status 500"),
    ],
)
def test_refusals_say_what_to_do(hub, tmp_path, where, status, words):
    hub.status[where] = status
    with pytest.raises(DownloadError, match=words) as refusal:
        download(hub, tmp_path)
    assert "--from" in str(refusal.value) and "\n" not in str(refusal.value)


def test_the_token_is_sent_and_never_told(hub, tmp_path, monkeypatch):
    hub.token = "hf_secret_of_mine"
    with pytest.raises(DownloadError, match="wants a token"):
        download(hub, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_out_of_date")
    with pytest.raises(DownloadError, match="is not let in") as refusal:
        download(hub, tmp_path)
    assert "hf_out_of_date" not in str(refusal.value)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    download(hub, tmp_path)


def test_the_storage_that_files_are_redirected_to_does_not_get_the_token(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_mine")
    with FakeHub(hub.files) as storage:
        hub.storage = storage.url.replace("127.0.0.1", "localhost")
        storage.cuts[BIG] = [40_000]
        assert (download(hub, tmp_path) / "big.bin").read_bytes() == hub.files[BIG]
        assert set(hub.authorized) == {"Bearer hf_secret_of_mine"} and set(storage.authorized) == {None}
        assert [name for name, _ in storage.fetched()].count("big.bin") == 2


def test_no_server_at_all(hub, tmp_path):
    hub.__exit__()
    with pytest.raises(DownloadError, match="connection to the hub broke"):
        download(hub, tmp_path)


def test_a_publisher_who_lacks_a_file(hub, tmp_path):
    del hub.files[BIG]
    with pytest.raises(DownloadError, match="has no v1/big.bin at main"):
        download(hub, tmp_path)


def test_what_the_publisher_changed_is_told_and_taken_only_when_asked(hub, tmp_path):
    download(hub, tmp_path)
    remove("numbers", tmp_path)
    assert files_in(tmp_path) == {"downloads.json", ".lock"}
    hub.files[BIG] = bytes(100_000)
    with pytest.raises(CheckpointError, match="not the one that was downloaded first.*--accept-changes"):
        download(hub, tmp_path)
    hub.commit = "d" * 40  # main has moved on, and the old commit is gone
    with pytest.raises(DownloadError, match="404"):
        download(hub, tmp_path)
    assert (download(hub, tmp_path, accept_changes=True) / "big.bin").read_bytes() == bytes(100_000)
    assert Ledger(tmp_path).source(SOURCE).commit == "d" * 40


def test_a_digest_that_is_known_beforehand(hub, tmp_path):
    wrong, right = "0" * 64, hashlib.sha256(hub.files[BIG]).hexdigest()
    for folder, digest in (("wrong", wrong), ("right", right)):
        source = replace(SOURCE, digests=(("big.bin", digest),))
        release = replace(RELEASE, sources=(source,))
        if digest == wrong:
            with pytest.raises(CheckpointError, match="big.bin of somebody/numbers is not the one.*that S2 Mesh knows"):
                plan_from_hub(release, tmp_path / folder, endpoint=hub.url)
        changes = digest == wrong
        plan = plan_from_hub(release, tmp_path / folder, endpoint=hub.url, accept_changes=changes)
        install(plan, tmp_path / folder, lambda *_: None, endpoint=hub.url)
        assert (tmp_path / folder / "numbers" / "big.bin").read_bytes() == hub.files[BIG]
    (tmp_path / "by hand").mkdir()
    for name in SOURCE.files:
        (tmp_path / "by hand" / name).write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="that S2 Mesh knows"):
        install(plan_from_folder(release, tmp_path / "by hand"), tmp_path / "models", lambda *_: None)


def test_a_file_changed_on_the_disk_is_found(hub, tmp_path):
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)
    install(plan, tmp_path, lambda *_: None, endpoint=hub.url)
    assert verify("numbers", tmp_path, lambda *_: None) == []
    path = tmp_path / "numbers" / "big.bin"
    path.write_bytes(bytes(100_000))
    (problem,) = verify("numbers", tmp_path, lambda *_: None)
    assert "big.bin was changed after it was downloaded" in problem
    with pytest.raises(DownloadError, match="was changed after it had come, and was removed"):
        download(hub, tmp_path)
    assert (download(hub, tmp_path) / "big.bin").read_bytes() == hub.files[BIG]


def test_a_full_disk_keeps_what_came(hub, tmp_path):
    """A limit for the size of files says what a full disk says."""
    resource = pytest.importorskip("resource", reason="Windows has no limit for the size of a process's files")
    import signal

    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
        with pytest.raises(DiskFullError, match="big.bin"):
            gather(plan, tmp_path, lambda *_: None, hub.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "numbers" / "big.bin.part").stat().st_size == 50_000
    assert (download(hub, tmp_path) / "big.bin").read_bytes() == hub.files[BIG]


def test_room_is_looked_for_first(hub, tmp_path, monkeypatch):
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)
    monkeypatch.setattr("shutil.disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(DiskFullError, match=r"needs 0.2 GB of free disk.*--models-dir"):
        check_room(plan, tmp_path / "not" / "there")


def test_files_fetched_by_hand(hub, tmp_path):
    by_hand, models = tmp_path / "by hand", tmp_path / "models"
    (by_hand / "numbers" / "v1").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="lacks big.bin of Numbers. Fetch v1/big.bin from https"):
        plan_from_folder(RELEASE, by_hand)
    for name in SOURCE.files:
        (by_hand / "numbers" / "v1" / name).write_bytes(hub.files[f"somebody/numbers/v1/{name}"])
    install(plan_from_folder(RELEASE, by_hand), models, lambda *_: None)
    assert not hub.requests
    assert Ledger(models).source(SOURCE).commit is None
    assert (models / "numbers" / "big.bin").read_bytes() == hub.files[BIG]
    assert (models / "numbers" / "small.txt").read_bytes() == b"few words"
    assert verify("numbers", models, lambda *_: None) == []
    (by_hand / "numbers" / "v1" / "big.bin").write_bytes(b"tampered")
    with pytest.raises(CheckpointError, match="is not the file that was downloaded first"):
        install(plan_from_folder(RELEASE, by_hand), models, lambda *_: None)


def test_one_at_a_time(hub, tmp_path):
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)
    hub.gate = threading.Event()
    first = threading.Thread(target=install, args=(plan, tmp_path, lambda *_: None), kwargs={"endpoint": hub.url})
    first.start()
    assert hub.waiting.wait(60)
    with pytest.raises(ConfigError, match="another download"):
        remove("numbers", tmp_path)
    hub.gate.set()
    first.join(60)
    assert standing("numbers", tmp_path).installed


def test_a_folder_that_cannot_be_written(hub, tmp_path):
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        install(plan, tmp_path / "file" / "models", lambda *_: None)


def test_a_disk_that_is_full_at_the_conversion(hub, tmp_path, monkeypatch):
    plan = plan_from_hub(RELEASE, tmp_path, endpoint=hub.url)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Ledger, "set_made", full)
    with pytest.raises(DiskFullError, match="Free some"):
        install(plan, tmp_path, lambda *_: None, endpoint=hub.url)


def test_only_our_own_files_are_removed(hub, tmp_path):
    download(hub, tmp_path)
    (tmp_path / "numbers" / "notes.txt").write_text("mine")
    (tmp_path / "direct3d-s2-v1.1").mkdir()
    assert {path.name for path in removable("numbers", tmp_path)} <= {"big.bin", "small.txt"}
    remove("numbers", tmp_path)
    assert (tmp_path / "numbers" / "notes.txt").read_text() == "mine"
    assert (tmp_path / "direct3d-s2-v1.1").is_dir()
    with pytest.raises(ConfigError, match="part of S2 Mesh"):
        removable("starter", tmp_path)
    trained = tmp_path / "starter"
    trained.mkdir()
    for network in PRESETS["starter"].networks():
        (trained / f"{network}.safetensors").touch()
    with pytest.raises(ConfigError, match="was not downloaded"):
        removable("starter", tmp_path)
    with pytest.raises(ConfigError, match="there is no model 'starer'"):
        removable("starer", tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"version": 1}', '{"version": 1, "sources": {"a": 7}, "made": {}}']
)
def test_a_damaged_record_is_told(tmp_path, content):
    (tmp_path / "downloads.json").write_text(content)
    with pytest.raises(CheckpointError, match="downloads.json"):
        Ledger(tmp_path)


def test_what_comes_along_with_a_preset(tmp_path, monkeypatch):
    found = {"onnxruntime": object()}
    monkeypatch.setattr("core.checkpoints.standing.importlib.util.find_spec", found.get)
    preset, matting = "direct3d-s2-v1.1", releases.MATTING
    assert with_companions([preset, preset], tmp_path) == [preset, matting]
    assert with_companions([matting], tmp_path) == [matting]
    (tmp_path / matting).mkdir()
    (tmp_path / matting / "model.onnx").touch()
    assert with_companions([preset], tmp_path) == [preset]
    (tmp_path / matting / "model.onnx").unlink()
    found.clear()
    assert with_companions([preset], tmp_path) == [preset]
    with pytest.raises(ConfigError, match="'starter' cannot be downloaded. Known: direct3d-s2-v1.1"):
        with_companions(["starter"], tmp_path)
