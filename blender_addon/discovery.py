# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the server of this machine: its address, and the token that it wants, lie in the user's data folder.

`server.json` (address, process, version) and `token` are written by the server, readable by this user alone. They are
read anew at every look, for the server may have been started again elsewhere.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .client_errors import BadAddress

DEFAULT_PORT = 8493
_MAX_FILE = 65536


@dataclass(frozen=True, kw_only=True)
class LocalServer:
    """A server that runs on this machine for this user."""

    url: str
    pid: int
    version: str
    token: str


def user_data_dir() -> Path:
    """Where this user's server keeps its token and jobs. The server asks platformdirs, which Blender does not have."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
        return Path(base) / "s2mesh"
    xdg = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(xdg):  # a relative one is to be passed over
        return Path(xdg) / "s2mesh"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "s2mesh"
    return Path.home() / ".local" / "share" / "s2mesh"


def find_local(data_dir: Path | None = None) -> LocalServer | None:
    """The server that runs here now; None where there is none. Whether it answers is another question.

    Args:
        data_dir: its data folder; None is this user's own.
    """
    folder = user_data_dir() if data_dir is None else Path(data_dir)
    token = read_token(folder)
    if token is None:
        return None
    try:
        info = json.loads(_read(folder / "server.json"))
        url, pid, version = info["url"], info["pid"], str(info.get("version", ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(url, str) or isinstance(pid, bool) or not isinstance(pid, int) or not 0 < pid < 2**32:
        return None
    try:
        if not is_loopback(clean_url(url)):  # one that listens on the network as well still answers here
            url = f"http://127.0.0.1:{urlsplit(url).port or DEFAULT_PORT}"
        url = clean_url(url)
    except (BadAddress, ValueError):
        return None
    return LocalServer(url=url, pid=pid, version=version, token=token) if process_lives(pid) else None


def read_token(data_dir: Path | None = None) -> str | None:
    """The token in the data folder; None where there is none that could be sent."""
    folder = user_data_dir() if data_dir is None else Path(data_dir)
    try:
        token = _read(folder / "token").strip()
    except (OSError, ValueError):
        return None
    return token if is_token(token) else None


def is_token(token: str) -> bool:
    """Whether it is one line that a header can carry."""
    return bool(token) and len(token) <= 1000 and all("!" <= letter <= "~" for letter in token)


def clean_url(text: str) -> str:
    """The address with its scheme and without a slash at its end; `localhost` becomes 127.0.0.1.

    Only http and https, a host, a port and a path: no user, query or fragment.

    Raises:
        BadAddress: if it is no such address.
    """
    text = text.strip()
    bare = "://" not in text
    wrong = BadAddress(
        f"{text[:200]!r} is no address of a server", f"Enter one such as http://127.0.0.1:{DEFAULT_PORT}."
    )
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or "@" in parts.netloc:
        raise wrong
    if any(letter <= " " or letter in "\\\x7f" for letter in text):
        raise wrong
    if host == "localhost":  # which may be ::1 first, where nobody listens
        host = "127.0.0.1"
    if bare and port is None:
        port = DEFAULT_PORT
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether the address is one of this machine that no other can reach."""
    try:
        host = urlsplit(url if "://" in url else f"http://{url}").hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def process_lives(pid: int) -> bool:
    """Whether a process has this number now. It is only looked at, never touched."""
    if sys.platform == "win32":
        return _lives_on_windows(pid)
    try:
        os.kill(pid, 0)  # signal 0 is none
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    except OverflowError:
        return False
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    """One that has ended and waits for its parent, which may be this Blender."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[:1] == [b"Z"]
    except OSError:
        return False


def _lives_on_windows(pid: int) -> bool:
    import ctypes

    query, running = 0x1000, 259  # PROCESS_QUERY_LIMITED_INFORMATION, STILL_ACTIVE
    kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
    kernel.OpenProcess.restype = ctypes.c_void_p
    handle = kernel.OpenProcess(query, False, pid)
    if not handle:
        return kernel.GetLastError() == 5  # access denied: it is there
    try:
        status = ctypes.c_ulong()
        return bool(kernel.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(status))) and (
            status.value == running
        )
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))


def _read(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_MAX_FILE).decode("utf-8")
