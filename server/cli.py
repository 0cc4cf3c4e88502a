"""The command ``s2mesh``: a table of verbs, each loaded only when it is asked for.

``s2mesh VERB ...`` calls the ``main(argv)`` of the verb's module; ``s2mesh --help`` reads this table and
loads nothing else, so that it answers at once.
"""

import difflib
import importlib
import os
import sys
from typing import NamedTuple

from core import __version__
from core.cli.errors import DEBUG_VARIABLE, run_reporting
from server.settings import THREADS


class Verb(NamedTuple):
    module: str  # has main(argv: list[str] | None) -> int
    help: str  # one line


VERBS = {
    "generate": Verb("server.commands.generate", "make a mesh from each picture, here or on a server"),
    "serve": Verb("server.commands.serve", "run the generation server"),
    "jobs": Verb("server.commands.jobs", "list, show, cancel, fetch and delete the jobs of a server"),
    "token": Verb("server.commands.token", "print the token of this machine's server"),
    "doctor": Verb("core.cli.doctor", "say which devices, backends and presets this machine has"),
    "evaluate": Verb("core.cli.evaluate", "score a preset on shapes it was not trained on"),
    "models": Verb("core.cli.models", "list, download, convert, verify and remove the weights of presets"),
    "parity": Verb("core.cli.parity", "compare the networks with recorded tensors of the authors' code"),
    "train-starter": Verb("core.cli.train_starter", "train the starter preset on generated shapes"),
}


def usage() -> str:
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items())
    return f"""usage: s2mesh [--version] [--debug] VERB ...

One picture to one mesh, with Direct3D-S2.

verbs:
{verbs}

options:
  --debug    print the traceback of an error
  --version  print the version
  --help     print this; `s2mesh VERB --help` tells a verb's own options
"""


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; returns its exit status (2 for the user's mistakes, 1 for ours)."""
    for name, value in THREADS.items():
        os.environ.setdefault(name, value)
    arguments = list(sys.argv[1:] if argv is None else argv)
    while arguments[:1] == ["--debug"] or (len(arguments) > 1 and arguments[-1] == "--debug"):
        arguments.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"  # inherited by every process that the verb starts
    if not arguments:
        print(usage(), end="", file=sys.stderr)
        return 2
    name, rest = arguments[0], arguments[1:]
    if name == "help" and rest:  # `s2mesh help VERB`
        name, rest = rest[0], ["--help"]
    if name in ("-h", "--help", "help"):
        print(usage(), end="")
        return 0
    if name in ("-V", "--version"):
        print(f"s2mesh {__version__}")
        return 0
    if name not in VERBS:
        close = difflib.get_close_matches(name, VERBS, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(VERBS)}."
        print(f"s2mesh: error: there is no verb '{name}'. {hint} See `s2mesh --help`.", file=sys.stderr)
        return 2
    return run_reporting(lambda: importlib.import_module(VERBS[name].module).main(rest))


if __name__ == "__main__":
    sys.exit(main())
