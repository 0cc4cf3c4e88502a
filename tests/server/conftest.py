"""The worker's engine in process, for the tests that need no server."""

import pytest

from core.config.presets import PRESETS
from tests.support.tiny_presets import TINY, TINY_TWO


@pytest.fixture(scope="module")
def one_engine(tmp_path_factory, tiny_models_dir):
    """One engine for all tests: networks take seconds to warm up."""
    with pytest.MonkeyPatch.context() as patch:
        for preset in (TINY, TINY_TWO):
            patch.setitem(PRESETS, preset.name, preset)
        from tests.support.engine_bench import Bench  # it loads torch

        yield Bench(tmp_path_factory.mktemp("jobs"), tiny_models_dir)


@pytest.fixture
def bench(one_engine):
    yield one_engine
    one_engine.watch = lambda event: None
