"""Which server a command talks to: arguments that several verbs share, and the order in which the token is looked for.

The token: ``--token-file``, then the variable S2MESH_TOKEN, then the data directory. It is no argument of its own,
since other users of a machine can read the arguments of a process.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import InputError

if TYPE_CHECKING:  # it loads requests, which the help needs not
    from server.client import Client

TOKEN_VARIABLE = "S2MESH_TOKEN"
LOCAL = "local"  # as --server: the running server of this machine


def add_server_arguments(parser: argparse.ArgumentParser, *, default: str | None = LOCAL, more: str = "") -> None:
    """``--server``, ``--token-file`` and ``--data-dir``."""
    group = parser.add_argument_group("server")
    group.add_argument(
        "--server",
        metavar="URL",
        default=default,
        help=f"address of a server, or `{LOCAL}` for the one that runs on this machine{more}",
    )
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the server's token (else ${TOKEN_VARIABLE}, else that of the data folder)",
    )
    group.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="the server's data folder (default: the user's own)"
    )


def connect(arguments: argparse.Namespace, environment: Mapping[str, str]) -> "Client":
    """The client of the server that the arguments mean.

    Raises:
        CoreError: if there is none, or no token.
    """
    from server.client import Client

    token = environment.get(TOKEN_VARIABLE, "").strip() or None
    if arguments.token_file is not None:
        token = read_token(arguments.token_file)
    return Client(None if arguments.server == LOCAL else arguments.server, token, arguments.data_dir)


def read_token(path: Path) -> str:
    """The one line of a token file.

    Raises:
        InputError: if it cannot be read, or is more than one line.
    """
    try:
        with path.open(encoding="ascii") as file:
            text = file.read(4096).strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"the token file {path} cannot be read: {reason}.") from None
    if not text or "\n" in text:
        raise InputError(f"{path} is no token file: it must hold one line, as `s2mesh token` prints it.")
    return text
