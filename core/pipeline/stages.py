"""The two kinds of stage: each draws a latent by rectified flow, given the picture, and decodes it.

Letters: B samples, L image tokens, Cc their channels, C latent channels, r latent voxels per side of the dense
stage, R cells per side of its occupancy grid, N occupied latent cells, M voxels of the signed distance field.
"""

from dataclasses import replace
from itertools import count

import torch
from torch import Tensor

from core.config.generation import GenerationOptions
from core.config.models import ConditionerConfig, SparseDiTConfig
from core.config.presets import DenseStageConfig, SamplingConfig, SparseStageConfig
from core.flow.guidance import guided, guided_together
from core.flow.prediction import as_velocity
from core.flow.sampler import SAMPLERS, Velocity
from core.flow.schedule import rounded_timestep, sigmas
from core.geometry.coarse_field import cell_voxels, refined_field
from core.models.conditioner import foreground_tokens
from core.models.dense_dit import DenseDiT
from core.models.dense_vae import DenseShapeVAE
from core.models.refiner import SDFRefiner, SignRefiner
from core.models.sparse_dit import SparseDiT
from core.models.sparse_vae import SparseSDFVAE
from core.ops.backend import Backend, backend_for
from core.ops.kept_blocks import KeptBlocks
from core.pipeline.graphs import Predict, replayed
from core.pipeline.progress import Step
from core.sparse.coords import encode_keys
from core.sparse.refined_field import RefinedField
from core.sparse.tensor import SparseTensor

Condition = Tensor | SparseTensor
# Up to so many tokens a batch the dense stage evaluates both branches of guidance at once. On a CPU core the starter's
# 64 tokens gain 15 % by it, the release's 4096 lose 2 %; a GPU is full from about 8192 on.
TOGETHER_TOKENS = {"cpu": 512, "cuda": 8192}


def with_options(sampling: SamplingConfig, options: GenerationOptions, *, dense: bool) -> SamplingConfig:
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


def latent_dtype(compute: torch.dtype) -> torch.dtype:
    """The dtype of latents between the steps of a sampler, and of the times the networks are given.

    The release runs in float16 and rounds both to it. bfloat16 has too few digits for either (a time of 999 would
    become 1000), so there they stay in float32, which costs nothing.
    """
    return torch.float16 if compute is torch.float16 else torch.float32


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Normal noise of ``shape``, drawn on the CPU in float32: the same for a seed on every device and dtype."""
    return torch.randn(shape, generator=generator).to(device=device, dtype=dtype)


def sample_latent(
    predict: Predict,  # (x_t, t [B] in 0..1000, conditional[, choose]) -> like x_t
    noise: Tensor,  # [B, ...] or [N, C], standard normal
    batch_size: int,
    sampling: SamplingConfig,
    on_step: Step,
    *,
    coarse: Tensor | None = None,  # the shape of noise: where to start below pure noise
    start: float = 1.0,  # noise level to start from
    together: bool = False,
    cuda_graphs: bool = True,
) -> Tensor:
    """Walk from noise to data with guidance. Returns the shape and dtype of ``noise``.

    With ``sampling.selection_every`` above 1, ``predict`` is also told whether to choose its blocks anew.

    Args:
        together: one evaluation for both branches of guidance: ``predict`` is given x_t twice along its first axis,
            with ``conditional``, and leaves the second half without a condition.
        cuda_graphs: record an evaluation and replay it in the steps that follow, on CUDA devices.
    """

    def branch(conditional: bool) -> Velocity:
        numbers = count()

        def network(x: Tensor, sigma: float) -> Tensor:
            samples = batch_size * (len(x) // len(noise))
            t = torch.full((samples,), rounded_timestep(sigma, x.dtype), device=x.device)
            if sampling.selection_every == 1:
                return evaluate(x, t, conditional)
            return evaluate(x, t, conditional, next(numbers) % sampling.selection_every == 0)

        return as_velocity(network, sampling.prediction)

    savings = {"interval": (sampling.guided_until, sampling.guided_from), "every": sampling.unconditional_every}
    levels = sigmas(sampling.steps, sampling.shift) * start
    x = noise * sampling.noise_scale
    if coarse is not None:
        x = (1 - start) * coarse.to(x.dtype) + start * x
    with replayed(predict, noise.device, cuda_graphs) as evaluate:
        if together:
            velocity = guided_together(branch(True), sampling.guidance, **savings)
        else:
            velocity = guided(branch(True), branch(False), sampling.guidance, **savings)
        walk = SAMPLERS[sampling.solver]
        return walk(velocity, x, levels, on_step=lambda step, steps, _x: on_step(step, steps))


# --- dense: picture to occupied cells ---


def structure_noise_shape(stage: DenseStageConfig, batch_size: int) -> tuple[int, ...]:
    """(B, C, r, r, r)."""
    return (batch_size, stage.dit.latent_channels, *(stage.dit.resolution,) * 3)


def sample_structure(
    dit: DenseDiT,
    cond: Tensor,  # [B, L, Cc]
    noise: Tensor,  # [B, C, r, r, r]
    sampling: SamplingConfig,
    on_step: Step,
    *,
    cuda_graphs: bool = True,
) -> Tensor:  # [B, C, r, r, r] normalised latent
    """The dense latent of the picture's coarse shape."""

    def predict(x: Tensor, t: Tensor, conditional: bool) -> Tensor:
        return dit(x, t, cond if conditional else cond[:0])

    tokens = len(noise) * dit.pos_emb.shape[0]
    together = tokens <= TOGETHER_TOKENS.get(noise.device.type, 0)
    sampling = replace(sampling, selection_every=1)  # it attends to everything
    return sample_latent(predict, noise, len(noise), sampling, on_step, together=together, cuda_graphs=cuda_graphs)


