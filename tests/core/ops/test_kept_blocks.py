"""A choice of blocks that later evaluations use: the same where nothing changed, the old one where something did."""

import pytest
import torch

from core.ops import ssa
from core.ops.kept_blocks import KeptBlocks
from tests.support.attention_cases import make_case, random_inputs, random_voxels

H, G, D, S = 6, 2, 8, 2


@pytest.fixture
def case():
    return make_case([random_voxels(300, 32), random_voxels(60, 32)])


@pytest.fixture
def no_scores(monkeypatch):
    """From the call of it on, blocks cannot be chosen."""
    return lambda: monkeypatch.setattr(ssa, "select_blocks", lambda *_: pytest.fail("chose blocks"))


def attention(inputs, case, **how):
    with torch.inference_mode():
        return ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, S, **how)


def chosen(inputs, case):
    with torch.inference_mode():
        lse = ssa.compressed_attention(inputs[0], inputs[3], inputs[4], case.plan)[1]
        return ssa.select_blocks(inputs[0], inputs[3], lse, case.plan, S)


def test_keeping_changes_nothing_and_using_what_was_kept_neither(case, no_scores):
    inputs = random_inputs(case, H, G, D, torch.float32)
    plain, kept, index = attention(inputs, case), KeptBlocks(), chosen(inputs, case)
    assert torch.equal(attention(inputs, case, kept=kept), plain)
    assert torch.equal(kept.index, index)
    no_scores()
    assert torch.equal(attention(inputs, case, kept=kept, choose=False), plain)


def test_other_tokens_attend_to_the_blocks_that_were_kept(case, no_scores):
    first, then = (random_inputs(case, H, G, D, torch.float32) for _ in range(2))
    plain, kept = attention(then, case), KeptBlocks()
    attention(first, case, kept=kept)
    with torch.inference_mode():
        q, k, v, kc, vc, gate = then
        parts = (
            ssa.compressed_attention(q, kc, vc, case.plan)[0],
            ssa.selected_attention(q, k, v, chosen(first, case), case.plan),
            ssa.window_attention(q, k, v, case.windows),
        )
        expected = sum(gate[:, i, None, None] * part for i, part in enumerate(parts))
    no_scores()
    out = attention(then, case, kept=kept, choose=False)
    torch.testing.assert_close(out, expected)
    assert not torch.allclose(out, plain, atol=1e-3), "the choices were the same: nothing was tried"


def test_a_new_choice_is_written_where_the_old_one_was(case):
    first, then = (random_inputs(case, H, G, D, torch.float32) for _ in range(2))
    kept = KeptBlocks()
    attention(first, case, kept=kept)
    place, old = kept.index.data_ptr(), kept.index.clone()
    out = attention(then, case, kept=kept)
    assert kept.index.data_ptr() == place and not torch.equal(kept.index, old)
    assert torch.equal(kept.index, chosen(then, case)) and torch.equal(out, attention(then, case))


def test_what_would_be_wrong_is_refused(case):
    inputs = random_inputs(case, H, G, D, torch.float32)
    with pytest.raises(AssertionError, match="without gradients"):
        ssa.spatial_sparse_attention(*inputs, case.plan, case.windows, S, kept=KeptBlocks())
    with pytest.raises(AssertionError, match="needs a kept one"):
        attention(inputs, case, choose=False)
    with pytest.raises(AssertionError, match="no choice of blocks has been kept"):
        attention(inputs, case, kept=KeptBlocks(), choose=False)
    kept, other = KeptBlocks(), make_case([random_voxels(40, 32)])
    attention(random_inputs(other, H, G, D, torch.float32), other, kept=kept)
    with pytest.raises(AssertionError, match="are kept"):
        attention(inputs, case, kept=kept)
