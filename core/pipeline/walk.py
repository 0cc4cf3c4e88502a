"""What becomes of a picture at each stage, for one or several that walk together.

All pictures are at the same stage before any goes on, so that a network is loaded once for all of them. Between stages
a picture keeps its image tokens, cells and latent, on the CPU where several wait.

Letters: B pictures of a group, L image tokens, Cc their channels, S pixels a side, r latents and R cells a side,
N cells, M voxels, C channels.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from core.config.generation import GenerationOptions, Interior
from core.config.presets import SparseStageConfig
from core.config.stages import CLEANUP, IMAGE, STRUCTURE, decode, detail, refine, surface
from core.errors import (
    CheckpointError,
    DeviceMemoryError,
    DiskFullError,
    GenerationCancelled,
    NoSurfaceError,
    is_memory_error,
)
from core.geometry.components import remove_enclosed, remove_floaters
from core.geometry.isosurface import extract_field
from core.geometry.mesh import Mesh
from core.geometry.simplify import simplify
from core.imaging.background import MattingModel, remove_background
from core.imaging.load import ImageSource, RGBAImage, load_image
from core.imaging.preprocess import preprocess, to_tensor
from core.pipeline import stages
from core.pipeline.hand_over import Structure, in_blocks, mesh_to_cells, occupied_cells, on_grid, unrefined_field
from core.pipeline.progress import StageReporter, reported_together
from core.pipeline.residency import Resident
from core.sparse.refined_field import RefinedField
from core.sparse.tensor import SparseTensor

_CLEANUP_STEPS = 12  # loose pieces, the interior, and the rest for decimation, which is done in rounds
_OF_ALL = (GenerationCancelled, CheckpointError, DiskFullError)  # what the next picture would meet too


@dataclass(eq=False)
class Walk:
    """One picture on its way, and what is known of it between stages."""

    index: int
    image: ImageSource
    seed: int
    report: StageReporter
    on_picture: Callable[[RGBAImage], None]
    on_structure: Callable[[Structure], None]
    notes: list[str] = field(default_factory=list)
    num_tokens: dict[str, int] = field(default_factory=dict)
    pixels: Tensor | None = None  # [1, 3, S, S]
    mask: Tensor | None = None  # [1, 1, S, S]
    tokens: Tensor | None = None  # [1, L, Cc]
    structure: Structure | None = None
    field: Tensor | None = None  # [R, R, R] coarse distances, of a preset that has them
    coords: Tensor | None = None  # [N, 4] cells that the next stage works on
    start: Tensor | None = None  # noise of the running stage
    latent: SparseTensor | None = None  # [N, C]
    mesh: Mesh | None = None
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.noise = torch.Generator().manual_seed(self.seed)

    def drawn(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """The noise of the running stage, on the CPU; the same where the stage is tried again."""
        if self.start is None:
            self.start = stages.draw_noise(shape, self.noise, torch.device("cpu"), dtype)
        return self.start


class Stages:
    """The stages of a run, one method each; failures of a picture stay with it."""

    def __init__(
        self, run: Resident, options: GenerationOptions, matting: MattingModel | None, *, several: bool
    ) -> None:
        self.run, self.options, self.matting = run, options, matting
        self.preset, self.device = run.plan.preset, run.networks.device
        self.dtype = stages.latent_dtype(run.networks.dtype)
        self.rest = torch.device("cpu") if several else self.device  # where things wait between stages

    def alone(self, walks: list[Walk], do: Callable[[Walk], None]) -> None:
        """``do`` for one picture after the other."""
        for walk in walks:
            if walk.failure is None:
                with _kept(walk, memory=True):
                    do(walk)

    def together(self, walks: list[Walk], stage: str, do: Callable[[list[Walk]], None]) -> None:
        """``do`` for as many pictures at a time as the memory plan allows."""
        waiting = [walk for walk in walks if walk.failure is None]

        def group() -> list[Walk]:
            return waiting[: self.run.plan.batch(len(waiting))]

        while waiting:
            before = len(waiting)
            try:
                done = self.run.attempt(stage, lambda: (do(group()), len(group()))[1])
            except _OF_ALL:
                raise
            except Exception as error:
                for walk in group():
                    walk.failure = error
                done = len(group())
            del waiting[:done]
            assert len(waiting) < before

    # --- the first two stages ---

    def see(self, group: list[Walk]) -> None:
        """The picture is cut out and looked at: ``tokens``."""
        self.run.enter("conditioner")
        with contextlib.ExitStack() as reported:
            seen = []
            for walk in group:
                if walk.failure is not None:
                    continue  # before memory ran out
                with _kept(walk, memory=False):
                    stage = walk.report.stage(IMAGE, 2)
                    step = stage.__enter__()
                    self._prepare(walk)
                    step(1, 2)
                    reported.push(stage)
                    seen.append(walk)
            if not seen:
                return
            pixels = torch.cat([walk.pixels for walk in seen]).to(self.device)  # [B, 3, S, S]
            tokens = self.run.get("conditioner")(pixels).to(self.run.networks.dtype)  # [B, L, Cc]
            for walk, own in zip(seen, tokens.split(1), strict=True):
                walk.tokens, walk.pixels = own.to(self.rest), None

    def _prepare(self, walk: Walk) -> None:
        if walk.pixels is None:
            picture = remove_background(load_image(walk.image), self.options.background, self.matting)
            walk.notes += picture.warnings
            walk.on_picture(picture)
            walk.pixels, walk.mask = to_tensor(*preprocess(picture, self.preset.conditioner.image_size))
            walk.image = b""  # it may be large

    def shape(self, group: list[Walk]) -> None:
        """The coarse shape: ``structure``, ``coords`` and ``field``."""
        dense = self.preset.dense
        sampling = stages.with_options(dense.sampling, self.options, dense=True)
        one = stages.structure_noise_shape(dense, 1)
        self.run.enter("dense_dit", "dense_vae")
        with reported_together([walk.report for walk in group], STRUCTURE, sampling.steps + 1) as step:
            start = torch.cat([walk.drawn(one, self.dtype) for walk in group]).to(self.device)  # [B, C, r, r, r]
            tokens = torch.cat([walk.tokens for walk in group]).to(self.device)  # [B, L, Cc]
            latent = stages.sample_structure(
                self.run.get("dense_dit"), tokens, start, sampling, lambda done, total: step(done, total + 1),
                cuda_graphs=self.run.cuda_graphs,
            )  # [B, C, r, r, r]  # fmt: skip
            probability, fields = stages.decode_structure(self.run.get("dense_vae"), latent, dense)  # [B, R, R, R]
        for row, walk in enumerate(group):
            if walk.structure is not None or walk.failure is not None:
                continue  # before memory ran out
            with _kept(walk, memory=False):
                self._take_shape(walk, probability[row : row + 1], None if fields is None else fields[row])

    def _take_shape(self, walk: Walk, probability: Tensor, coarse: Tensor | None) -> None:
        """probability [1, R, R, R], coarse [R, R, R]."""
        dense = self.preset.dense
        coords, threshold = occupied_cells(probability, dense.occupancy_threshold)  # [N, 4]
        if threshold < dense.occupancy_threshold:
            walk.notes.append(f"the picture gave a faint shape; cells from occupancy {threshold:.3g} on were taken.")
        walk.structure = Structure(coords[:, 1:].cpu().numpy(), dense.resolution)
        walk.on_structure(walk.structure)
        walk.coords = on_grid(coords, dense.resolution, self.preset.sparse[0].dit.resolution).to(self.rest)
        walk.field = None if coarse is None else coarse.to(self.rest)
        walk.start = None

    # --- a sparse stage ---

    def detail(self, walk: Walk, number: int) -> None:
        """``coords`` to ``latent``."""
        stage = self.preset.sparse[number]
        side, count = stage.resolution, len(walk.coords)
        self._check_tokens(stage, count)
        coords = in_blocks(walk.coords.to(self.device), stage, self.options.max_tokens or stage.max_tokens)  # [N, 4]
        walk.num_tokens[detail(side)], walk.coords = count, None
        self.run.plan = self.run.plan.for_tokens(side, count)
        sampling = stages.with_options(stage.sampling, self.options, dense=False)
        coarse_start = number == 0 and walk.field is not None and stage.start_noise < 1

        def sample() -> SparseTensor:
            self.run.enter(f"sparse_dit_{side}", *([f"sparse_vae_{side}"] if coarse_start else []))
            with walk.report.stage(detail(side), sampling.steps) as step:
                dit = self.run.get(f"sparse_dit_{side}")
                tokens, mask = walk.tokens.to(self.device), walk.mask.to(self.device)
                cond = stages.sparse_condition(
                    stage.dit, self.preset.conditioner, tokens, mask
                )  # [1, L, Cc], or sparse
                start = walk.drawn((count, stage.dit.in_channels), self.dtype).to(self.device)  # [N, C]
                coarse = None
                if coarse_start:
                    vae, own = self.run.get(f"sparse_vae_{side}"), walk.field.to(self.device)
                    coarse = stages.coarse_latent(vae, own, self.preset.dense.field_cells, coords, stage)  # [N, C]
                return stages.sample_detail(
                    dit, cond, SparseTensor(start, coords, batch_size=1), sampling, step,
                    coarse=coarse, start=1.0 if coarse is None else stage.start_noise, cuda_graphs=self.run.cuda_graphs,
                )  # fmt: skip

        latent = self.run.attempt(detail(side), sample)
        walk.latent = latent if self.rest == self.device else latent.to(device=self.rest)
        walk.start = walk.field = None

    def _check_tokens(self, stage: SparseStageConfig, count: int) -> None:
        """Refuses what cannot fit, unless the user allows it; ``in_blocks`` refuses what is not allowed.

        Raises:
            DeviceMemoryError: naming the numbers, and what helps.
        """
        if self.options.max_tokens is not None or count > stage.max_tokens:
            return
        most = self.run.plan.most_tokens(stage)
        if count > most:
            raise DeviceMemoryError(
                f"the shape has {count} tokens at {stage.resolution} voxels a side; about {most} fit into the "
                f"{self.run.plan.free / 1e9:.1f} GB that {self.device} has free. Close other programs, choose a "
                f"smaller resolution or a plainer picture, or set max_tokens to {count} to try it all the same."
            )

    def mesh(self, walk: Walk, number: int) -> None:
        """``latent`` to ``mesh``, or to the ``coords`` of the next stage."""
        stage, attempt, side = self.preset.sparse[number], self.run.attempt, self.preset.sparse[number].resolution
        last = number + 1 == len(self.preset.sparse)
        # The user's level is that of the surface he gets; the surfaces before it only say where there is something.
        level = self.options.iso_level if last and self.options.iso_level is not None else stage.iso_level
        interior = self.options.interior if last else "sign"
        latent = walk.latent if walk.latent.device == self.device else walk.latent.to(device=self.device)
        walk.latent = None
        sdf, feats = attempt(decode(side), partial(self._decoded, walk, stage, latent))  # [M, 1], [M, C]
        if stage.refiner is None:
            build = partial(unrefined_field, sdf, stage, level, interior)
        else:
            refined = attempt(refine(side), partial(self._refined, walk, stage, level, interior, sdf, feats))
            build = partial(_itself, refined)
            del refined
        del latent, sdf, feats
        mesh, coords = attempt(surface(side), partial(self._surface, walk, number, level, build))
        walk.mesh, walk.coords = (mesh, None) if last else (None, coords.to(self.rest))

    def _decoded(
        self, walk: Walk, stage: SparseStageConfig, latent: SparseTensor
    ) -> tuple[SparseTensor, SparseTensor | None]:
        self._enter_mesh(stage)
        with walk.report.stage(decode(stage.resolution), stage.vae.chunk_size**3) as step:
            budget = self.run.plan.decoder_budget(stage, len(latent.coords))
            return stages.decode_field(self.run.get(f"sparse_vae_{stage.resolution}"), latent, stage, step, budget)

    def _refined(
        self,
        walk: Walk,
        stage: SparseStageConfig,
        level: float,
        interior: Interior,
        sdf: SparseTensor,
        feats: SparseTensor | None,
    ) -> RefinedField:
        self._enter_mesh(stage)
        with walk.report.stage(refine(stage.resolution), 1) as step:
            if stage.refiner.kind != "sdf" and interior != "sign":
                return unrefined_field(sdf, stage, level, interior)
            budget = self.run.plan.refiner_budget(stage, walk.num_tokens[detail(stage.resolution)])
            refiner = self.run.get(f"refiner_{stage.resolution}")
            return stages.refine_field(refiner, level, sdf, feats, step, budget)[0]

    def _surface(
        self, walk: Walk, number: int, level: float, build: Callable[[], RefinedField]
    ) -> tuple[Mesh, Tensor | None]:
        last = number + 1 == len(self.preset.sparse)
        with walk.report.stage(surface(self.preset.sparse[number].resolution), 1 if last else 2) as step:
            mesh = extract_field(build(), level)
            if last:
                return mesh, None
            step(1, 2)
            return mesh, mesh_to_cells(mesh, self.preset.sparse[number + 1], self.device)  # [N, 4]

    def _enter_mesh(self, stage: SparseStageConfig) -> None:
        """The networks from latent to mesh stay for all pictures; they are small."""
        refiner = [] if stage.refiner is None else [f"refiner_{stage.resolution}"]
        self.run.enter(f"sparse_vae_{stage.resolution}", *refiner)

    # --- the mesh ---

    def clean(self, walk: Walk) -> None:
        """``mesh`` without what the user does not want.

        Raises:
            NoSurfaceError: if nothing is left.
        """
        walk.mesh = self.run.attempt(CLEANUP, lambda: self._cleaned(walk, walk.mesh))
        if not walk.mesh.num_faces:
            raise NoSurfaceError("nothing is left of the mesh after cleaning. Try another seed or more faces.")

    def _cleaned(self, walk: Walk, mesh: Mesh) -> Mesh:
        options = self.options
        with walk.report.stage(CLEANUP, _CLEANUP_STEPS) as step:
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
        return mesh


def _itself(found: RefinedField) -> RefinedField:
    return found


@contextlib.contextmanager
def _kept(walk: Walk, *, memory: bool) -> Iterator[None]:
    """An error becomes that of the picture, but for what the next one would meet too.

    Args:
        memory: also memory that ran out; within ``Resident.attempt`` it goes up to that.
    """
    try:
        yield
    except _OF_ALL:
        raise
    except Exception as error:
        if not memory and is_memory_error(error):
            raise
        walk.failure = error
