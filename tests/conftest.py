"""Shared by all tests: a fixed seed before each, the skip reasons of the markers, live servers."""

import os
import random
import sys
from pathlib import Path

import numpy
import pytest

# Triton looks at this when it is first imported: without a GPU its kernels run in the interpreter on the CPU.
if not any(Path("/dev").glob("nvidia*")):
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Every test starts from the same random state; torch is seeded only where something loaded it."""
    random.seed(0)
    numpy.random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, with the reason."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def tiny_models_dir(tmp_path_factory):
    """Weights of the tiny presets."""
    from tests.support.tiny_models import save_tiny_weights
    from tests.support.tiny_presets import TINY, TINY_TWO

    folder = tmp_path_factory.mktemp("models")
    for preset in (TINY, TINY_TWO):
        save_tiny_weights(preset, folder)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_models_dir):
    """One server for all tests of a module that leave it as they found it."""
    from tests.support.live_server import LiveServer

    with LiveServer(tmp_path_factory.mktemp("server") / "data", tiny_models_dir) as live:
        yield live


@pytest.fixture
def start_server(tmp_path, tiny_models_dir):
    """Starts servers of a test's own; they are killed at its end."""
    from tests.support.live_server import LiveServer

    started = []

    def start(name: str = "data", **settings) -> LiveServer:
        live = LiveServer(tmp_path / name, tiny_models_dir, **settings)
        started.append(live)
        return live.start()

    yield start
    for live in started:
        live.__exit__()
