# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the files of S2 Mesh from a release archive, a zip of the repository, into a folder. It is not trusted.

Everything is unpacked beside the folder and checked first; a rename puts it in place, so that the folder holds a whole
version at any time. The environment of an older version is kept: its packages are mostly those of the next.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from .client_connection import import_requests
from .client_errors import DiskFull, InstallFailed, OnlineAccessNeeded, S2MeshError, Stopped, is_disk_full
from .discovery import is_loopback

RUN = PurePosixPath("packaging/run.py")
MAX_DOWNLOAD = 1 << 30
MAX_UNPACKED = 2 << 30
MAX_FILES = 20_000
_PIECE = 1 << 18
_TIMEOUT_S = (10.0, 30.0)
_MAX_REDIRECTS = 5

Progress = Callable[[str], object]  # told a line for people
ShouldStop = Callable[[], bool]


def is_remote(source: str) -> bool:
    """Whether it is an address, not a file."""
    return source.lower().startswith(("http://", "https://"))


def archive_bytes(source: str, *, online_access: bool) -> int | None:
    """Size of the archive; None where the other side does not tell.

    Raises:
        OnlineAccessNeeded, InstallFailed, NoRequests.
    """
    if not is_remote(source):
        try:
            return Path(source).stat().st_size
        except OSError as error:
            raise _unreadable(source, error) from None
    session, response = _open(source, online_access, method="HEAD")
    with session, response:
        length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() and len(length) < 16 and int(length) > 0 else None


