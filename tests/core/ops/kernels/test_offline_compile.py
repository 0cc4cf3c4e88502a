"""What the ops launch is compiled for GPUs that are not here: it fits, it spills nothing, it uses tensor cores."""

import importlib
import inspect
from pathlib import Path

import pytest

from tests.support.offline_compile import SHARED_LIMIT, run

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("offline_*.py"))


def calls(module: str) -> list[str]:
    """The functions of ``module`` that launch something, as ``package.module:function``."""
    name = f"tests.core.ops.kernels.{module}"
    found = inspect.getmembers(importlib.import_module(name), inspect.isfunction)
    return [f"{name}:{key}" for key, f in found if f.__module__ == name and not key.startswith("_")]


@pytest.mark.parametrize("module", MODULES)
def test_fits_every_target(module):
    compiled = run(calls(module))
    assert compiled
    for launch in compiled:
        assert launch.spill_bytes == 0, launch
        assert launch.shared_bytes <= SHARED_LIMIT[launch.target], launch
        assert launch.tensor_core or not launch.half_products, launch
