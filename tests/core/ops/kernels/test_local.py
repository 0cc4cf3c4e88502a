"""Attention to chosen blocks and windows, and the gated sum, against float64."""

import pytest
import torch

from core.ops.kernels.local import local_forward, local_tile_size
from core.ops.kernels.unions import tile_unions
from core.ops.tiles import make_tiles
from tests.support.attention_cases import relative_error
from tests.support.local_cases import LocalCase, attend, local_case, poisoned

TOLERANCE = {torch.float32: 2e-6, torch.float16: 1.5e-3}


def tables(case: LocalCase, selected: bool, by_window: bool):
    """Tiles, order and unions."""
    size = local_tile_size(case.q, case.k.shape[1], selected)
    order = case.order if by_window else None
    tiles = make_tiles(case.cu_windows if by_window else case.cu_samples, size)
    return tiles, order, tile_unions(case.index, tiles, order) if selected else None


def check(ours: torch.Tensor, exact: torch.Tensor) -> None:
    assert relative_error(ours, exact) < TOLERANCE[ours.dtype]


def check_lse(ours: torch.Tensor, exact: torch.Tensor) -> None:
    assert ours.dtype == torch.float32 and ours.shape == exact.shape
    assert torch.equal(ours == -torch.inf, exact == -torch.inf)
    seen = exact != -torch.inf
    assert relative_error(ours[seen], exact[seen]) < 1e-6


@pytest.mark.parametrize(
    ("heads", "groups", "width", "dtype"),
    [(32, 2, 32, torch.float16), (6, 2, 32, torch.float32), (2, 1, 24, torch.float16), (2, 1, 24, torch.float32)],
)
def test_all_branches(heads, groups, width, dtype, device):
    case = local_case(heads, groups, width, dtype, device, blocks=([1, 33, 7], [5, 6]))
    tiles, order, unions = tables(case, True, True)
    with poisoned():
        result = local_forward(
            *(case.q, case.k, case.v, tiles, order),
            unions=unions,
            cu_blocks=case.cu_blocks,
            cu_windows=case.cu_windows,
            coarse=case.coarse,
            gate=case.gate,
            keep_parts=True,
        )
    selected, lse2_selected = attend(case.q, case.k, case.v, case.to_blocks())
    window, lse2_window = attend(case.q, case.k, case.v, case.to_window())
    gate = case.gate.double()[:, :, None, None]
    check(result.out, gate[:, 0] * case.coarse.double() + gate[:, 1] * selected + gate[:, 2] * window)
    check(result.selected, selected)
    check(result.window, window)
    check_lse(result.lse2_selected, lse2_selected)
    check_lse(result.lse2_window, lse2_window)
    assert (result.selected[:5] == 0).all()


@pytest.mark.parametrize("scale", [1.0, 60.0])  # 60: logits of hundreds
@pytest.mark.parametrize(("heads", "chosen"), [(4, 3), (1, 9)])  # 9: more than any sample has
def test_chosen_blocks_alone(heads, chosen, scale, device):
    case = local_case(heads, 1, 16, torch.float32, device, chosen=chosen, scale=scale)
    tiles, order, unions = tables(case, True, False)
    with poisoned():
        result = local_forward(
            *(case.q, case.k, case.v, tiles, order), unions=unions, cu_blocks=case.cu_blocks, keep_parts=True
        )
    exact, lse2 = attend(case.q, case.k, case.v, case.to_blocks())
    assert relative_error(result.out, exact) < 2e-6 * scale
    check_lse(result.lse2_selected, lse2)
    assert result.selected is None and result.window is None and result.lse2_window is None


@pytest.mark.parametrize(("width", "dtype"), [(64, torch.float16), (40, torch.float32)])
def test_window_alone(width, dtype, device):
    case = local_case(2, 2, width, dtype, device)
    tiles, order, _ = tables(case, False, True)
    with poisoned():
        result = local_forward(*(case.q, case.k, case.v, tiles, order), cu_windows=case.cu_windows, keep_parts=False)
    check(result.out, attend(case.q, case.k, case.v, case.to_window())[0])
    assert result.lse2_window is None and result.lse2_selected is None


def test_unions_of_more_entries_than_are_looked_at_together(device):
    case = local_case(16, 1, 16, torch.float16, device, chosen=25, blocks=([1] * 36,))
    tiles, order, unions = tables(case, True, False)
    assert int(unions.count.max()) > 32
    result = local_forward(
        *(case.q, case.k, case.v, tiles, order), unions=unions, cu_blocks=case.cu_blocks, keep_parts=False
    )
    check(result.out, attend(case.q, case.k, case.v, case.to_blocks())[0])


def test_nothing_to_do(device):
    q = torch.zeros(0, 16, 16, device=device)
    k = torch.zeros(0, 1, 16, device=device)
    cu = torch.zeros(1, dtype=torch.int32, device=device)
    tiles = make_tiles(cu, local_tile_size(q, 1, False))
    assert local_forward(q, k, k, tiles, None, cu_windows=cu, keep_parts=True).out.shape == q.shape
