"""Diffusion transformer on the dense structure latent: the first stage, from a picture to a coarse shape.

Letters: B batch, C latent channels, R voxels per side, P patch side, S = R / P patches per side,
N = S^3 tokens, W width, b samples with a condition, L image tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.config.models import DenseDiTConfig
from core.nn.blocks import ModulatedCrossBlock
from core.nn.embedding import AbsolutePositionEmbedder, TimestepEmbedder
from core.nn.initialize import initialize_transformer
from core.nn.modulation import AdaLNModulation


def patchify(x: Tensor, patch: int) -> Tensor:
    """x [B, C, R, R, R] -> tokens [B, S^3, C P^3]: patches row-major, channels outside the cells of a patch."""
    batch, channels, side = x.shape[0], x.shape[1], x.shape[2] // patch
    cells = x.reshape(batch, channels, side, patch, side, patch, side, patch)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, side**3, channels * patch**3)


def unpatchify(tokens: Tensor, patch: int) -> Tensor:
    """Inverse of ``patchify``: tokens [B, S^3, C P^3] -> [B, C, R, R, R]."""
    batch, count, width = tokens.shape
    side, channels = round(count ** (1 / 3)), width // patch**3
    cells = tokens.reshape(batch, side, side, side, channels, patch, patch, patch)
    return cells.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, channels, *(side * patch,) * 3)


class DenseDiT(nn.Module):
    """Predicts velocity (or the clean sample, as trained) of a dense latent, given image tokens.

    ``pos_emb`` is a buffer of the state dict, as in the released weights. It and the norms work in
    float32; everything else in the dtype of ``input_layer``.
    """

    pos_emb: Tensor  # [N, W]

    def __init__(self, config: DenseDiTConfig):
        super().__init__()
        assert config.resolution % config.patch_size == 0, "patch_size must divide resolution"
        self.config = config
        self.gradient_checkpointing = False
        width, token_width = config.width, config.latent_channels * config.patch_size**3
        side = torch.arange(config.resolution // config.patch_size)
        positions = torch.cartesian_prod(side, side, side)  # [N, 3], row-major
        self.register_buffer("pos_emb", AbsolutePositionEmbedder(width)(positions))
        self.t_embedder = TimestepEmbedder(width)
        self.adaLN_modulation = AdaLNModulation(width) if config.shared_modulation else None
        self.input_layer = nn.Linear(token_width, width)
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                width,
                config.cond_width,
                config.num_heads,
                mlp_ratio=config.mlp_ratio,
                qk_norm=config.qk_norm,
                qk_norm_cross=config.qk_norm_cross,
                shared_modulation=config.shared_modulation,
            )
            for _ in range(config.num_blocks)
        )
        out_channels = config.out_channels or config.latent_channels
        self.out_layer = nn.Linear(width, out_channels * config.patch_size**3)
        initialize_transformer(self)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Predict at time ``t``.

        Args:
            x: noisy latent [B, C, R, R, R].
            t: timestep [B] in 0..1000, 1000 is noise.
            cond: image tokens [b, L, cond channels] of the first b samples. The others have none: the same as tokens
                of zeros (the unconditional branch), without the work.

        Returns:
            [B, C or out_channels, R, R, R] in the dtype of ``x``.
        """
        config, dtype = self.config, self.input_layer.weight.dtype
        assert x.shape[1:] == (config.latent_channels, *(config.resolution,) * 3), f"unexpected shape {tuple(x.shape)}"
        tokens = self.input_layer(patchify(x, config.patch_size).to(dtype))  # [B, N, W]
        tokens = (tokens.float() + self.pos_emb.float()).to(dtype)
        modulation, cond = self.t_embedder(t).to(dtype), cond.to(dtype)
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, modulation, cond, use_reentrant=False)
            else:
                tokens = block(tokens, modulation, cond)
        tokens = F.layer_norm(tokens.float(), tokens.shape[-1:])
        return unpatchify(self.out_layer(tokens.to(dtype)), config.patch_size).to(x.dtype)
