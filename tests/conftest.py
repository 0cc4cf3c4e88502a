"""Shared by all tests: a fixed seed before each, and the skip reasons of the markers."""

import random
import sys

import numpy
import pytest


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
