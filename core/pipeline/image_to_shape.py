"""The whole walk from one picture to one mesh, in one function."""

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from core import __version__
from core.config.base import to_dict
from core.config.generation import GenerationOptions
from core.config.presets import ModelPreset, SamplingConfig
from core.config.stages import CLEANUP, IMAGE, STRUCTURE, decode, detail, refine, surface
from core.errors import NoSurfaceError
from core.geometry.components import remove_enclosed, remove_floaters
from core.geometry.isosurface import extract_field
from core.geometry.mesh import Mesh
from core.geometry.simplify import simplify
from core.imaging.background import MattingModel, remove_background
from core.imaging.load import ImageSource, RGBAImage, load_image
from core.imaging.preprocess import preprocess, to_tensor
from core.pipeline import stages
from core.pipeline.hand_over import Structure, in_blocks, mesh_to_cells, occupied_cells, on_grid, unrefined_field
from core.pipeline.progress import CancelToken, OnProgress, StageReporter
from core.sparse.tensor import SparseTensor

_CLEANUP_STEPS = 12  # loose pieces, the interior, and the rest for decimation, which is done in rounds


class Networks(Protocol):
    """Where the networks come from; ``core.checkpoints.load.NetworkStore`` is one."""

    preset: ModelPreset
    device: torch.device
    dtype: torch.dtype
    cuda_graphs: bool

    def get(self, name: str) -> nn.Module: ...


@dataclass(frozen=True, eq=False)
class GenerationResult:
    """A mesh and how it came about."""

    mesh: Mesh  # world units, Y up, front towards +Z
    structure: Structure  # the coarse shape of the dense stage
    settings: dict[str, Any]  # every option with its value, fit for JSON; the same settings give the same mesh
    seed: int
    num_tokens: dict[str, int]  # of each sparse stage, by its name
    timings: dict[str, float]  # seconds of each stage
    notes: tuple[str, ...]  # sentences for the user: what was done to the picture, what fell back


