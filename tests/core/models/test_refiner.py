"""Refiners: tiles cover and blend, the sparse walk equals a dense one, only empty cells change sign."""

import pytest
import torch
import torch.nn.functional as F

from core.config.models import RefinerConfig
from core.config.presets import V1_1
from core.errors import NoSurfaceError
from core.models.refiner import AdaptiveFilter, SDFRefiner, SignRefiner
from core.models.refiner_tiles import fade_weights, kept_bytes, slab_budget, tile_starts, tiles
from core.models.slabs import SLAB_BYTES, Volume, group_affine, normalised
from core.sparse.refined_field import crossing_voxels
from core.sparse.tensor import SparseTensor
from tests.support.live_bytes import LiveBytes

SMALL = {"block_channels": (4, 4, 8), "layers_per_block": 1, "layers_mid_block": 1}
SDF = RefinerConfig(kind="sdf", resolution=20, patch_size=12, patch_stride=8, feature_channels=6, **SMALL)
SIGN = RefinerConfig(kind="sign", resolution=32, patch_size=8, patch_stride=4, **SMALL)


def voxels(resolution: int, batch: int = 2, low: int = 0) -> tuple[SparseTensor, SparseTensor]:
    """About a hundred voxels a sample, with values and features."""
    coords = []
    for sample in range(batch):
        points = torch.unique(torch.randint(low, resolution // 2 + low, (120, 3)).clamp(max=resolution - 1), dim=0)
        coords.append(F.pad(points, (1, 0), value=sample))
    merged = torch.cat(coords)
    sdf = SparseTensor(torch.rand(len(merged), 1) * 2 - 1, merged.int())
    return sdf, sdf.replace(torch.randn(len(merged), 6))


def sharpened(model: torch.nn.Module) -> torch.nn.Module:
    """Biases and norms that tell tiles apart."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(
    "resolution, patch, stride, expected",
    [(512, 192, 160, [0, 160, 320]), (512, 256, 128, [0, 128, 256]), (20, 12, 8, [0, 8]), (8, 8, 4, [0])],
)
def test_tiles_of_the_release_and_of_small_grids(resolution, patch, stride, expected):
    starts = tile_starts(resolution, patch, stride)
    assert starts == expected
    assert len(list(tiles(starts))) == len(expected) ** 3


@pytest.mark.parametrize("resolution, patch, stride", [(20, 12, 8), (21, 12, 8), (33, 16, 8), (16, 4, 4), (9, 9, 3)])
def test_fade_weights_sum_to_one_and_cover(resolution, patch, stride):
    starts = tile_starts(resolution, patch, stride)
    weights = fade_weights(starts, resolution, patch)
    torch.testing.assert_close(weights.sum(0), torch.ones(resolution))
    for start, row in zip(starts, weights, strict=True):
        assert not row[:start].any()
        assert not row[start + patch :].any()


def test_fade_is_linear_over_the_overlap_of_the_release():
    weights = fade_weights([0, 160, 320], 512, 192)
    torch.testing.assert_close(weights[1, 160:192], torch.linspace(0, 1, 32))
    torch.testing.assert_close(weights[0, 160:192], 1 - torch.linspace(0, 1, 32))
    assert bool((weights[1, 192:320] == 1).all())


def test_adaptive_filter_against_unfolded_neighbours():
    block, x = AdaptiveFilter(4), torch.randn(1, 4, 5, 6, 7)
    weights = torch.nn.Sequential.forward(block, x)
    weights = weights / weights.abs().sum(1, keepdim=True)
    patches = F.pad(x, (1,) * 6).unfold(2, 3, 1).unfold(3, 3, 1).unfold(4, 3, 1)  # [1, 4, 5, 6, 7, 3, 3, 3]
    expected = torch.einsum("bcxyzk,bkxyz->bcxyz", patches.flatten(5), weights)
    torch.testing.assert_close(block(x, repeats=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_adaptive_filter_where_all_weights_are_zero(dtype):
    block = AdaptiveFilter(3)
    block[0].bias.data.fill_(-100.0)  # no ReLU passes anything
    out = block.to(dtype)(torch.randn(1, 3, 4, 4, 4).to(dtype))
    assert not out.any() and not out.isnan().any()


def test_sdf_refiner_equals_the_dense_walk():
    model, (sdf, feats) = sharpened(SDFRefiner(SDF)), voxels(20)
    dense = sdf.to_dense(20, fill=1.0)
    latent = model.latent_mlp(feats.to_dense(20).movedim(1, -1)).movedim(-1, 1)
    expected = torch.zeros_like(dense)
    ramp = fade_weights([0, 8], 20, 12)
    with torch.no_grad():
        for i, j, k in tiles([0, 1]):
            cut = (..., slice(8 * i, 8 * i + 12), slice(8 * j, 8 * j + 12), slice(8 * k, 8 * k + 12))
            weight = ramp[i][:, None, None] * ramp[j][:, None] * ramp[k]
            expected[cut] += model(dense[cut], latent[cut]) * weight[cut]
    out = model.refine(sdf, feats)
    assert out.shape == (2, 1, 20, 20, 20) and out.dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_sign_refiner_changes_only_empty_cells():
    model, (sdf, _) = sharpened(SignRefiner(SIGN)), voxels(32)
    torch.nn.init.zeros_(model.conv_out.bias)
    out = model.refine(sdf)
    batch, x, y, z = sdf.coords.long().unbind(1)
    assert torch.equal(out[batch, 0, x, y, z], sdf.feats[:, 0])
    filled = out.clone()
    filled[batch, 0, x, y, z] = 1.0
    assert set(filled.unique().tolist()) == {-1.0, 1.0}


def test_sign_refiner_pools_with_one_more_in_the_count_and_later_tiles_win(monkeypatch):
    model = SignRefiner(SIGN)
    seen = []

    def forward(tile, slab_bytes):
        seen.append(tile)
        return torch.full_like(tile, 1.0 if len(seen) % 2 else -1.0)

    monkeypatch.setattr(model, "forward_in_slabs", forward)
    coords = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 31, 31, 31]])
    out = model.refine(SparseTensor(torch.tensor([[-0.5], [-0.1], [0.7]]), coords.int()))
    assert seen[0][0, 0, 0, 0, 0] == pytest.approx(-0.6 / 3)
    assert seen[0][0, 0, 0, 0, 1] == 1.0
    assert out[0, 0, 0, 0, 0] == pytest.approx(-0.5)
    last = 1.0 if len(seen) % 2 else -1.0  # the tile of the far corner holds a voxel, so it is computed, last of all
    assert out[0, 0, 31, 31, 31] == pytest.approx(0.7)
    assert bool((out[0, 0, 24:31, 24:31, 24:31] == last).all())


def test_empty_tiles_are_computed_once_and_the_callback_may_stop(monkeypatch):
    model, (sdf, feats) = SDFRefiner(SDF), voxels(20, batch=1)
    first = SparseTensor(sdf.feats[:1] * 0, torch.zeros(1, 4, dtype=torch.int32))
    calls, reports = [], []
    forward = model.forward_in_slabs
    monkeypatch.setattr(model, "forward_in_slabs", lambda *tile: calls.append(1) or forward(*tile))
    model.refine(first, first.replace(torch.zeros(1, 6)), on_tile=lambda done, total: reports.append((done, total)))
    assert len(calls) == 2  # the tile with the voxel, and one for the seven without
    assert reports == [(i, 8) for i in range(1, 9)]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.refine(sdf, feats, on_tile=stop)


def test_grid_smaller_than_a_tile():
    config = RefinerConfig(kind="sdf", resolution=8, patch_size=192, patch_stride=160, feature_channels=6, **SMALL)
    sdf, feats = voxels(8, batch=1)
    assert SDFRefiner(config).refine(sdf, feats).shape == (1, 1, 8, 8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, (sdf, feats) = SDFRefiner(SDF), voxels(20, batch=1)
    expected = model.refine(sdf, feats)
    out = model.to(dtype).refine(sdf.to(dtype=dtype), feats.to(dtype=dtype))
    assert out.isfinite().all() and (out - expected).norm() < 0.1 * expected.norm() + 1e-3


@pytest.mark.parametrize("slab_bytes", [1, 60_000, 1 << 30])  # two layers at a time, some, all
@pytest.mark.parametrize("config", [SDF, SIGN])
def test_a_tile_in_slabs_equals_the_whole_tile(config, slab_bytes):
    model = sharpened({"sdf": SDFRefiner, "sign": SignRefiner}[config.kind](config))
    if config.kind == "sdf":
        inputs = (torch.randn(2, 1, 12, 12, 12), torch.randn(2, 4, 12, 12, 12))
    else:
        inputs = (torch.randn(2, 1, 16, 16, 16),)
    with torch.no_grad():
        expected = model(*inputs)
        out = model.forward_in_slabs(*inputs, slab_bytes)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_group_norm_of_values_far_from_zero():
    norm = torch.nn.GroupNorm(2, 4)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(1, 4, 10, 6, 6) * 0.1 + 300
    affine = group_affine(Volume(x[:, :3], x[:, 3:]), norm, 1)
    torch.testing.assert_close(normalised(x, affine), F.silu(norm(x)), rtol=1e-3, atol=2e-3)  # x itself has 3e-5


@pytest.mark.parametrize("stage, most, whole", [(0, 1.0e9, 3.7e9), (1, 1.9e9, 8.5e9)])
def test_bytes_of_the_released_tiles_in_half_precision(stage, most, whole):
    """Counted without computing: what is alive at once, slab by slab and in the network's own forward."""
    config = V1_1.sparse[stage].refiner
    shapes = [(1, 1), (1, 8)][: 2 - stage]
    with torch.device("meta"), torch.no_grad():
        model = {"sdf": SDFRefiner, "sign": SignRefiner}[config.kind](config).half()
        inputs = [torch.empty(*shape, *(config.patch_size,) * 3, dtype=torch.float16) for shape in shapes]
        with LiveBytes() as meter:
            out = model.forward_in_slabs(*inputs, SLAB_BYTES)
        with LiveBytes() as definition:
            assert out.shape == model(*inputs).shape
    assert meter.peak < min(most, kept_bytes(config, torch.float16) + 1.2 * SLAB_BYTES)
    assert definition.peak > whole


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_what_is_kept_of_a_refined_field_has_its_surface(share):
    model, (sdf, feats) = sharpened(SDFRefiner(SDF)), voxels(20)
    dense = model.refine(sdf, feats)[:, 0]
    level = float(dense.quantile(share)) + 1e-7  # no value is on it
    for whole, field in zip(dense, model.refine_at(level, sdf, feats, memory_budget=0), strict=True):
        coords, values = crossing_voxels(whole, level)
        assert len(coords) and torch.equal(field.coords, coords) and field.far is None and field.resolution == 20
        torch.testing.assert_close(field.values, values, rtol=1e-4, atol=1e-5)


def test_signs_are_kept_at_half_the_resolution_and_values_as_they_are():
    model, (sdf, _) = sharpened(SignRefiner(SIGN)), voxels(32)
    torch.nn.init.zeros_(model.conv_out.bias)
    fields = model.refine_at(0.0, sdf)
    assert all(field.far.outside.dtype is torch.bool and field.far.factor == 2 for field in fields)
    assert torch.equal(torch.cat([field.values for field in fields]), sdf.feats[:, 0])
    assert torch.equal(torch.stack([field.dense() for field in fields])[:, None], model.refine(sdf))


@pytest.mark.parametrize("config", [SDF, SIGN])
def test_values_that_are_not_finite_are_refused(config):
    model = {"sdf": SDFRefiner, "sign": SignRefiner}[config.kind](config)
    sdf, feats = voxels(20, batch=1)
    sdf.feats[7] = float("nan")
    with pytest.raises(NoSurfaceError, match="not finite.*another seed"):
        model.refine_at(0.0, sdf, feats)


def test_a_budget_leaves_the_rest_to_slabs():
    kept = kept_bytes(SIGN, torch.float16)
    assert slab_budget(SIGN, kept + (100 << 20), torch.float16) == 100 << 20
    assert slab_budget(SIGN, None, torch.float16) == SLAB_BYTES
    assert 0 < slab_budget(SIGN, 0, torch.float16) < SLAB_BYTES  # what cannot be done without


def test_a_batch_equals_its_samples():
    model, (sdf, feats) = sharpened(SDFRefiner(SDF)), voxels(20)
    both = model.refine_at(0.0, sdf, feats)
    for b, field in enumerate(both):
        alone = model.refine_at(0.0, sdf.sample(b), feats.sample(b))[0]
        assert torch.equal(alone.coords, field.coords)
        torch.testing.assert_close(alone.values, field.values)
