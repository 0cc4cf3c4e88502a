#!/usr/bin/env python3
"""Runs S2 Mesh from a fresh clone: `python3 packaging/run.py VERB ...` (--help lists the verbs).

This file alone is written so that any Python, however old, can read it and say that it is too old; the work
is done by environment.py beside it.
"""

import os
import sys

OLDEST, NEWEST = (3, 10), (3, 13)


def refusal(version, bits=64):
    """One line for an interpreter that cannot run S2 Mesh, or None for one that can."""
    asked = "S2 Mesh needs a 64-bit Python %d.%d to %d.%d" % (OLDEST + NEWEST)
    remedy = "Start it with one, for example `python3.12 packaging/run.py ...` (on Windows `py -3.12 ...`)."
    if not OLDEST <= tuple(version[:2]) <= NEWEST:
        return "s2mesh: error: %s; this one is %d.%d. %s" % (asked, version[0], version[1], remedy)
    if bits != 64:
        return "s2mesh: error: %s; this one has %d bits. %s" % (asked, bits, remedy)
    return None


if __name__ == "__main__":
    refused = refusal(sys.version_info, 64 if sys.maxsize > 2**32 else 32)
    if refused:
        sys.stderr.write(refused + "\n")
        sys.exit(2)
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # absent under PYTHONSAFEPATH
    import environment

    sys.exit(environment.main(sys.argv[1:]))
