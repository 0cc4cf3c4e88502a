"""Several pictures in one run: results as alone, failures that stay where they are, one load of each network."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.config.generation import GenerationOptions
from core.config.stages import stage_names
from core.errors import CheckpointError, GenerationCancelled, InputError, NoSurfaceError
from core.pipeline.image_to_shape import Picture, generate, generate_many
from core.pipeline.memory_plan import MemoryPlan
from core.pipeline.progress import CancelToken
from tests.support.tiny_models import tiny_store
from tests.support.tiny_presets import TINY, TINY_COARSE, TINY_REFINED

OPTIONS = GenerationOptions(preset="tiny", seed=1)
EMPTY = np.zeros((8, 8, 4), np.uint8)


@pytest.fixture
def other(picture):
    """Another picture: [40, 50, 4] uint8."""
    pixels = picture.copy()
    pixels[12:20, 12:30, :3] = (20, 40, 220)
    return pixels


def made(store, options, *pictures, **how):
    """Outcomes in the order of the pictures."""
    found = dict(generate_many(pictures, store, options, **how))
    assert sorted(found) == list(range(len(pictures)))
    return [found[index] for index in range(len(pictures))]


def same(first, second):
    np.testing.assert_array_equal(first.mesh.vertices, second.mesh.vertices)
    np.testing.assert_array_equal(first.mesh.faces, second.mesh.faces)


@pytest.mark.parametrize(("preset", "mode"), [(TINY_COARSE, "all"), (TINY_COARSE, "stream"), (TINY_REFINED, "stage")])
def test_each_is_what_it_is_alone(stores, picture, other, preset, mode):
    store, options = stores[preset.name], replace(OPTIONS, preset=preset.name, memory=mode, resolution=32)
    together = made(store, options, Picture(picture), Picture(other), Picture(picture, seed=5))
    for result, (pixels, seed) in zip(together, ((picture, 1), (other, 1), (picture, 5)), strict=True):
        alone = generate(pixels, store, replace(options, seed=seed))
        same(result, alone)
        assert (result.seed, result.settings, result.num_tokens) == (seed, alone.settings, alone.num_tokens)
        np.testing.assert_array_equal(result.structure.coords, alone.structure.coords)
    assert together[0].mesh.num_vertices != together[2].mesh.num_vertices


@pytest.mark.parametrize("mode", ["stage", "stream"])
def test_every_network_is_loaded_once_for_all(tmp_path, picture, other, monkeypatch, mode):
    store, loads = tiny_store(TINY_REFINED, tmp_path), []
    release = store.release
    monkeypatch.setattr(store, "release", lambda name: (loads.append(name), release(name)))
    options = replace(OPTIONS, preset=TINY_REFINED.name, memory=mode, resolution=32)
    made(store, options, Picture(picture), Picture(other))
    assert sorted(loads) == sorted(TINY_REFINED.up_to(32).networks()), "each is released once, so each was loaded once"


def test_a_group_that_shares_the_first_stages_comes_near_to_each_alone(stores, picture, other, monkeypatch):
    """As on a GPU, where products of several pictures round otherwise."""
    alone = [generate(pixels, stores["tiny"], OPTIONS) for pixels in (picture, other, picture)]
    monkeypatch.setattr(MemoryPlan, "batch", lambda self, count: min(count, 2))
    shapes = []
    conditioner = stores["tiny"].get("conditioner")
    hook = conditioner.register_forward_hook(lambda module, inputs, output: shapes.append(len(inputs[0])))
    together = made(stores["tiny"], OPTIONS, Picture(picture), Picture(other), Picture(picture))
    hook.remove()
    assert shapes == [2, 1]
    for result, one in zip(together, alone, strict=True):
        cells = [set(map(tuple, found.structure.coords.tolist())) for found in (result, one)]
        assert len(cells[0] & cells[1]) >= 0.95 * len(cells[0] | cells[1])


def test_failures_stay_with_their_picture(stores, picture):
    told = []
    first, bad, missing, last = made(
        stores["tiny"], OPTIONS, Picture(picture), Picture(EMPTY), Picture("no/such.png"), Picture(picture, seed=2),
        on_progress=lambda index, progress: told.append((index, progress.stage)),
    )  # fmt: skip
    assert isinstance(bad, InputError) and "transparent" in str(bad)
    assert isinstance(missing, InputError) and "no/such.png" in str(missing)
    same(first, generate(picture, stores["tiny"], OPTIONS))
    assert last.seed == 2
    order = stage_names(TINY)
    for index in (0, 3):
        assert list(dict.fromkeys(stage for number, stage in told if number == index)) == order
    assert {stage for number, stage in told if number in (1, 2)} == {"image"}


def test_a_shape_that_is_not_found_stays_with_its_picture_too(stores, picture, monkeypatch):
    from core.pipeline import walk

    cells, calls = walk.occupied_cells, []

    def none_in_the_second(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise NoSurfaceError("the first stage found no shape")
        return cells(*arguments)

    monkeypatch.setattr(walk, "occupied_cells", none_in_the_second)
    outcomes = made(stores["tiny"], OPTIONS, *[Picture(picture, seed) for seed in (1, 2, 3)])
    assert [isinstance(outcome, NoSurfaceError) for outcome in outcomes] == [False, True, False]


def test_memory_that_runs_out_for_one_leaves_the_others(stores, picture):
    """Once for the whole run it is met by the next mode; after that it is the picture's end."""

    def exhausted(index, progress):
        if index == 1 and progress.stage == "decode 32":
            raise torch.OutOfMemoryError("out of memory")

    first, second, third = made(
        stores["tiny"], OPTIONS, *[Picture(picture, seed) for seed in (1, 2, 3)], on_progress=exhausted
    )
    assert "'decode 32'" in str(second)
    same(first, generate(picture, stores["tiny"], OPTIONS))
    assert third.settings["memory"] == "stage" and "ran out of memory" in third.notes[-1]


def test_a_cancel_ends_all(stores, picture):
    token, finished = CancelToken(), []

    def watch(index, progress):
        if progress.stage == "cleanup" and index == 0:
            token.cancel()

    with pytest.raises(GenerationCancelled):
        for index, _ in generate_many([Picture(picture)] * 2, stores["tiny"], OPTIONS, on_progress=watch, cancel=token):
            finished.append(index)
    assert finished == []


def test_damaged_weights_end_all(tmp_path, picture):
    store = tiny_store(TINY, tmp_path)
    (store.folder / "dense_dit.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="dense_dit"):
        made(store, OPTIONS, Picture(picture), Picture(picture))


def test_what_waits_is_small_and_on_the_cpu(stores, picture, monkeypatch):
    """Tokens, cells and latents: no field and no mesh of a picture waits for another's."""
    from core.pipeline import walk

    waiting = []
    detail = walk.Stages.detail

    def watched(self, one, number):
        detail(self, one, number)
        waiting.append({name for name, value in vars(one).items() if isinstance(value, torch.Tensor) and value.numel()})
        assert one.latent.device.type == "cpu" and one.mesh is None

    monkeypatch.setattr(walk.Stages, "detail", watched)
    made(stores["tiny-coarse"], replace(OPTIONS, preset="tiny-coarse"), Picture(picture), Picture(picture))
    assert waiting == [{"tokens", "mask"}] * 2
