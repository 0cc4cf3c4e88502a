"""Tasks of the starter's first stage: the dense VAE, and image encoder with dense DiT.

Letters: B batch, S pixels per side, R cells per side, Z latent channels, r latent cells per side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.data.pool import FIELD_CELLS, Pool
from core.flow.objective import dropped_conditions, noised, sample_times, without_dropped
from core.models.conditioner import ImageConditioner
from core.models.dense_dit import DenseDiT
from core.models.dense_vae import DenseShapeVAE

SURFACE_CELLS = 1.1  # a cell counts as surface when its centre is nearer than this many cells


def structure_channels(field: Tensor) -> Tensor:
    """Inputs of the dense VAE, [B, 2, R, R, R] in 0..1: surface occupancy, and the clipped distance.

    Args:
        field: [B, R, R, R] int8 as stored in a pool.
    """
    signed = field.float() / 127
    surface = (signed.abs() < SURFACE_CELLS / FIELD_CELLS).float()
    return torch.stack([surface, (signed + 1) / 2], 1)


class DenseVAETask:
    """Reconstruct both channels: cross-entropy on the surface, squared error on the distance, a little KL."""

    name = "dense_vae"

    def __init__(self, vae: DenseShapeVAE, pool: Pool, *, kl_weight: float = 1e-4) -> None:
        self.vae, self.pool, self.kl_weight = vae, pool, kl_weight
        self.modules, self.rate = {"dense_vae": vae}, {"dense_vae": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        field = self.pool.field[self.pool.sample(batch, generator)]
        if torch.rand((), generator=generator) < 0.5:
            field = field.flip(1)
        target = structure_channels(field)
        posterior = self.vae.encode(target)
        latent = posterior.mean + torch.exp(0.5 * posterior.logvar) * torch.randn_like(posterior.mean)
        out = self.vae.decoder(latent).float()
        weight = target.new_tensor(3.0)
        surface = F.binary_cross_entropy_with_logits(out[:, 0], target[:, 0], pos_weight=weight)
        distance = F.mse_loss(out[:, 1], target[:, 1] * 2 - 1)
        kl = posterior.kl().mean() / posterior.mean[0].numel()
        found, wanted = out[:, 0] > 0, target[:, 0] > 0.5
        iou = (found & wanted).sum() / (found | wanted).sum().clamp_min(1)
        loss = surface + 4 * distance + self.kl_weight * kl
        return loss, {"iou": iou.item(), "mse": distance.item(), "kl": kl.item()}


@torch.no_grad()
def latent_statistics(vae: DenseShapeVAE, pool: Pool, count: int = 512) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per-channel scale and shift that bring latents to mean 0 and variance 1, for the VAE's config."""
    means = torch.cat([vae.encode(structure_channels(f)).mean for f in pool.field[:count].split(64)])
    over = (0, 2, 3, 4)
    shift, deviation = means.mean(over), means.std(over)
    return tuple((1 / deviation.clamp_min(1e-3)).tolist()), tuple(shift.tolist())


class DenseLatents:
    """Normalised latents of pool samples and of their mirror images, encoded when first asked for."""

    def __init__(self, vae: DenseShapeVAE, pool: Pool) -> None:
        self.vae, self.pool = vae.eval(), pool
        self.known = torch.zeros(2, len(pool), dtype=torch.bool, device=pool.field.device)
        self.latents: Tensor | None = None  # [2, N, Z, r, r, r] float16

    @torch.no_grad()
    def get(self, rows: Tensor, flip: Tensor) -> Tensor:
        """[B, Z, r, r, r] for ``rows [B]``, of the mirror image where ``flip [B]``."""
        side = flip.long()
        new = ~self.known[side, rows]
        if new.any():
            field = self.pool.field[rows[new]]
            field = torch.where(flip[new][:, None, None, None], field.flip(1), field)
            found = self.vae.normalize(self.vae.encode(structure_channels(field)).mean.float()).half()
            if self.latents is None:
                self.latents = found.new_zeros(2, len(self.pool), *found.shape[1:])
            self.latents[side[new], rows[new]] = found
            self.known[side[new], rows[new]] = True
        assert self.latents is not None
        return self.latents[side, rows].float()


class _PictureTask:
    """Batches of augmented pictures with the latents of their shapes."""

    def __init__(self, conditioner: ImageConditioner, dit: DenseDiT, vae: DenseShapeVAE, pool: Pool) -> None:
        self.conditioner, self.dit, self.pool, self.latents = conditioner, dit, pool, DenseLatents(vae, pool)

    def batch(self, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pictures [B, 3, S, S] and normalised latents [B, Z, r, r, r]; half of them mirrored."""
        rows = self.pool.sample(size, generator)
        flip = (torch.rand(size, generator=generator) < 0.5).to(rows.device)
        image = augment(self.pool.image[rows].float() / 255, generator)
        image = torch.where(flip[:, None, None, None], image.flip(3), image)
        return image, self.latents.get(rows, flip)


class DenseRegressionTask(_PictureTask):
    """Warm start: image encoder and DiT predict the latent from the picture alone, at t = 1 with an empty input.

    Without it the flow learns to denoise long before it learns to look at the picture.
    """

    name = "dense_regression"

    def __init__(self, conditioner: ImageConditioner, dit: DenseDiT, vae: DenseShapeVAE, pool: Pool) -> None:
        super().__init__(conditioner, dit, vae, pool)
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
        self, conditioner: ImageConditioner, dit: DenseDiT, vae: DenseShapeVAE, pool: Pool, *,
        shift: float, draws: int = 3, drop: float = 0.1, floor: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__(conditioner.eval(), dit, vae, pool)
        self.shift, self.draws, self.drop, self.floor = shift, draws, drop, floor
        self.modules, self.rate = {"dense_dit": dit}, {"dense_dit": 1.0}

    def loss(self, batch: int, generator: torch.Generator, progress: float) -> tuple[Tensor, dict[str, float]]:
        image, clean = self.batch(batch, generator)
        with torch.no_grad():
            tokens = self.conditioner(image)
        tokens, clean = (x.repeat_interleave(self.draws, 0) for x in (tokens, clean))
        t = sample_times(len(clean), "uniform", self.shift, generator).to(clean.device)
        dropped = dropped_conditions(len(clean), self.drop, generator).to(clean.device)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
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
