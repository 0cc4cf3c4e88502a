"""Tasks of the starter's first stage: the dense VAE, and image encoder with dense DiT.

Letters: B batch, S pixels per side, R cells per side, Z latent channels, r latent cells per side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.pool import FIELD_CELLS, Pool, loaded_field
from core.flow.objective import dropped_conditions, noised, sample_times, without_dropped
from core.models.conditioner import ImageConditioner
from core.models.dense_dit import DenseDiT
from core.models.dense_vae import DenseShapeVAE
from core.training.patch_basis import PatchBasis

POSTERIOR_LOGVAR = -6.0  # of the dense VAE: a standard deviation of 0.05
SURFACE_CELLS = 1.1  # a cell counts as surface when its centre is nearer than this many cells


def structure_channels(field: Tensor) -> Tensor:
    """Inputs of the dense VAE, [B, 2, R, R, R] in 0..1: surface occupancy, and the clipped distance.

    Args:
        field: [B, R, R, R] int8 as stored in a pool.
    """
    signed = loaded_field(field)
    surface = (signed.abs() < SURFACE_CELLS / FIELD_CELLS).float()
    return torch.stack([surface, (signed + 1) / 2], 1)


class DenseVAETask:
    """Encode to the patch basis, and decode both channels from it: cross-entropy on the surface, squared error on the
    distance. The decoder sees latents with noise, as a sampler's are never exact."""

    name = "dense_vae"

    def __init__(self, vae: DenseShapeVAE, pool: Pool, basis: PatchBasis, *, noise: float = 0.3) -> None:
        self.vae, self.pool, self.basis, self.noise = vae, pool, basis, noise
        self.modules, self.rate = {"dense_vae": vae}, {"dense_vae": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        field = self.pool.field[self.pool.sample(batch, generator)]
        if torch.rand((), generator=generator) < 0.5:
            field = field.flip(1)
        target, latent = structure_channels(field), self.basis.encode(field)
        posterior = self.vae.encode(target)
        aligned = F.mse_loss(posterior.mean.float(), latent)
        spread = (posterior.logvar.float() - POSTERIOR_LOGVAR).square().mean()
        sigma = torch.rand(batch, 1, 1, 1, 1, generator=generator).to(latent.device) * self.noise
        noise = torch.randn(latent.shape, generator=generator).to(latent.device)
        out = self.vae.decoder(latent + sigma * noise).float()
        weight = target.new_tensor(3.0)
        surface = F.binary_cross_entropy_with_logits(out[:, 0], target[:, 0], pos_weight=weight)
        distance = F.mse_loss(out[:, 1], target[:, 1] * 2 - 1)
        found, wanted = out[:, 0] > 0, target[:, 0] > 0.5
        iou = (found & wanted).sum() / (found | wanted).sum().clamp_min(1)
        loss = surface + 4 * distance + aligned + 0.01 * spread
        return loss, {"iou": iou.item(), "mse": distance.item(), "aligned": aligned.item()}


class _PictureTask:
    """Batches of augmented pictures with the latents of their shapes."""

    def __init__(self, conditioner: ImageConditioner, dit: DenseDiT, basis: PatchBasis, pool: Pool) -> None:
        self.conditioner, self.dit, self.basis, self.pool = conditioner, dit, basis, pool

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, S, S] and latents [B, Z, r, r, r]; half of them mirrored."""
        rows = self.pool.sample(size, generator)
        flip = (torch.rand(size, generator=generator) < 0.5).to(rows.device)
        image = augment(self.pool.image[rows].float() / 255, generator)
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        field = self.pool.field[rows]
        return image, self.basis.encode(torch.where(flip[:, None, None, None], field.flip(1), field))


class DenseRegressionTask(_PictureTask):
    """Warm start: image encoder and DiT predict the latent from the picture alone, at t = 1 with an empty input.

    Without it the flow learns to denoise long before it learns to look at the picture.
    """

    name = "dense_regression"

    def __init__(self, conditioner: ImageConditioner, dit: DenseDiT, basis: PatchBasis, pool: Pool) -> None:
        super().__init__(conditioner, dit, basis, pool)
        self.modules = {"conditioner": conditioner, "dense_dit": dit}
        self.rate = {"conditioner": 1.0, "dense_dit": 1.0}
        warm_start(dit)

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        image, clean = self.batch(batch, generator)
        t = torch.full((batch,), 1000.0, device=clean.device)
        out = self.dit(torch.zeros_like(clean), t, self.conditioner(image)).float()
        error = (out - clean).square().mean()
        return error, {"mse": error.item()}


class DenseFlowTask(_PictureTask):
    """Dense DiT after the warm start: predict the clean latent from a noised one and a picture.

    The encoder is frozen, so that the sparse stage may be trained beside this. Every encoded picture is used
    with ``draws`` noises. Latents are redundant, so that times must lean towards noise (``shift``): what the
    picture has to decide is decided there.
    """

    name = "dense_dit"

    def __init__(
        self, conditioner: ImageConditioner, dit: DenseDiT, basis: PatchBasis, pool: Pool, *,
        shift: float, noise_scale: float, draws: int = 3, drop: float = 0.1, floor: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__(conditioner.eval(), dit, basis, pool)
        self.shift, self.noise_scale = shift, noise_scale
        self.draws, self.drop, self.floor = draws, drop, floor
        self.modules, self.rate = {"dense_dit": dit}, {"dense_dit": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        image, clean = self.batch(batch, generator)
        with torch.no_grad():
            tokens = self.conditioner(image)
        tokens, clean = (x.repeat_interleave(self.draws, 0) for x in (tokens, clean))
        t = sample_times(len(clean), "uniform", self.shift, generator).to(clean.device)
        dropped = dropped_conditions(len(clean), self.drop, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device) * self.noise_scale
        out = self.dit(noised(clean, noise, t), t * 1000, without_dropped(tokens, dropped)).float()
        error = (out - clean).square().flatten(1).mean(1)
        weight = 1 / t.clamp_min(self.floor)
        late = (t > 0.95) & ~dropped
        at_noise = error[late].mean().item() if late.any() else error.mean().item()
        return (weight * error).mean() / weight.mean(), {"mse_noise": at_noise, "mse": error.mean().item()}


def warm_start(dit: DenseDiT) -> None:
    """Start as a regression from the picture: open gates, and a noisy input that does not enter yet."""
    with torch.no_grad():
        projections = (dit.adaLN_modulation, *(block.adaLN_modulation for block in dit.blocks))
        for projection in [p for p in projections if p is not None]:
            gates = projection[-1].bias.view(6, -1)  # shift, scale, gate of attention, then of the feed-forward
            gates[2] = gates[5] = 1.0
        dit.input_layer.weight.zero_()


def augment(image: Tensor, generator: torch.Generator) -> Tensor:
    """Small changes that a user's picture may have: brightness, contrast, tint, noise, blur. [B, 3, S, S] in 0..1."""
    batch = image.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (torch.rand(batch, *shape, generator=generator) * (high - low) + low).to(image.device)

    background = (image > 0.998).all(1, keepdim=True)
    changed = image * uniform(0.8, 1.15, 1, 1, 1) * uniform(0.92, 1.08, 3, 1, 1)
    changed = (changed - 0.5) * uniform(0.8, 1.2, 1, 1, 1) + 0.5
    noise = torch.randn(image.shape, generator=generator).to(image.device)
    changed = changed + noise * uniform(-0.02, 0.04, 1, 1, 1).clamp_min(0)
    changed = torch.where(background, image, changed)
    blurred = F.avg_pool2d(F.pad(changed, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = uniform(-0.5, 0.9, 1, 1, 1).clamp_min(0)
    return torch.lerp(changed, blurred, amount).clamp(0, 1)
