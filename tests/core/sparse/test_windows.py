"""Windows partition the voxels: each voxel in exactly one, and two share one exactly if their cubes agree."""

import pytest
import torch

from core.sparse.coords import unique_coords
from core.sparse.tensor import SparseTensor
from core.sparse.windows import plan_windows, window_plan
from tests.support.voxels import random_coords


@pytest.mark.parametrize("window, shift", [(8, 0), (8, 4), (3, 1), (1, 0), (64, 32)])
def test_partition(window, shift):
    coords = unique_coords(random_coords(400, 20))[0]
    plan = plan_windows(coords, window, shift)
    assert plan.order.sort()[0].tolist() == list(range(len(coords)))
    assert torch.equal(plan.order[plan.inverse], torch.arange(len(coords)))
    starts = plan.cu_seqlens.tolist()
    assert starts[0] == 0 and starts[-1] == len(coords) and plan.num_windows == len(starts) - 1
    cubes = []
    for start, stop in zip(starts[:-1], starts[1:], strict=True):
        rows = coords[plan.order[start:stop]].long()
        inside = {(row[0], *((v + shift) // window for v in row[1:])) for row in rows.tolist()}
        assert len(inside) == 1
        cubes += inside
    assert len(set(cubes)) == plan.num_windows, "one cube in two windows"
    assert plan.max_len == max(b - a for a, b in zip(starts[:-1], starts[1:], strict=True))


@pytest.mark.parametrize("n", [0, 1])
def test_few_voxels(n):
    plan = plan_windows(random_coords(n, 5), 8, 4)
    assert plan.num_windows == n and plan.max_len == n and plan.cu_seqlens.dtype == torch.int32


def test_plans_are_kept_per_shift():
    coords = unique_coords(random_coords(50, 9))[0]
    x = SparseTensor(torch.zeros(len(coords), 1), coords)
    assert window_plan(x, 4, 0) is window_plan(x.replace(x.feats + 1), 4, 0)
    assert window_plan(x, 4, 2) is not window_plan(x, 4, 0)
