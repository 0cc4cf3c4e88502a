"""The whole walk on tiny random networks: real code from picture to mesh."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from core.config.generation import GenerationOptions, option_table
from core.config.stages import stage_names
from core.errors import ConfigError, GenerationCancelled, InputError, NoSurfaceError
from core.pipeline.image_to_shape import generate
from core.pipeline.progress import CancelToken
from tests.support.tiny_models import tiny_store
from tests.support.tiny_presets import TINY, TINY_COARSE, TINY_REFINED, TINY_TWO

OPTIONS = GenerationOptions(preset="tiny", seed=1)


@pytest.mark.parametrize("name", ["tiny", "tiny-coarse", "tiny-two", "tiny-refined"])
def test_from_picture_to_mesh(stores, picture, name):
    store = stores[name]
    events, structures = [], []
    result = generate(
        picture, store, replace(OPTIONS, preset=name), on_progress=events.append, on_structure=structures.append
    )
    assert result.mesh.num_faces > 100
    assert np.abs(result.mesh.vertices).max() <= 1
    assert list(result.num_tokens) == [f"detail {stage.resolution}" for stage in store.preset.sparse]
    assert result.num_tokens["detail 32"] == len(result.structure.coords)
    assert structures == [result.structure] and structures[0].mesh().is_watertight()

    order = stage_names(store.preset)
    assert list(dict.fromkeys(event.stage for event in events)) == order == list(result.timings)
    places = [(order.index(event.stage), event.step / event.steps) for event in events]
    assert places == sorted(places)
    assert {event.stage for event in events if event.step == event.steps} == set(order)


def test_a_seed_makes_the_mesh_again_and_another_another(stores, picture):
    once, again = (generate(picture, stores["tiny"], OPTIONS).mesh for _ in range(2))
    np.testing.assert_array_equal(once.vertices, again.vertices)
    np.testing.assert_array_equal(once.faces, again.faces)
    other = generate(picture, stores["tiny"], replace(OPTIONS, seed=2)).mesh
    assert other.vertices.shape != once.vertices.shape or not np.array_equal(other.vertices, once.vertices)


def test_the_picture_matters(stores, picture):
    other = picture.copy()
    other[12:20, 12:30, :3] = (20, 40, 220)
    meshes = [generate(pixels, stores["tiny"], OPTIONS).mesh for pixels in (picture, other)]
    assert not np.array_equal(meshes[0].vertices[:50], meshes[1].vertices[:50])


@pytest.mark.parametrize("stage", stage_names(TINY_TWO))
def test_cancelled_in_each_stage(stores, picture, stage):
    token = CancelToken()
    after = []

    def watch(progress):
        after.append(progress.stage)
        if progress.stage == stage:
            token.cancel()

    with pytest.raises(GenerationCancelled):
        generate(picture, stores["tiny-two"], replace(OPTIONS, preset="tiny-two"), on_progress=watch, cancel=token)
    assert after[-1] == stage and after.count(stage) == 1


def test_settings_name_every_value_that_was_used(stores, picture):
    options = replace(OPTIONS, dense_steps=2, sparse_steps=1, dense_guidance=3.0, sparse_guidance=0.5, faces=60)
    events = []
    result = generate(picture, stores["tiny"], options, on_progress=events.append)
    assert ("detail 32", 1) in {(event.stage, event.steps) for event in events}
    assert ("structure", 3) in {(event.stage, event.steps) for event in events}  # two steps and the decoder
    settings = json.loads(json.dumps(result.settings))
    assert (settings["dense_steps"], settings["sparse_steps"]) == (2, [1])
    assert (settings["dense_guidance"], settings["sparse_guidance"]) == (3.0, [0.5])
    assert (settings["resolution"], settings["background"]) == (32, "auto")
    assert (settings["seed"], settings["preset"]) == (1, "tiny")
    assert (settings["device"], settings["dtype"]) == ("cpu", "float32")
    assert settings["iso_level"] == 0.0 and settings["versions"]["torch"] == torch.__version__
    assert None not in [value for key, value in settings.items() if key != "faces"]
    defaults = generate(picture, stores["tiny"], OPTIONS).settings
    assert (defaults["dense_steps"], defaults["sparse_steps"]) == (3, [2])
    assert (defaults["dense_guidance"], defaults["sparse_guidance"]) == (1.5, [2.0])


# Each with another value than the preset's; what it must change in the result.
CHANGES = {
    "seed": 2,
    "resolution": 32,
    "dense_steps": 1,
    "sparse_steps": 1,
    "dense_guidance": 4.0,
    "sparse_guidance": 6.0,
    "iso_level": 0.3,
    "faces": 80,
    "background": "none",
    "interior": "keep",
    "remove_floaters": True,
    "remove_interior": False,
    "solver": "multistep",
    "guided_from": 0.9,
    "guided_until": 0.9,
    "unconditional_every": 2,
    "selection_every": 2,
}
ELSEWHERE = {"preset", "device", "dtype"}  # of the networks that generate is given
UNSEEN = {"memory"}  # where networks are, which no mesh shows; see test_memory_plan
REFUSED = {"max_tokens"}  # makes an error, not another mesh; see test_too_many_tokens


def test_every_option_has_its_part_in_these_tests():
    assert {option.name for option in option_table(GenerationOptions)} == {*CHANGES, *ELSEWHERE, *UNSEEN, *REFUSED}


TWO = replace(OPTIONS, preset="tiny-two", remove_floaters=False)  # else no enclosed part would be left to remove


@pytest.fixture(scope="module")
def whole(stores, picture):
    return generate(picture, stores["tiny-two"], TWO)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_each_option_reaches_the_mesh_and_the_settings(stores, whole, picture, name):
    result = generate(picture, stores["tiny-two"], replace(TWO, **{name: CHANGES[name]}))
    assert not np.array_equal(result.mesh.vertices, whole.mesh.vertices)
    changed = {key for key, value in result.settings.items() if value != whole.settings[key]}
    per_stage = {"sparse_steps", "sparse_guidance", "max_tokens"}  # fewer values where a stage is left out
    assert changed - per_stage == {name} - per_stage and name in changed


def test_dense_and_sparse_guidance_are_their_own(stores, whole, picture):
    change = {"dense_guidance": 4.0, "sparse_guidance": 6.0}
    dense, sparse = (
        generate(picture, stores["tiny-two"], replace(TWO, **{name: value})) for name, value in change.items()
    )
    np.testing.assert_array_equal(sparse.structure.coords, whole.structure.coords)
    assert not np.array_equal(dense.structure.coords, whole.structure.coords)


def test_a_resolution_ends_the_walk_at_its_stage(stores, picture):
    options = replace(OPTIONS, preset="tiny-two", resolution=32, iso_level=0.1)
    events = []
    result = generate(picture, stores["tiny-two"], options, on_progress=events.append)
    order = stage_names(TINY_TWO, 32)
    assert list(dict.fromkeys(event.stage for event in events)) == order == list(result.timings)
    assert order[-2:] == ["surface 32", "cleanup"] and list(result.num_tokens) == ["detail 32"]
    assert (result.settings["resolution"], result.settings["sparse_steps"]) == (32, [2])
    alone = generate(picture, stores["tiny"], replace(OPTIONS, iso_level=0.1))  # the same stage, if other weights
    assert {event.stage for event in events} == set(alone.timings)
    assert ("surface 32", 1) in {(event.stage, event.steps) for event in events}  # no cells for a next stage
    last = generate(picture, stores["tiny-two"], replace(OPTIONS, preset="tiny-two", resolution=64))
    assert last.settings["resolution"] == 64 and "detail 64" in last.num_tokens


def test_a_resolution_that_the_preset_lacks(stores, picture):
    with pytest.raises(ConfigError, match=r"resolution is 128; preset 'tiny-two' has 32, 64\."):
        generate(picture, stores["tiny-two"], replace(OPTIONS, preset="tiny-two", resolution=128))


def test_the_picture_is_handed_over_once_as_it_is_used(stores):
    opaque = np.full((40, 50, 3), 240, np.uint8)
    opaque[10:30, 10:40] = (200, 80, 40)
    seen = []
    for background in ("auto", "alpha", "none"):
        generate(opaque, stores["tiny"], replace(OPTIONS, background=background), on_picture=seen.append)
    auto, alpha, none = seen
    assert auto.has_alpha and auto.pixels[0, 0, 3] == 0 and auto.pixels[20, 20, 3] == 255
    assert not alpha.has_alpha and not none.has_alpha


def test_a_face_budget_and_a_single_part(stores, picture):
    whole = generate(picture, stores["tiny"], replace(OPTIONS, remove_floaters=False, remove_interior=False)).mesh
    cleaned = generate(picture, stores["tiny"], OPTIONS).mesh
    small = generate(picture, stores["tiny"], replace(OPTIONS, faces=cleaned.num_faces // 2)).mesh
    assert small.num_faces <= cleaned.num_faces // 2 < cleaned.num_faces < whole.num_faces


def test_too_many_tokens(stores, picture):
    with pytest.raises(ConfigError, match=r"tokens at 32 voxels.*at most 3"):
        generate(picture, stores["tiny"], replace(OPTIONS, max_tokens=3))


def test_a_level_that_the_field_never_crosses(tmp_path, picture):
    def positive(name, network):
        if name == "sparse_vae_32":
            network.decoder.out_layer.bias.data.fill_(20.0)

    with pytest.raises(NoSurfaceError, match="never crosses"):
        generate(picture, tiny_store(TINY, tmp_path, tune=positive), OPTIONS)


@pytest.mark.parametrize("bias, found", [(-3.0, True), (-60.0, False)])
def test_a_faint_structure_is_noted_and_none_is_an_error(tmp_path, picture, bias, found):
    def faint(name, network):
        if name == "dense_vae":
            last = network.decoder.out_layer[2]
            last.weight.data *= 0.05  # nearly the same logit in every cell
            last.bias.data.fill_(bias)

    store = tiny_store(TINY, tmp_path, tune=faint)
    if found:  # a probability of 0.05 in every cell, the lowest step
        result = generate(picture, store, OPTIONS)
        assert any("faint" in note for note in result.notes)
    else:
        with pytest.raises(NoSurfaceError, match="another seed"):
            generate(picture, store, OPTIONS)


def test_an_occupancy_grid_finer_than_the_latents(tmp_path, picture):
    coarse = replace(
        TINY,
        name="tiny-pooled",
        sparse=(
            replace(
                TINY.sparse[0],
                resolution=16,
                dit=replace(TINY.sparse[0].dit, resolution=4),
                vae=replace(TINY.sparse[0].vae, resolution=4),
            ),
        ),
    )
    result = generate(picture, tiny_store(coarse, tmp_path), OPTIONS)
    assert result.num_tokens["detail 16"] == len(np.unique(result.structure.coords // 2, axis=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("preset", [TINY_COARSE, TINY_REFINED])
def test_half_precision_ends_near_the_same_structure(stores, tmp_path, picture, preset, dtype):
    store = tiny_store(preset, tmp_path)
    store.dtype = dtype  # before any network is loaded
    full, half = (generate(picture, s, replace(OPTIONS, preset=preset.name)) for s in (stores[preset.name], store))
    cells = [set(map(tuple, result.structure.coords.tolist())) for result in (full, half)]
    assert len(cells[0] & cells[1]) > 0.8 * len(cells[0] | cells[1])
    assert half.settings["dtype"] in str(dtype) and half.mesh.num_faces > 100


def test_a_picture_that_cannot_be_used_stops_before_any_network_is_loaded(tmp_path):
    store = tiny_store(TINY, tmp_path)
    with pytest.raises(InputError, match="transparent"):
        generate(np.zeros((8, 8, 4), np.uint8), store, OPTIONS)
    assert not store.loaded
