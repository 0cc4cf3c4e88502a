"""One case for each module that a golden file can name: build ours, run it on the file's inputs, compare.

Letters: B batch, N voxels, C channels.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from core.checkpoints.authors_config import config_from_authors
from core.cli.golden import (
    Comparison,
    Golden,
    compare,
    compare_at_coords,
    compare_gradients,
    compare_rows,
    compare_sets,
    load_golden,
)
from core.errors import InputError
from core.flow.guidance import guided
from core.flow.sampler import sample_euler
from core.flow.schedule import sigmas, timestep
from core.geometry.mesh import Mesh
from core.geometry.voxelize import active_voxels, latent_coords
from core.imaging.load import RGBAImage
from core.imaging.preprocess import RELEASE_SIZE, preprocess
from core.models.conditioner import select_foreground
from core.models.dense_dit import DenseDiT
from core.models.dense_vae import DenseShapeVAE
from core.models.refiner import AdaptiveFilter, FeatureMLP
from core.models.sparse_dit import SparseDiT
from core.models.sparse_vae import SparseSDFVAE
from core.models.unet3d import UNet3D
from core.nn.embedding import TimestepEmbedder
from core.nn.ssa import SpatialSparseAttention
from core.pipeline.devices import resolve_device
from core.sparse.coords import sort_into_blocks
from core.sparse.tensor import SparseTensor

TIE = 1e-6  # how near to a threshold a value may fall on either side of it


def run_file(path: Path, device: str = "cpu") -> list[Comparison]:
    """Every tensor of a golden file against ours.

    Raises:
        CoreError: if it is no golden file, or names something that we do not have.
    """
    if path.suffix == ".json":
        return _schedules(path)
    golden = load_golden(path, resolve_device(device))
    if golden.module not in CASES:
        raise InputError(f"no module is called {golden.module!r}. Known: {', '.join(CASES)}.")
    comparisons = CASES[golden.module](golden)
    done = {comparison.tensor for comparison in comparisons}
    shapes = {name: tuple(golden[name].shape) for name in golden.expected() if name not in done}
    return comparisons + [Comparison(name, math.inf, shape, "was not compared") for name, shape in shapes.items()]


def _attention(golden: Golden) -> list[Comparison]:
    config = golden.config
    if config["head_dim"] * config["num_q_heads"] != config["hidden_size"]:
        raise InputError("hidden_size must be num_q_heads times head_dim, as in every network of the release.")
    ssa = config_from_authors("spatial_sparse_attention", config)
    model = golden.load_into(SpatialSparseAttention(config["hidden_size"], ssa, config.get("shift_window", 0)))
    feats = golden["in.feats"].clone().requires_grad_()
    out = model(SparseTensor(feats, golden["in.coords"])).feats
    rows = [compare("out.feats", out, golden["out.feats"])]
    if "in.cotangent" in golden:
        (out * golden["in.cotangent"]).sum().backward()
        gradients = {"grad.feats": feats.grad}
        gradients |= {f"grad.weights.{name}": parameter.grad for name, parameter in model.named_parameters()}
        pairs = {
            name: (torch.zeros_like(golden[name]) if ours is None else ours, golden[name])
            for name, ours in gradients.items()
            if name in golden
        }
        rows += compare_gradients(pairs)
    return rows


@torch.no_grad()
def _dense_dit(golden: Golden) -> list[Comparison]:
    model = golden.load_into(DenseDiT(config_from_authors("dense_dit", golden.config)))
    return [compare("out.x", model(golden["in.x"], golden["in.t"], golden["in.cond"]), golden["out.x"])]


@torch.no_grad()
def _dense_vae(golden: Golden) -> list[Comparison]:
    model = golden.load_into(DenseShapeVAE(config_from_authors("dense_shape_vae", golden.config)))
    rows = []
    if "in.occupancy" in golden:
        rows.append(compare("out.latents", model.encode(golden["in.occupancy"]).mean, golden["out.latents"]))
    latents = golden["in.latents"] if "in.latents" in golden else golden["out.latents"]
    logits = model.decode(model.normalize(latents))
    rows.append(compare("out.logits", logits, golden["out.logits"]))
    threshold = golden.extras.get("mc_threshold", 0.5)
    for sample, logit in enumerate(logits):
        if (name := f"out.index{sample}") in golden:
            probability = logit.sigmoid()  # [Co, R, R, R]; a file's index has the channel as its first column
            tie = ((probability - threshold).abs() < TIE).nonzero()
            rows.append(compare_sets(name, (probability >= threshold).nonzero(), golden[name], excused=tie))
    return rows


@torch.no_grad()
def _sparse_vae(golden: Golden) -> list[Comparison]:
    model = golden.load_into(SparseSDFVAE(config_from_authors("sparse_sdf_vae", golden.config)))
    rows, latent_coords = [], golden["out.latent_coords"]
    scale = golden.extras.get("factor") or 1.0
    if "in.feats" in golden:
        posterior = model.encode(SparseTensor(golden["in.feats"], golden["in.coords"]), position_scale=scale)
        found = posterior.mean.coords
        rows.append(compare_sets("out.latent_coords", found, latent_coords))
        for name, ours in (("out.latents", posterior.mean), ("out.logvar", posterior.logvar)):
            if name in golden:
                rows.append(compare_at_coords(name, ours.feats, found, golden[name], latent_coords))
    latents = golden["in.latents"] if "in.latents" in golden else golden["out.latents"]
    z = SparseTensor(model.normalize(latents), latent_coords)
    if "out.sdf" in golden:
        sdf = model.decode(z, position_scale=scale, chunk_size=1)
        rows.append(compare_at_coords("out.sdf", sdf.feats, sdf.coords, golden["out.sdf"], golden["out.sdf_coords"]))
        rows.append(compare_sets("out.sdf_coords", sdf.coords, golden["out.sdf_coords"]))
    if "out.chunked_sdf" in golden:
        chunks = int(golden.extras.get("chunk_size") or model.config.chunk_size)
        sdf, coords = model.decode(z, position_scale=scale, chunk_size=chunks), golden["out.chunked_coords"]
        rows.append(compare_at_coords("out.chunked_sdf", sdf.feats, sdf.coords, golden["out.chunked_sdf"], coords))
        rows.append(compare_sets("out.chunked_coords", sdf.coords, coords))
    return rows


def _sparse_dit_cond(golden: Golden, batch_size: int) -> Tensor | SparseTensor:
    if "in.cond" in golden:
        return golden["in.cond"]
    return SparseTensor(golden["in.cond_feats"], golden["in.cond_coords"], batch_size=batch_size)


@torch.no_grad()
def _sparse_dit(golden: Golden) -> list[Comparison]:
    model = golden.load_into(SparseDiT(config_from_authors("sparse_dit", golden.config)))
    x = SparseTensor(golden["in.feats"], golden["in.coords"])
    cond = _sparse_dit_cond(golden, x.batch_size)
    rows = [compare("out.feats", model(x, golden["in.t"], cond).feats, golden["out.feats"])]
    if "in.cond_tokens" in golden and "in.cond_mask" in golden:
        tokens, patches = golden["in.cond_tokens"], golden["in.cond_mask"]
        kept = select_foreground(tokens, patches, num_prefix=tokens.shape[1] - patches[0].numel())
        rows.append(compare("in.cond_feats", kept.feats, golden["in.cond_feats"]))
        rows.append(compare_rows("in.cond_coords", kept.coords, golden["in.cond_coords"]))
    return rows


@torch.no_grad()
def _unet3d(golden: Golden) -> list[Comparison]:
    model = golden.load_into(UNet3D(config_from_authors("unet3d", golden.config)))
    return [compare("out.x", model(golden["in.x"]), golden["out.x"])]


@torch.no_grad()
def _adaptive_block(golden: Golden) -> list[Comparison]:
    x = golden["in.x"]
    guide = golden.get("in.guide", x)
    model = golden.load_into(AdaptiveFilter(guide.shape[1]))
    return [compare("out.x", model(x, guide=guide), golden["out.x"])]


@torch.no_grad()
def _geo_decoder(golden: Golden) -> list[Comparison]:
    config = golden.config
    hidden, layers = config.get("hidden_dim", 32), config.get("num_layers", 4)
    model = golden.load_into(FeatureMLP(config["n_features"], hidden=hidden, num_layers=layers))
    return [compare("out.x", model(golden["in.x"]), golden["out.x"])]


@torch.no_grad()
def _timestep_embedder(golden: Golden) -> list[Comparison]:
    frequencies = golden.config.get("frequency_embedding_size", 256)
    if frequencies != 2 * TimestepEmbedder.num_frequencies:
        raise InputError(f"frequency_embedding_size is {frequencies}; only 256 is supported.")
    model = golden.load_into(TimestepEmbedder(golden.config["hidden_size"]))
    return [compare("out.emb", model(golden["in.t"]), golden["out.emb"])]


def _sort_block(golden: Golden) -> list[Comparison]:
    ours = sort_into_blocks(golden["in.coords"], golden.config.get("block_size", 8))
    return [compare_rows("out.coords", ours, golden["out.coords"])]


def _preprocess_image(golden: Golden) -> list[Comparison]:
    pixels = golden["in.rgba"].cpu().numpy()
    image = RGBAImage(pixels=pixels, has_alpha=bool((pixels[..., 3] < 255).any()))
    rgb, mask = preprocess(image, golden.config.get("size", RELEASE_SIZE))
    ours = torch.cat([torch.tensor(rgb).permute(2, 0, 1), torch.tensor(mask)[None]])
    return [compare("out.image_u8", ours, golden["out.image_u8"])]


def _mesh_to_active_voxels(golden: Golden) -> list[Comparison]:
    size, factor = golden.config["size"], golden.config.get("factor", 8)
    limit = golden.config.get("threshold", 4.0)
    mesh = Mesh(golden["in.vertices"].cpu().numpy(), golden["in.faces"].cpu().numpy())
    voxels, distances = map(torch.from_numpy, active_voxels(mesh, size, limit))
    their_voxels, theirs = golden["out.udf_voxels"].cpu().int(), golden["out.udf"].cpu()

    ties = torch.cat([v[(d - limit / size).abs() < TIE] for v, d in ((voxels, distances), (their_voxels, theirs))])
    rows = [compare_sets("out.udf_voxels", voxels, their_voxels, excused=ties)]
    ours_common, theirs_common = _common_rows(voxels, their_voxels, size)
    values = distances[ours_common][:, None], voxels[ours_common]
    expected = theirs[theirs_common][:, None], their_voxels[theirs_common]
    error = compare_at_coords("out.udf", *values, *expected).error
    rows.append(Comparison("out.udf", error, tuple(theirs.shape), f"at {len(ours_common)} common voxels"))
    found = torch.from_numpy(latent_coords(mesh, size, factor, limit))
    open_cells = torch.nn.functional.pad(ties // factor, (1, 0))
    rows.append(compare_sets("out.latent_coords", found, golden["out.latent_coords"].cpu(), excused=open_cells))
    return rows


def _common_rows(first: Tensor, second: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Row numbers of the voxels that both lists hold. first [N, 3], second [M, 3], below ``size``."""
    keys = [(v.long() * torch.tensor([size**2, size, 1])).sum(1) for v in (first, second)]
    return torch.isin(keys[0], keys[1]).nonzero()[:, 0], torch.isin(keys[1], keys[0]).nonzero()[:, 0]


