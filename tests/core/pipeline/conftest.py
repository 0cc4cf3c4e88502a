"""Tiny networks and a picture, made once for all tests of the pipeline."""

import numpy as np
import pytest

from tests.support.tiny_models import tiny_store
from tests.support.tiny_presets import TINY, TINY_COARSE, TINY_REFINED, TINY_TWO


@pytest.fixture(scope="session")
def stores(tmp_path_factory):
    """Name of a preset to its networks."""
    folder = tmp_path_factory.mktemp("tiny")
    return {preset.name: tiny_store(preset, folder) for preset in (TINY, TINY_COARSE, TINY_TWO, TINY_REFINED)}


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """[40, 50, 4] uint8: an orange box on nothing."""
    pixels = np.zeros((40, 50, 4), np.uint8)
    pixels[10:30, 10:40] = (200, 80, 40, 255)
    return pixels
