"""The compiled form of the one formula that shapes are made of."""

import shutil

import pytest
import torch

from core.data.parts import compiled_join, distance, join_part
from core.data.pool import draw_shapes

COMPILER = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # what torch's compiler says of itself
def test_compiled_distances_equal_the_plain_ones():
    shapes, _ = draw_shapes(6, 0)
    points = torch.rand(6, 500, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, part = distance(points, shapes, with_part=True, join=join_part)
    fused, fused_part = distance(points, shapes, with_part=True, join=compiled_join())
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)
    assert (fused_part == part).float().mean() > 0.999  # equally near parts may swap by rounding
