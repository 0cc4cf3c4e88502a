"""How the tests of this folder reach the scripts of packaging/, which are no package."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def load(monkeypatch):
    """Imports a script of packaging/ as run.py does: from its own folder."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "packaging"))
    return importlib.import_module
