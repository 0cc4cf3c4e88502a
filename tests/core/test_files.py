"""A file is whole under its name, or it is the old one."""

import os
import stat
import sys

import pytest

from core.errors import DiskFullError, InputError
from core.files import replacing, telling_why, write_atomically


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(RuntimeError), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_the_name_appears_with_the_whole_content(tmp_path):
    path = tmp_path / ("n" * 250)  # a temporary name must not be longer than names may be
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_who_may_read_it(tmp_path):
    old = os.umask(0o027)
    try:
        for private, mode in ((False, 0o640), (True, 0o600)):
            with replacing(tmp_path / "x", private=private) as temporary:
                if private:
                    assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
                temporary.unlink()
                temporary.write_text("made anew by a library")
                temporary.chmod(0o666)
            assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == mode
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (FileNotFoundError(2, "no"), InputError, "Create it first"),
        (OSError(28, "No space left on device"), DiskFullError, "no space left for"),
        (PermissionError(13, "Permission denied"), InputError, "Permission denied. Choose a folder"),
    ],
)
def test_what_the_system_says_becomes_advice(tmp_path, error, kind, words):
    with pytest.raises(kind, match=words), telling_why(tmp_path / "x"):
        raise error


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(InputError, match="Name a file in it"):
        write_atomically(tmp_path, b"")
