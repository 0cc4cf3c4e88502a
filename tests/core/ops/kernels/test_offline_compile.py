"""What the ops launch is compiled for GPUs that are not here: it fits, it spills nothing, it uses tensor cores.

Calls named ``shipped`` are those of the released networks: they are compiled for every target and must spill nothing.
Other shapes are compiled for one target and may spill a few values.
"""

import importlib
import inspect
from pathlib import Path

import pytest

from tests.support.offline_compile import SHARED_LIMIT, TARGETS, Compiled, run

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("offline_*.py"))
GENERAL_TARGET = 90
GENERAL_SPILL = 64  # bytes of a thread


def calls(shipped: bool) -> list[str]:
    """The functions that launch something, as ``package.module:function``."""
    found = []
    for module in MODULES:
        name = f"tests.core.ops.kernels.{module}"
        functions = inspect.getmembers(importlib.import_module(name), inspect.isfunction)
        own = [key for key, f in functions if f.__module__ == name and not key.startswith("_")]
        assert any(key.startswith("shipped") for key in own), f"{module} lacks the shapes of the released networks"
        found += [f"{name}:{key}" for key in own if key.startswith("shipped") == shipped]
    return found


def check(launch: Compiled) -> None:
    assert launch.shared_bytes <= SHARED_LIMIT[launch.target], launch
    assert launch.tensor_core or not launch.half_products, launch


def test_the_released_shapes_on_every_target():
    compiled = run(calls(shipped=True), TARGETS)
    assert {launch.target for launch in compiled} == set(TARGETS)
    for launch in compiled:
        assert launch.spill_bytes == 0, launch
        check(launch)
    loops = [x for x in compiled if x.kernel in ("_compressed_forward", "_block_scores", "_local_forward")]
    assert len(loops) >= 3 * len(TARGETS)
    for launch in loops:
        assert launch.async_copies, f"{launch}: the loop over keys waits for every load"


@pytest.mark.slow
def test_other_shapes():
    for launch in run(calls(shipped=False), (GENERAL_TARGET,)):
        assert launch.spill_bytes <= GENERAL_SPILL, launch
        check(launch)
