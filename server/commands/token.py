"""``s2mesh token``: prints the token of the server on this machine, for other clients and for scripts.

The token is all that goes to the output, so that ``$(s2mesh token)`` is it. It is made if there is none yet, so that
it can be handed to a client before the server has run for the first time.
"""

import argparse
import sys
from pathlib import Path

from core.cli.errors import run_reporting
from server.data_dir import DataDir


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="s2mesh token",
        description="Print the token that every request to the server must carry. It is made if there is none yet. "
        "Whoever has it may use the server: keep it to yourself.",
        epilog="Commands on this machine find it by themselves; elsewhere give it to them with --token-file FILE or in "
        "the variable S2MESH_TOKEN. Over HTTP it is the header `Authorization: Bearer TOKEN`.",
    )
    parser.add_argument(
        "--new",
        action="store_true",
        help="replace it first: a running server takes the new one at once and knows the old one no more",
    )
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="the server's data folder (default: the user's own)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Returns 0.

    Raises:
        ConfigError: for a token that is too short or cannot be read, or a folder that cannot be written.
    """
    arguments = build_parser().parse_args(argv)
    folder = DataDir(arguments.data_dir)
    print(folder.new_token() if arguments.new else folder.ensure_token(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_reporting(main))
