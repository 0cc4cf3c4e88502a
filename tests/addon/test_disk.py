"""The cache folder: bounded, ours alone, and shared without harm."""

import hashlib
import os
import time

from blender_addon.disk import cache_path, is_whole, trim
from blender_addon.wire import Artifact


def stored(folder, number: int, size: int, age_s: float, name: str = "mesh.glb"):
    content = bytes([number]) * size
    artifact = Artifact(name=name, bytes=size, sha256=hashlib.sha256(content).hexdigest())
    path = cache_path(folder, f"{number:032x}", artifact)
    path.write_bytes(content)
    os.utime(path, (time.time() - age_s,) * 2)
    return path, artifact


def test_the_oldest_go_first(tmp_path):
    paths = [stored(tmp_path, number, 100, age_s=1000 - number)[0] for number in range(1, 6)]
    trim(tmp_path, 250)
    assert [path.exists() for path in paths] == [False, False, False, True, True]
    trim(tmp_path, 0, keep=paths[3])
    assert [path.exists() for path in paths[3:]] == [True, False]


def test_files_of_others_stay(tmp_path):
    for name in ("holiday.jpg", "0" * 32, "mesh.glb", f"{'0' * 32}.glb"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    trim(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 4
    trim(tmp_path / "none", 0)


def test_what_is_being_downloaded_stays_and_what_was_left_long_ago_goes(tmp_path):
    fresh = tmp_path / (stored(tmp_path, 1, 10, 0)[0].name + ".12345678.part")
    stale = tmp_path / (stored(tmp_path, 2, 10, 0)[0].name + ".12345678.part")
    fresh.touch()
    stale.touch()
    os.utime(stale, (time.time() - 90_000,) * 2)
    trim(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [fresh.name]


def test_a_file_is_whole_or_not(tmp_path):
    path, artifact = stored(tmp_path, 1, 100, 0)
    assert is_whole(path, artifact)
    path.write_bytes(b"\x01" * 99 + b"\x02")
    assert not is_whole(path, artifact)
    path.write_bytes(b"\x01" * 99)
    assert not is_whole(path, artifact)
    path.unlink()
    assert not is_whole(path, artifact)
    path.mkdir()
    assert not is_whole(path, artifact)