@torch.no_grad()
def _sample_dense(golden: Golden) -> list[Comparison]:
    model = golden.load_into(DenseDiT(config_from_authors("sample_dense", golden.config)))
    noise, cond = golden["in.noise"], golden["in.cond"]

    def branch(condition: Tensor) -> Callable[[Tensor, float], Tensor]:
        return lambda x, sigma: model(x, x.new_full((x.shape[0],), timestep(sigma)), condition)

    return [compare("out.latents", _sampled(golden, branch, noise, cond), golden["out.latents"])]


@torch.no_grad()
def _sample_sparse(golden: Golden) -> list[Comparison]:
    model = golden.load_into(SparseDiT(config_from_authors("sample_sparse", golden.config)))
    voxels = SparseTensor(golden["in.noise"], golden["in.coords"])
    cond = _sparse_dit_cond(golden, voxels.batch_size)

    def branch(condition: Tensor | SparseTensor) -> Callable[[Tensor, float], Tensor]:
        return lambda x, sigma: (
            model(voxels.replace(x), x.new_full((voxels.batch_size,), timestep(sigma)), condition).feats
        )

    return [compare("out.latents", _sampled(golden, branch, voxels.feats, cond), golden["out.latents"])]


def _sampled(golden: Golden, branch: Callable, noise: Tensor, cond: Tensor | SparseTensor) -> Tensor:
    """The whole guided loop from ``noise``; the unconditional branch gets zeros for tokens."""
    sampler = golden.extras["sampler"]
    zeros = cond.replace(torch.zeros_like(cond.feats)) if isinstance(cond, SparseTensor) else torch.zeros_like(cond)
    velocity = guided(branch(cond), branch(zeros), sampler["guidance_scale"])
    return sample_euler(velocity, noise, sigmas(sampler["num_inference_steps"], sampler["shift"]))


