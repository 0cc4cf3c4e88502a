"""Which server a client means, and the token for it: from what was given, else from the data directory.

The token of the data directory goes to this machine's own addresses only, unless the directory itself was named: it
is a secret that no other machine should be told by accident.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from core.errors import ConfigError
from server.client_errors import Unreachable
from server.data_dir import DataDir
from server.security import is_loopback
from server.settings import DEFAULT_PORT

_EXAMPLE = f"such as http://127.0.0.1:{DEFAULT_PORT}"
_CLOCK_S = 60.0  # by so much a clock may have been set while the server runs


def find_server(url: str | None, token: str | None, data_dir: Path | None) -> tuple[str, str]:
    """Address without a slash at its end, and token.

    Raises:
        Unreachable: no address was given and no server runs here. ConfigError: for an address or token that cannot be
            used, or if there is no token.
    """
    folder = DataDir(None if data_dir is None else Path(data_dir))
    address = _running(folder) if url is None else clean_address(url)
    if token is None:
        if data_dir is None and not is_loopback(urlsplit(address).hostname or ""):
            raise ConfigError(
                f"the token of the server at {address} is needed. On its machine `s2mesh token` prints it; "
                "give it with --token-file FILE or in S2MESH_TOKEN."
            )
        token = folder.token()
    if token is None:
        raise ConfigError(
            f"there is no token in {folder.path}. Give that of the server with --token-file FILE or in S2MESH_TOKEN, "
            "or name its data folder with --data-dir."
        )
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigError("the token must be one line of letters without spaces; `s2mesh token` prints it.")
    return address, token


def clean_address(text: str) -> str:
    """The address with its scheme; where none is written it is http, and the port the server's usual one.

    Raises:
        ConfigError: if it is no address, or more than one.
    """
    bare = "://" not in text
    try:
        parts = urlsplit(f"http://{text}" if bare else text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"{text[:200]!r} is no address. Give one {_EXAMPLE}.") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\\]", text):
        raise ConfigError(f"{text[:200]!r} is no address. Give one {_EXAMPLE}.")
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"give the address alone, {_EXAMPLE}: no user, question mark or #token.")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if bare and port is None:
        port = DEFAULT_PORT
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"


def _running(folder: DataDir) -> str:
    """The address of the server that has the data directory now."""
    info = folder.read_info()
    if info is None or not _lives(info):
        raise Unreachable(
            f"no server runs with the data folder {folder.path}. Start it with `s2mesh serve`, or give the address of "
            "another with --server URL."
        )
    return clean_address(info["url"])


def _lives(info: dict) -> bool:
    """Whether the process that wrote the file still lives. Its port may belong to anybody by now, who would get the
    token; a process that took over its number began later than it wrote."""
    try:
        return psutil.Process(info["pid"]).create_time() <= info["started_at"] + _CLOCK_S
    except psutil.AccessDenied:
        return True
    except (psutil.Error, KeyError, TypeError, ValueError):
        return False
