"""Live servers for the tests of this folder."""

import pytest

from tests.support.live_server import LiveServer


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
    with LiveServer(tmp_path_factory.mktemp("server") / "data", tiny_models_dir) as live:
        yield live


@pytest.fixture
def start_server(tmp_path, tiny_models_dir):
    """Starts servers of a test's own; they are killed at its end."""
    started = []

    def start(name: str = "data", **settings) -> LiveServer:
        live = LiveServer(tmp_path / name, tiny_models_dir, **settings)
        started.append(live)
        return live.start()

    yield start
    for live in started:
        live.__exit__()
