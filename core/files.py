"""Writing files: whole under their name, by a rename, or not at all. Below every layer; loads nothing."""

import contextlib
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path

from core.errors import InputError, disk_full_error, is_disk_full

_PREFIX_LETTERS = 80  # of the name that a temporary file takes over: names have a limit


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the name ``path`` if the block ends well.

    The folder must be there. Whatever happens, no temporary file is left, unless the process is killed: then it is
    one that starts with a dot and ends in ``.part``.

    Args:
        path: the file to write or replace.
        private: readable by its owner alone, from the first moment on.

    Raises:
        OSError: as the system reports it.
    """
    temporary = path.with_name(f".{path.name[:_PREFIX_LETTERS]}.{uuid.uuid4().hex[:8]}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    os.close(descriptor)
    try:
        mode = stat.S_IMODE(temporary.stat().st_mode)  # what the user's umask leaves of it
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if os.name == "posix":
            temporary.chmod(mode)  # a library may have made the file anew
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def telling_why(path: Path) -> Iterator[None]:
    """Turns what the system says of writing ``path`` into words for its user.

    Raises:
        InputError: naming the path and what to do. DiskFullError: where no space is left.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"cannot write {path}: there is no folder {path.parent}. Create it first.") from error
    except OSError as error:
        if is_disk_full(error):
            raise disk_full_error(path, error) from error
        reason = error.strerror or str(error)
        raise InputError(f"cannot write {path}: {reason}. Choose a folder that you may write to.") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file of the user's choice; on an error nothing is left.

    Raises:
        InputError: naming the path and what to do. DiskFullError: where no space is left.
    """
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder. Name a file in it.")
    with telling_why(path), replacing(path) as partial:
        partial.write_bytes(content)