def decode_structure(
    vae: DenseShapeVAE,
    latent: Tensor,  # [B, C, r, r, r]
    stage: DenseStageConfig,
) -> tuple[Tensor, Tensor | None]:
    """Probability that each cell is occupied, and the coarse distance field of a preset that has one.

    Returns:
        Channel 0 as [B, R, R, R] in 0..1; channel 1 as [B, R, R, R], distance in units of ``stage.field_cells`` cells.
    """
    decoded = vae.decode(latent).float()
    return torch.sigmoid(decoded[:, 0]), decoded[:, 1] if stage.field_cells is not None else None


# --- sparse: occupied cells to a signed distance field ---


def sparse_condition(
    dit: SparseDiTConfig,
    conditioner: ConditionerConfig,
    tokens: Tensor,  # [B, L, Cc]
    mask: Tensor,  # [B, 1, S, S]
) -> Condition:
    """All image tokens; for v1.0 those of the object alone, with their places in the picture."""
    return foreground_tokens(conditioner, tokens, mask) if dit.sparse_conditions else tokens


def sample_detail(
    dit: SparseDiT,
    cond: Condition,  # [B, L, Cc], or sparse
    noise: SparseTensor,  # [N, C], sorted into selection blocks
    sampling: SamplingConfig,
    on_step: Step,
    *,
    coarse: Tensor | None = None,  # [N, C] latent of the coarse field, for a stage that starts from it
    start: float = 1.0,
    cuda_graphs: bool = True,
) -> SparseTensor:  # [N, C] normalised latent
    """The sparse latent of the cells of ``noise``."""
    # Sparse tokens of zeros are not nothing: they have their places, added after the projection.
    nothing = cond.replace(torch.zeros_like(cond.feats)) if isinstance(cond, SparseTensor) else cond[:0]
    tokens = {True: cond, False: nothing}
    # Both branches look at other things, and so keep their own choices.
    kept = {conditional: [KeptBlocks() for _ in dit.blocks] for conditional in tokens}

    def predict(x: Tensor, t: Tensor, conditional: bool, choose: bool | None = None) -> Tensor:
        blocks = (None,) if choose is None else (kept[conditional], choose)
        return dit(noise.replace(x), t, tokens[conditional], *blocks).feats

    # In torch the choice of blocks waits for the device, which no graph can hold.
    cuda_graphs = cuda_graphs and backend_for("spatial_sparse_attention", noise.device) is Backend.TRITON
    x = sample_latent(
        predict, noise.feats, noise.batch_size, sampling, on_step,
        coarse=coarse, start=start, cuda_graphs=cuda_graphs,
    )  # fmt: skip
    return noise.replace(x)


def coarse_latent(
    vae: SparseSDFVAE,
    field: Tensor,  # [R, R, R] in units of field_cells cells
    field_cells: float,
    coords: Tensor,  # [N, 4] cells of one sample, in the order of the sampler
    stage: SparseStageConfig,
) -> Tensor:  # [N, C] normalised
    """What the sparse VAE makes of the dense stage's field on the fine voxels of the cells."""
    assert field.shape[0] == stage.dit.resolution, "the coarse field and the latents have different grids"
    factor = stage.vae.upsampling
    voxels = cell_voxels(coords[:, 1:], factor)
    sdf = refined_field(field, field_cells, voxels, factor, stage.truncation_voxels)
    rows = torch.cat([voxels.new_zeros(len(voxels), 1), voxels], 1)
    mean = vae.encode(SparseTensor(sdf[:, None], rows, batch_size=1)).mean
    side = stage.dit.resolution
    order = encode_keys(coords, side).argsort().argsort()  # the encoder answers in ascending order
    return vae.normalize(mean.feats.float())[order]


def decode_field(
    vae: SparseSDFVAE,
    latent: SparseTensor,  # [N, C]
    stage: SparseStageConfig,
    on_chunk: Step,
    memory_budget: int | None = None,  # bytes for the convolutions; None: the number of chunks that the preset has
) -> tuple[SparseTensor, SparseTensor | None]:
    """Signed distances [M, 1] in truncation bands, positive outside, and the features that a refiner wants."""
    if stage.refiner is not None and stage.refiner.kind == "sdf":
        return vae.decode(latent, return_feats=True, on_chunk=on_chunk, memory_budget=memory_budget)
    return vae.decode(latent, on_chunk=on_chunk, memory_budget=memory_budget), None


def refine_field(
    refiner: SDFRefiner | SignRefiner,
    level: float,  # of the surface that is wanted
    sdf: SparseTensor,  # [M, 1]
    feats: SparseTensor | None,
    on_tile: Step,
    memory_budget: int | None = None,  # bytes to use beside weights and arguments
) -> list[RefinedField]:
    """What the surface of each sample needs, also where the decoder said nothing."""
    return refiner.refine_at(level, sdf, feats, on_tile, memory_budget)
