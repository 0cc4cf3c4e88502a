"""One picture to one mesh, or several to one each: the walk from stage to stage, and what comes of it."""

import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core import __version__
from core.config.base import to_dict
from core.config.generation import GenerationOptions
from core.config.stages import IMAGE, STRUCTURE
from core.geometry.mesh import Mesh
from core.imaging.background import MattingModel
from core.imaging.load import ImageSource, RGBAImage
from core.pipeline.hand_over import Structure
from core.pipeline.memory_plan import MemoryPlan
from core.pipeline.progress import CancelToken, OnProgress, Progress, StageReporter
from core.pipeline.residency import Networks, Resident, plan_run
from core.pipeline.walk import Stages, Walk


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A mesh and how it came about."""

    mesh: Mesh  # world units, Y up, front towards +Z
    structure: Structure  # the coarse shape of the dense stage
    settings: dict[str, Any]  # every option with its value, fit for JSON; the same settings give the same mesh
    seed: int
    num_tokens: dict[str, int]  # of each sparse stage, by its name
    timings: dict[str, float]  # seconds of each stage; of the whole group where pictures shared one
    notes: tuple[str, ...]  # sentences for the user: what was done to the picture, what fell back


@dataclass(frozen=True)
class Picture:
    """What one mesh is made of."""

    image: ImageSource  # a path, the bytes of a file, a Pillow image or an array
    seed: int | None = None  # None: that of the options


def generate(
    image: ImageSource,
    networks: Networks,
    options: GenerationOptions,
    *,
    on_progress: OnProgress | None = None,
    on_picture: Callable[[RGBAImage], None] | None = None,
    on_structure: Callable[[Structure], None] | None = None,
    cancel: CancelToken | None = None,
    matting: MattingModel | None = None,
    run: Resident | None = None,
) -> GenerationResult:
    """One picture to one mesh.

    Args:
        image: a path, the bytes of a file, a Pillow image or an array.
        networks: the networks of a preset, on their device and in their dtype.
        options: what the user asks for; its preset, device and dtype were used to make ``networks``.
        on_progress: called at the start of each stage and after each step; a stage that ran out of memory starts anew.
        on_picture: called once, with the picture as it is used: its alpha shows what is taken for the object.
        on_structure: called once, with the coarse shape, as soon as it is known.
        cancel: asked at every step.
        matting: a network for backgrounds that are not plain.
        run: ``Resident(networks, plan_run(networks, options))``, for those who loaded networks ahead with it.

    Raises:
        InputError: for a picture that cannot be used.
        ConfigError: for a resolution that the preset does not have, or more tokens than allowed.
        NoSurfaceError: if no shape is found, or the field never crosses the iso level.
        DeviceMemoryError: if memory runs out, naming the stage; the next mode of the memory plan was tried.
        CheckpointError: for weights that are missing or damaged, when they are first needed.
        GenerationCancelled: after ``cancel.cancel()``.
    """
    outcomes = generate_many(
        [Picture(image)],
        networks,
        options,
        on_progress=None if on_progress is None else lambda _, progress: on_progress(progress),
        on_picture=None if on_picture is None else lambda _, picture: on_picture(picture),
        on_structure=None if on_structure is None else lambda _, structure: on_structure(structure),
        cancel=cancel,
        matting=matting,
        run=run,
    )
    (outcome,) = (outcome for _, outcome in outcomes)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@torch.inference_mode()
def generate_many(
    pictures: Sequence[Picture],
    networks: Networks,
    options: GenerationOptions,
    *,
    on_progress: Callable[[int, Progress], None] | None = None,
    on_picture: Callable[[int, RGBAImage], None] | None = None,
    on_structure: Callable[[int, Structure], None] | None = None,
    cancel: CancelToken | None = None,
    matting: MattingModel | None = None,
    run: Resident | None = None,
) -> Iterator[tuple[int, GenerationResult | Exception]]:
    """Several pictures, or one with several seeds, stage by stage: each network is loaded once for all.

    The first two stages see several pictures at once where the memory plan allows it (``MemoryPlan.batch``); results
    are those that each picture has alone, up to the rounding of such a batch.

    Args:
        As of ``generate``; callbacks are given the place of the picture in ``pictures`` first.

    Yields:
        The place of a picture and its result, or what ``generate`` would have raised for it; as soon as it is known,
        each place once. One that fails does not stop the others.

    Raises:
        ConfigError: for a resolution that the preset does not have.
        CheckpointError, DiskFullError, GenerationCancelled: what ends the work on all of them.
    """
    run = run or Resident(networks, plan_run(networks, options))
    preset, several = run.plan.preset, len(pictures) > 1
    do = Stages(run, options, matting, several=several)
    walks = [
        Walk(
            index=index,
            image=picture.image,
            seed=options.seed if picture.seed is None else picture.seed,
            report=StageReporter(_of(on_progress, index), cancel),
            on_picture=_of(on_picture, index) or _ignored,
            on_structure=_of(on_structure, index) or _ignored,
        )
        for index, picture in enumerate(pictures)
    ]
    try:
        do.together(walks, IMAGE, do.see)
        yield from _failures(walks)
        do.together(walks, STRUCTURE, do.shape)
        yield from _failures(walks)
        for number in range(len(preset.sparse)):
            last = number + 1 == len(preset.sparse)
            do.alone(walks, lambda walk, number=number: do.detail(walk, number))
            yield from _failures(walks)
            for walk in list(walks):
                do.alone([walk], lambda walk, number=number: do.mesh(walk, number))
                if last:
                    do.alone([walk], do.clean)
                yield from _failures(walks)
                if last and walk in walks:
                    walks.remove(walk)
                    yield walk.index, _result(walk, options, run)
    finally:
        run.close()


def _of(callback: Callable[[int, Any], None] | None, index: int) -> Callable[[Any], None] | None:
    """The callback of one picture."""
    return None if callback is None else lambda value: callback(index, value)


def _ignored(value: Any) -> None:
    """Where nobody listens."""


def _failures(walks: list[Walk]) -> Iterator[tuple[int, Exception]]:
    """Those that have failed, which leave ``walks``."""
    for walk in [walk for walk in walks if walk.failure is not None]:
        walks.remove(walk)
        yield walk.index, walk.failure


def _result(walk: Walk, options: GenerationOptions, run: Resident) -> GenerationResult:
    return GenerationResult(
        mesh=walk.mesh,
        structure=walk.structure,
        settings=resolved_settings(options, run.plan, run.networks, walk.seed),
        seed=walk.seed,
        num_tokens=walk.num_tokens,
        timings=walk.report.timings,
        notes=(*walk.notes, *run.notes),
    )


def resolved_settings(options: GenerationOptions, plan: MemoryPlan, networks: Networks, seed: int) -> dict[str, Any]:
    """The options with the preset's values where the user gave none, and the versions: a result can be made again.

    What a sparse stage has of its own is a list, one value for each stage that ran. ``memory`` is the mode that
    the run ended in.
    """
    preset = plan.preset
    dense, final = preset.dense.sampling, preset.sparse[-1]
    settings = {**to_dict(options), "seed": seed, "memory": plan.mode}
    own = {
        "resolution": final.resolution,
        "dense_steps": dense.steps,
        "dense_guidance": dense.guidance,
        "iso_level": final.iso_level,
    }
    of_stages = {
        "sparse_steps": [stage.sampling.steps for stage in preset.sparse],
        "sparse_guidance": [stage.sampling.guidance for stage in preset.sparse],
        "max_tokens": [stage.max_tokens for stage in preset.sparse],
    }
    for key, value in own.items():
        settings[key] = value if settings[key] is None else settings[key]
    for key, values in of_stages.items():
        settings[key] = values if settings[key] is None else [settings[key]] * len(values)
    machine = {"device": str(networks.device), "dtype": str(networks.dtype).removeprefix("torch.")}
    versions = {"s2mesh": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**settings, "preset": preset.name, **machine, "versions": versions}