def _schedules(path: Path) -> list[Comparison]:
    """``flow_match_euler.json``: timesteps and sigmas by shift and number of steps, and a traced Euler walk."""
    try:
        tables = json.loads(path.read_text())
        rows = []
        for name, table in tables.items():
            kind, _, numbers = name.rpartition("shift")
            shift, steps = numbers.split("_steps")
            levels = sigmas(int(steps), float(shift))
            if kind:  # "euler_trace_"
                factor, trace = torch.tensor(table["v_times_x"]), []
                sample_euler(
                    lambda x, _, factor=factor: factor * x,
                    torch.tensor(table["x0"]),
                    levels,
                    on_step=lambda _, __, x, trace=trace: trace.append(x),
                )
                rows.append(compare(f"{name}.trace", torch.stack(trace), torch.tensor(table["trace"])))
                continue
            times = torch.tensor([timestep(level) for level in levels[:-1].tolist()])
            rows.append(compare(f"{name}.sigmas", levels, torch.tensor(table["sigmas"])))
            rows.append(compare(f"{name}.timesteps", times, torch.tensor(table["timesteps"])))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not a table of schedules ({type(error).__name__}: {error}).") from error
    return rows


CASES: dict[str, Callable[[Golden], list[Comparison]]] = {
    "spatial_sparse_attention": _attention,
    "sparse_dit": _sparse_dit,
    "dense_dit": _dense_dit,
    "dense_shape_vae": _dense_vae,
    "sparse_sdf_vae": _sparse_vae,
    "unet3d": _unet3d,
    "adaptive_block": _adaptive_block,
    "geo_decoder": _geo_decoder,
    "timestep_embedder": _timestep_embedder,
    "sort_block": _sort_block,
    "preprocess_image": _preprocess_image,
    "mesh_to_active_voxels": _mesh_to_active_voxels,
    "sample_sparse": _sample_sparse,
    "sample_dense": _sample_dense,
}