def fetch(
    source: str | os.PathLike,
    folder: Path,
    *,
    should_stop: ShouldStop,
    progress: Progress,
    online_access: bool = False,
) -> None:
    """Puts the files of the archive into ``folder``.

    Args:
        source: address of a zip, or path of one.

    Raises:
        InstallFailed, OnlineAccessNeeded, DiskFull, Stopped, NoRequests: then ``folder`` is as it was.
    """
    source, folder = os.fspath(source), Path(folder).absolute()
    _require_replaceable(folder)
    mark = uuid.uuid4().hex[:8]
    download, fresh = (folder.with_name(f"{folder.name}.{what}-{mark}") for what in ("download", "new"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        archive = Path(source)
        if is_remote(source):
            archive = download
            _download(source, download, online_access, should_stop, progress)
        progress("Unpacking")
        unpack(archive, fresh, should_stop)
        _put_in_place(fresh, folder, mark)
    except OSError as error:
        if is_disk_full(error):
            raise DiskFull(f"The disk is full: S2 Mesh does not fit into {folder}", "Free some space.") from None
        raise InstallFailed(
            f"{folder} cannot be written: {error.strerror or error}", "Choose another folder in the preferences."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            download.unlink(missing_ok=True)
        shutil.rmtree(fresh, ignore_errors=True)


def unpack(archive: Path, folder: Path, should_stop: ShouldStop) -> None:
    """Unpacks the repository in the archive to ``folder``, which must not exist yet.

    Raises:
        InstallFailed: if a name leads out of the folder, if it is too large, damaged, or no S2 Mesh.
    """
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            top = _top_folder(entries)
            if len(entries) > MAX_FILES or sum(entry.file_size for entry in entries) > MAX_UNPACKED:
                raise InstallFailed("The archive is larger than S2 Mesh can be", _OTHER)
            left = MAX_UNPACKED
            folder.mkdir(parents=True)
            for entry in entries:
                relative = _safe_name(entry, top)
                if relative is None:
                    continue
                path = folder.joinpath(*relative.parts)
                if not path.resolve().is_relative_to(folder.resolve()):
                    raise InstallFailed(f"The archive has a file outside its folder: {entry.filename[:100]}", _OTHER)
                path.parent.mkdir(parents=True, exist_ok=True)
                with content.open(entry) as packed, path.open("xb") as file:
                    while piece := packed.read(_PIECE):
                        if should_stop():
                            raise Stopped("The installation")
                        left -= len(piece)
                        if left < 0:
                            raise InstallFailed("The archive is larger than it says", _OTHER)
                        file.write(piece)
    except FileExistsError as error:
        raise InstallFailed(f"The archive has a file twice: {Path(error.filename or '').name}", _OTHER) from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InstallFailed(f"The archive is damaged, or no zip: {str(error)[:200]}", _OTHER) from None
    except OSError as error:
        if not archive.is_file():
            raise _unreadable(archive, error) from None
        raise
    except Exception as error:  # zlib.error, lzma.LZMAError, struct.error: a damaged member
        if isinstance(error, S2MeshError):
            raise
        raise InstallFailed(f"The archive is damaged: {str(error)[:200]}", _OTHER) from None


_OTHER = "Choose a release archive of S2 Mesh."


def _unreadable(source: object, error: OSError) -> InstallFailed:
    return InstallFailed(f"{source} cannot be read: {error.strerror or error}", _OTHER)


def _top_folder(entries: list[zipfile.ZipInfo]) -> PurePosixPath:
    """The folder in the archive that holds the repository: GitHub's have one, named for the version."""
    for entry in entries:
        path = PurePosixPath(entry.filename)
        if path == RUN:
            return PurePosixPath()
        if len(path.parts) == 3 and PurePosixPath(*path.parts[1:]) == RUN:
            return PurePosixPath(path.parts[0])
    raise InstallFailed("The archive is no S2 Mesh: it has no packaging/run.py", _OTHER)


def _safe_name(entry: zipfile.ZipInfo, top: PurePosixPath) -> PurePosixPath | None:
    """Where a file goes below the folder; None for folders and for what lies beside the repository."""
    name = entry.filename
    parts = name.split("/")
    mode = entry.external_attr >> 16
    bad = name.startswith("/") or ".." in parts or any(letter in name for letter in '\\:\0<>|"?*')
    if bad or (stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR)) or entry.flag_bits & 1:
        raise InstallFailed(f"The archive has a file that may not be in it: {name[:100]!r}", _OTHER)
    path = PurePosixPath(name)
    if entry.is_dir() or (top.parts and not path.is_relative_to(top)):
        return None
    return path.relative_to(top) if top.parts else path


def _require_replaceable(folder: Path) -> None:
    """What the artist put there is not ours to replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / RUN).is_file() or (folder / ".git").exists():
        raise InstallFailed(
            f"{folder} holds something else, or a checkout of your own", "Choose an empty folder in the preferences."
        )


def _put_in_place(fresh: Path, folder: Path, mark: str) -> None:
    """By renames; the environment of the older version goes along."""
    old = folder.with_name(f"{folder.name}.old-{mark}")
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(fresh, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
    for name in (".venv", ".venv.lock"):
        if (old / name).exists():
            with contextlib.suppress(OSError):  # then it is made anew
                os.replace(old / name, folder / name)
    shutil.rmtree(old, ignore_errors=True)


def _open(source: str, online_access: bool, method: str):
    """Session and answer; redirects are followed to the same kind of address only."""
    requests, url = import_requests(), source
    session = requests.Session()
    try:
        for _ in range(_MAX_REDIRECTS + 1):
            if not is_loopback(url):
                if not online_access:
                    raise OnlineAccessNeeded("The archive is on another machine")
                if urlsplit(url).scheme != "https":
                    raise InstallFailed(f"{url[:200]} is not encrypted", "Give an address that begins with https.")
            elif is_loopback(source):
                session.trust_env = False
            else:
                raise InstallFailed(f"{source[:200]} leads back to this machine", _OTHER)
            response = session.request(method, url, stream=True, allow_redirects=False, timeout=_TIMEOUT_S)
            if not response.is_redirect:
                break
            response.close()
            url = urljoin(url, response.headers.get("Location", ""))
        if response.status_code != 200:
            raise InstallFailed(f"{source[:200]} answered {response.status_code}", "Check the address of the archive.")
    except (requests.RequestException, ValueError) as error:
        session.close()
        raise InstallFailed(
            f"{source[:200]} cannot be reached ({type(error).__name__})", "Check the network and the address."
        ) from None
    except S2MeshError:
        session.close()
        raise
    return session, response


def _download(source: str, path: Path, online_access: bool, should_stop: ShouldStop, progress: Progress) -> None:
    requests = import_requests()
    session, response = _open(source, online_access, method="GET")
    length = response.headers.get("Content-Length", "")
    total = f" of {int(length) / 1e6:.0f}" if length.isdecimal() and len(length) < 16 else ""
    received = told = 0
    with session, response, path.open("xb") as file:
        try:
            for piece in response.iter_content(_PIECE):
                if should_stop():
                    raise Stopped("The download")
                received += len(piece)
                if received > MAX_DOWNLOAD:
                    raise InstallFailed("The archive is larger than S2 Mesh can be", _OTHER)
                file.write(piece)
                if received - told >= 1_000_000:
                    told = received
                    progress(f"Downloading: {received / 1e6:.0f}{total} MB")
        except requests.RequestException:
            raise InstallFailed("The connection broke during the download", "Try again.") from None
    if total and received != int(length) and "Content-Encoding" not in response.headers:
        raise InstallFailed("The archive came incomplete", "Try again.")