@torch.inference_mode()
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
) -> GenerationResult:
    """One picture to one mesh.

    Args:
        image: a path, the bytes of a file, a Pillow image or an array.
        networks: the networks of a preset, on their device and in their dtype.
        options: what the user asks for; its preset, device and dtype were used to make ``networks``.
        on_progress: called at the start of each stage and after each step.
        on_picture: called once, with the picture as it is used: its alpha shows what is taken for the object.
        on_structure: called once, with the coarse shape, as soon as it is known.
        cancel: asked at every step.
        matting: a network for backgrounds that are not plain.

    Raises:
        InputError: for a picture that cannot be used.
        ConfigError: for a resolution that the preset does not have, or more tokens than allowed.
        NoSurfaceError: if no shape is found, or the field never crosses the iso level.
        CheckpointError: for weights that are missing or damaged, when they are first needed.
        GenerationCancelled: after ``cancel.cancel()``.
    """
    # L image tokens, S pixels a side, r latents and R cells a side, N cells, M voxels, C channels
    preset, device = networks.preset.up_to(options.resolution), networks.device
    dtype = stages.latent_dtype(networks.dtype)
    noise = torch.Generator().manual_seed(options.seed)
    report = StageReporter(on_progress, cancel)

    with report.stage(IMAGE, 2) as step:
        picture = remove_background(load_image(image), options.background, matting)
        notes = list(picture.warnings)
        if on_picture is not None:
            on_picture(picture)
        pixels, mask = to_tensor(*preprocess(picture, preset.conditioner.image_size))  # [1, 3, S, S], [1, 1, S, S]
        step(1, 2)
        conditioner = networks.get("conditioner")
        tokens = conditioner(pixels.to(device)).to(networks.dtype)  # [1, L, Cc]

    sampling = _sampling(preset.dense.sampling, options, dense=True)
    with report.stage(STRUCTURE, sampling.steps + 1) as step:
        shape = stages.structure_noise_shape(preset.dense, 1)
        start = stages.draw_noise(shape, noise, device, dtype)  # [1, C, r, r, r]
        latent = stages.sample_structure(
            networks.get("dense_dit"), tokens, start, sampling, lambda done, total: step(done, total + 1),
            cuda_graphs=networks.cuda_graphs,
        )  # [1, C, r, r, r]  # fmt: skip
        probability, field = stages.decode_structure(networks.get("dense_vae"), latent, preset.dense)  # [1, R, R, R]
        coords, threshold = occupied_cells(probability, preset.dense.occupancy_threshold)  # [N, 4]
    if threshold < preset.dense.occupancy_threshold:
        notes.append(f"the picture gave a faint shape; cells from occupancy {threshold:.3g} on were taken.")
    structure = Structure(coords[:, 1:].cpu().numpy(), preset.dense.resolution)
    if on_structure is not None:
        on_structure(structure)
    coords = on_grid(coords, preset.dense.resolution, preset.sparse[0].dit.resolution)  # [N, 4]

    num_tokens: dict[str, int] = {}
    for number, stage in enumerate(preset.sparse):
        side, last = stage.resolution, number + 1 == len(preset.sparse)
        coords = in_blocks(coords, stage, options.max_tokens or stage.max_tokens)  # [N, 4]
        num_tokens[detail(side)] = len(coords)

        sampling = _sampling(stage.sampling, options, dense=False)
        with report.stage(detail(side), sampling.steps) as step:
            dit = networks.get(f"sparse_dit_{side}")
            cond = stages.sparse_condition(dit, conditioner, tokens, mask.to(device))  # [1, L, Cc], or sparse
            start = stages.draw_noise((len(coords), stage.dit.in_channels), noise, device, dtype)  # [N, C]
            coarse = None
            if number == 0 and field is not None and stage.start_noise < 1:
                vae = networks.get(f"sparse_vae_{side}")
                coarse = stages.coarse_latent(vae, field[0], preset.dense.field_cells, coords, stage)  # [N, C]
            latent = stages.sample_detail(
                dit, cond, SparseTensor(start, coords, batch_size=1), sampling, step,
                coarse=coarse, start=1.0 if coarse is None else stage.start_noise, cuda_graphs=networks.cuda_graphs,
            )  # fmt: skip

        with report.stage(decode(side), stage.vae.chunk_size**3) as step:
            vae = networks.get(f"sparse_vae_{side}")
            sdf, feats = stages.decode_field(vae, latent, stage, step)  # [M, 1]

        # The user's level is that of the surface he gets; the surfaces before it only say where there is something.
        level = options.iso_level if last and options.iso_level is not None else stage.iso_level
        interior = options.interior if last else "sign"
        refined = None
        if stage.refiner is not None:
            with report.stage(refine(side), 1) as step:
                if stage.refiner.kind == "sdf" or interior == "sign":
                    refined = stages.refine_field(networks.get(f"refiner_{side}"), level, sdf, feats, step)[0]
                else:
                    refined = unrefined_field(sdf, stage, level, interior)
        del feats, latent

        with report.stage(surface(side), 1 if last else 2) as step:
            if refined is None:
                refined = unrefined_field(sdf, stage, level, interior)
            mesh = extract_field(refined, level)
            del sdf, refined
            if not last:
                step(1, 2)
                coords = mesh_to_cells(mesh, preset.sparse[number + 1], device)  # [N, 4]

    with report.stage(CLEANUP, _CLEANUP_STEPS) as step:
        if options.remove_floaters:
            mesh = remove_floaters(mesh)
        step(1, _CLEANUP_STEPS)
        if options.remove_interior and options.interior != "keep":
            mesh = remove_enclosed(mesh)
        step(2, _CLEANUP_STEPS)
        if options.faces is not None:
            rest = _CLEANUP_STEPS - 2
            mesh = simplify(
                mesh, options.faces, on_faces=lambda done, total: step(2 + rest * done // total, _CLEANUP_STEPS)
            )
    if not mesh.num_faces:
        raise NoSurfaceError("nothing is left of the mesh after cleaning. Try another seed or more faces.")

    return GenerationResult(
        mesh=mesh,
        structure=structure,
        settings=resolved_settings(options, preset, device, networks.dtype),
        seed=options.seed,
        num_tokens=num_tokens,
        timings=report.timings,
        notes=tuple(notes),
    )


def resolved_settings(
    options: GenerationOptions, preset: ModelPreset, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The options with the preset's values where the user gave none, and the versions: a result can be made again.

    What a sparse stage has of its own is a list, one value for each stage of ``preset`` (those that ran).
    """
    dense, final = preset.dense.sampling, preset.sparse[-1]
    settings = to_dict(options)
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
    machine = {"device": str(device), "dtype": str(dtype).removeprefix("torch.")}
    versions = {"s2mesh": __version__, "torch": torch.__version__, "python": platform.python_version()}
    return {**settings, "preset": preset.name, **machine, "versions": versions}


def _sampling(sampling: SamplingConfig, options: GenerationOptions, *, dense: bool) -> SamplingConfig:
    """The preset's sampling with what the user asked for."""
    steps = options.dense_steps if dense else options.sparse_steps
    guidance = options.dense_guidance if dense else options.sparse_guidance
    return replace(
        sampling,
        steps=sampling.steps if steps is None else steps,
        guidance=sampling.guidance if guidance is None else guidance,
        solver=options.solver,
        guided_from=options.guided_from,
        guided_until=options.guided_until,
        unconditional_every=options.unconditional_every,
        selection_every=options.selection_every,
    )
