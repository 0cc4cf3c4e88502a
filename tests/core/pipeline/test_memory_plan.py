"""Modes of memory: the same mesh in each, what is resident when, what is chosen, and memory that runs out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.config.generation import GenerationOptions
from core.config.presets import PRESETS, STARTER, V1_1
from core.config.stages import stage_names
from core.errors import DeviceMemoryError
from core.models.sparse_decoder import SparseDecoder
from core.pipeline import memory_plan, walk
from core.pipeline.image_to_shape import generate
from core.pipeline.memory_plan import MODES, MemoryPlan, device_need, make_plan
from core.pipeline.memory_table import Machine, planned_tokens
from core.pipeline.residency import Resident, plan_run
from tests.support.tiny_models import tiny_store
from tests.support.tiny_presets import TINY, TINY_REFINED, TINY_TWO

GPU = Machine("cuda", torch.bfloat16, kernels=True)
REFINED = GenerationOptions(preset=TINY_REFINED.name, seed=1)


def planned(free: float, asked="auto", preset=V1_1) -> MemoryPlan:
    """For a GPU with so many GB free."""
    mode = "all" if asked == "auto" else asked
    plan = MemoryPlan(preset, GPU, "cuda:0", mode, asked, int(free * 1e9), planned_tokens(preset))
    return plan._fitting(0)


def same(first, second):
    np.testing.assert_array_equal(first.mesh.vertices, second.mesh.vertices)
    np.testing.assert_array_equal(first.mesh.faces, second.mesh.faces)


@pytest.fixture(scope="module")
def whole(stores, picture):
    return generate(picture, stores[TINY_REFINED.name], REFINED)


# --- modes ---


@pytest.mark.parametrize("mode", MODES)
def test_both_refiners_and_stages_give_the_same_mesh_in_every_mode(tmp_path, whole, picture, mode):
    store = tiny_store(TINY_REFINED, tmp_path)
    together, streamed = set(), set()

    def watch(progress):
        together.add(frozenset(store.loaded))
        streamed.update(store.streamed)

    result = generate(picture, store, replace(REFINED, memory=mode), on_progress=watch)
    same(result, whole)
    assert result.settings["memory"] == mode and result.mesh.num_faces > 100
    assert result.timings.keys() == set(stage_names(TINY_REFINED))
    if mode == "all":
        assert set(store.loaded) == set(TINY_REFINED.networks())
        return
    assert not store.loaded, "between runs nothing stays"
    refining = {f"{kind}_{side}" for kind in ("sparse_vae", "refiner") for side in (32,)}
    assert max(map(len, together)) == 2 and frozenset(refining) in together
    dits = {"dense_dit", "sparse_dit_32", "sparse_dit_64"}
    assert streamed == (dits if mode == "stream" else set())


def test_a_network_that_is_loaded_otherwise_is_loaded_anew(stores, picture):
    first, *others = (
        generate(picture, stores["tiny"], replace(REFINED, preset="tiny", memory=mode))
        for mode in ("all", "stream", "all")
    )
    for other in others:
        same(first, other)


def test_graphs_are_for_weights_that_stay_where_they_are(stores):
    store = stores["tiny"]
    runs = [Resident(store, plan_run(store, GenerationOptions(memory=mode))) for mode in MODES]
    assert [run.cuda_graphs for run in runs] == [True, True, False]


def test_what_comes_next_is_read_while_a_device_computes():
    class Recorder:
        preset, dtype, cuda_graphs = V1_1, torch.bfloat16, True
        loaded, streamed = (), frozenset()
        ahead: list[tuple[str, ...]] = []

        def __init__(self, device: str):
            self.device = torch.device(device)

        def read_ahead(self, *names):
            self.ahead.append(names)

    run = Resident(Recorder("cuda:0"), planned(8))
    for names in (("conditioner",), ("dense_dit", "dense_vae"), ("sparse_dit_512",), ("sparse_vae_512", "refiner_512")):
        run.enter(*names)
    run.enter("sparse_vae_1024", "refiner_1024")
    following = [
        ("dense_dit", "dense_vae"),
        ("sparse_dit_512",),
        ("refiner_512", "sparse_vae_512"),
        ("sparse_dit_1024",),
    ]
    assert Recorder.ahead == [*following, ()]
    Resident(Recorder("cpu"), planned(8)).enter("conditioner")
    assert len(Recorder.ahead) == 5, "a CPU has its hands full"


# --- what is chosen ---


def test_the_mode_follows_the_free_memory():
    assert [planned(free).mode for free in (24, 8, 6)] == ["all", "stage", "stage"]
    assert planned(2).mode == "stream" and "may run out" in planned(2).why()
    assert planned(8, "all").mode == "all" and planned(24, "stream").mode == "stream"
    assert "all would take" in planned(8).why() and "8.0 GB are free" in planned(8).why()


def test_a_large_shape_goes_on_in_the_next_mode_unless_the_user_chose():
    large = planned(6).for_tokens(1024, 100_000)
    assert (planned(6).mode, large.mode) == ("stage", "stage")
    assert planned(6).for_tokens(1024, 160_000).mode == "stream"
    assert planned(6, "stage").for_tokens(1024, 160_000).mode == "stage"
    assert large.for_tokens(1024, 1000).mode == large.mode, "it never goes back"


def test_budgets_are_what_is_left():
    stage, roomy, tight = V1_1.sparse[1], planned(80), planned(4)
    assert roomy.decoder_budget(stage, 46_000) > tight.decoder_budget(stage, 46_000)
    assert roomy.refiner_budget(stage, 46_000) == tight.refiner_budget(stage, 46_000), "the same field on both"
    assert planned(2.2).refiner_budget(stage, 46_000) < tight.refiner_budget(stage, 46_000)
    after = tight.next()
    assert after.mode == "stream" and after.next().mode == "stream"
    assert after.decoder_budget(stage, 46_000) <= 0.6 * tight.decoder_budget(stage, 46_000)
    assert planned(0.1).decoder_budget(stage, 46_000) > 0


def test_pictures_at_once_are_those_that_fill_a_gpu():
    assert [planned(24).batch(count) for count in (1, 2, 9)] == [1, 2, 2]
    assert planned(24, preset=STARTER).batch(9) == 9
    assert planned(24).next().batch(9) == 1
    assert make_plan(STARTER, torch.device("cpu"), torch.float32).batch(9) == 1


def test_without_knowledge_of_the_memory_all_is_kept(monkeypatch):
    monkeypatch.setattr(memory_plan, "device_memory", lambda device: None)
    plan = make_plan(V1_1, torch.device("cpu"), torch.float32)
    assert plan.mode == "all" and "does not tell" in plan.why()
    assert plan.most_tokens(V1_1.sparse[0]) > 1_000_000 and plan.decoder_budget(V1_1.sparse[0], 1000) > 0


@pytest.mark.parametrize(("resolution", "most"), [(512, 5e9), (1024, 8e9)])
def test_the_release_fits_ordinary_cards(resolution, most):
    cut = V1_1.up_to(resolution)
    assert planned_tokens(V1_1)[1024] > 45_000
    assert device_need(V1_1, resolution) < most
    plan = replace(planned(most / 1e9 - 0.5, preset=cut))
    assert plan.mode == "stage" and plan.peak()[0] < plan.usable


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
def test_what_presets_say_they_need_is_what_the_plan_says(preset):
    for stage in preset.sparse:
        needed = device_need(preset, stage.resolution) / 1e9
        assert needed <= stage.memory_gb <= needed + 0.11


# --- limits and faults ---


def test_more_tokens_than_fit_are_refused_with_both_numbers(stores, picture, monkeypatch):
    monkeypatch.setattr(MemoryPlan, "most_tokens", lambda self, stage: 5)
    options = GenerationOptions(preset="tiny", seed=1)
    with pytest.raises(DeviceMemoryError, match=r"has \d\d+ tokens at 32 .*; about 5 fit .* GB .*set max_tokens to"):
        generate(picture, stores["tiny"], options)
    generate(picture, stores["tiny"], replace(options, max_tokens=10_000))


def test_the_most_tokens_fit_and_more_do_not():
    plan, stage = planned(8), V1_1.sparse[1]
    most = plan.most_tokens(stage)
    assert 46_000 < most < stage.max_tokens * 2
    assert plan._fits(stage, most) and not plan._fits(stage, most + 1000)


class Exhausted:
    """Raises as torch does, the first ``times`` that a stage is at the given step."""

    def __init__(self, stage: str, times: int) -> None:
        self.stage, self.left, self.seen = stage, times, []

    def __call__(self, progress) -> None:
        self.seen.append(progress.stage)
        if progress.stage == self.stage and self.left:
            self.left -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of ...")


@pytest.fixture(scope="module")
def undisturbed(stores, picture, whole):
    """Name of a preset to what it gives."""
    return {TINY_REFINED.name: whole, "tiny": generate(picture, stores["tiny"], replace(REFINED, preset="tiny"))}


ONCE = [("tiny", stage) for stage in stage_names(TINY)]
ONCE += [(TINY_REFINED.name, stage) for stage in ("refine 32", "surface 32", "refine 64")]


@pytest.mark.parametrize(("name", "stage"), ONCE)
def test_memory_that_runs_out_once_in_any_stage(stores, undisturbed, picture, name, stage):
    result = generate(picture, stores[name], replace(REFINED, preset=name), on_progress=Exhausted(stage, 1))
    same(result, undisturbed[name])
    assert result.settings["memory"] == "stage"
    assert result.notes[-1] == f"cpu ran out of memory in '{stage}' with memory all; went on with memory stage."


@pytest.mark.parametrize("stage", ["image", "structure", "surface 32", "detail 64"])
def test_memory_that_runs_out_again_is_an_error_that_names_the_stage(stores, picture, stage):
    store, fault = stores["tiny-two"], Exhausted(stage, 2)
    with pytest.raises(DeviceMemoryError, match=f"'{stage}'.*memory stage.*.CUDA out of memory.") as failed:
        generate(picture, store, replace(REFINED, preset="tiny-two"), on_progress=fault)
    assert fault.seen.count(stage) == 2 and not store.loaded
    for word in ("close other programs", "resolution 32", "memory stream", "another device"):
        assert word in str(failed.value)


def test_the_second_stage_that_runs_out_is_the_end(stores, picture):
    first, second = Exhausted("structure", 1), Exhausted("decode 32", 1)

    def both(progress):
        first(progress)
        second(progress)

    with pytest.raises(DeviceMemoryError, match="'decode 32'"):
        generate(picture, stores["tiny-two"], replace(REFINED, preset="tiny-two"), on_progress=both)


def test_a_network_whose_memory_runs_out_leaves_nothing_behind(tmp_path, picture, monkeypatch):
    """The second attempt starts when the tensors of the first are gone."""
    store, alive, attempts = tiny_store(TINY, tmp_path), [], []

    class Tracked:
        pass

    def exhausted(self, z, **how):
        import weakref

        attempts.append([ref() for ref in alive])
        ours = Tracked()
        alive.append(weakref.ref(ours))
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(SparseDecoder, "forward", exhausted)
    with pytest.raises(DeviceMemoryError, match="'decode 32'"):
        generate(picture, store, GenerationOptions(preset="tiny", seed=1))
    assert attempts == [[], [None]]


def test_other_errors_are_not_tried_again(stores, picture, monkeypatch):
    calls = []

    def broken(*arguments, **named):
        calls.append(1)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(walk.stages, "sample_detail", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        generate(picture, stores["tiny"], GenerationOptions(preset="tiny", seed=1))
    assert len(calls) == 1


def test_a_preset_of_two_stages_is_planned_up_to_the_resolution_asked():
    plan = planned(24, preset=TINY_TWO.up_to(32))
    assert {need.stage for need in plan.needs()} == set(stage_names(TINY_TWO, 32)) - {"cleanup"}
    assert plan.weights(plan.needs()[0], "all") < planned(24, preset=TINY_TWO).weights(plan.needs()[0], "all")
