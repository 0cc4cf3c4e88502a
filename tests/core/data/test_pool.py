"""Pools of training samples: the same shard from the same seed, and no half shard is ever read."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import core.data.pool as pool_module
from core.data.parts import Parts, pack, part
from core.data.pool import Pool, PoolConfig, build_pool, coarse_field, make_shard, shard_path

CONFIG = PoolConfig(seed=3, image_size=24, field_resolution=8, shard_size=6, batch=4)


def built(folder: Path, shards: int, config: PoolConfig = CONFIG) -> list[int]:
    return list(build_pool(folder, shards, config, "cpu"))


def test_a_shard_is_the_same_wherever_it_is_made(tmp_path):
    built(tmp_path, 2)
    again = make_shard(CONFIG, 1, "cpu")
    stored = load_file(shard_path(tmp_path, 1))
    assert stored.keys() == again.keys()
    assert all(torch.equal(stored[key], again[key]) for key in again)
    assert not torch.equal(stored["field"], load_file(shard_path(tmp_path, 0))["field"])
    assert not torch.equal(stored["half"], make_shard(replace(CONFIG, seed=4), 1, "cpu")["half"])


def test_what_a_shard_holds():
    shard = make_shard(CONFIG, 0, "cpu")
    count = len(shard["family"])
    assert 0 < count <= CONFIG.shard_size and {f.name for f in fields(Parts)} < shard.keys()
    assert shard["image"].shape == (count, 3, 24, 24) and shard["image"].dtype == torch.uint8
    assert shard["field"].shape == (count, 8, 8, 8) and shard["field"].dtype == torch.int8
    assert (shard["image"].amin((1, 2, 3)) < 240).all() and (shard["image"].amax((1, 2, 3)) == 255).all()
    parts = Parts(**{f.name: shard[f.name] for f in fields(Parts)})
    torch.testing.assert_close(shard["field"], (coarse_field(parts, 8) * 127).round().to(torch.int8), rtol=0, atol=1)


def test_the_field_counts_in_cells_along_x_y_z():
    slab = coarse_field(pack([[part((-0.5, 0, 0), (0.25, 4, 4))]]), 8)[0]
    expected = torch.tensor([0.5, -0.5, -0.5, 0.5, 1.5, 2.5, 3.0, 3.0]) / 3
    torch.testing.assert_close(slab, expected[:, None, None].expand(8, 8, 8), rtol=0, atol=1e-6)


def test_an_interrupted_build_leaves_no_shard_that_is_read(tmp_path, monkeypatch):
    built(tmp_path, 1)

    def cut_short(tensors, path):
        Path(path).write_bytes(b"half a shard")
        raise KeyboardInterrupt

    monkeypatch.setattr(pool_module, "save_file", cut_short)
    with pytest.raises(KeyboardInterrupt):
        built(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == [shard_path(tmp_path, 0).name], "half a shard is left"
    assert len(Pool.load(tmp_path)) == len(load_file(shard_path(tmp_path, 0))["image"])


def test_a_resumed_build_makes_only_what_is_missing(tmp_path, monkeypatch):
    built(tmp_path, 3)
    kept = shard_path(tmp_path, 0).stat().st_mtime_ns
    shard_path(tmp_path, 1).unlink()
    made, make = [], pool_module.make_shard

    def counting(config, index, device, **how):
        made.append(index)
        return make(config, index, device, **how)

    monkeypatch.setattr(pool_module, "make_shard", counting)
    assert built(tmp_path, 3) == [0, 1, 2]
    assert made == [1] and shard_path(tmp_path, 0).stat().st_mtime_ns == kept


def test_loading_joins_shards_in_order_up_to_a_limit(tmp_path):
    built(tmp_path, 2)
    sizes = [len(load_file(shard_path(tmp_path, index))["image"]) for index in (0, 1)]
    pool = Pool.load(tmp_path)
    assert len(pool) == sum(sizes) == len(pool.parts) and len(Pool.load(tmp_path, limit=1)) == sizes[0]
    second = load_file(shard_path(tmp_path, 1))
    assert torch.equal(pool.image[sizes[0] :], second["image"])
    assert torch.equal(pool.parts.half[sizes[0] :], second["half"])
    rows = pool.sample(300, torch.Generator().manual_seed(0))
    assert set(rows.tolist()) == set(range(len(pool)))
