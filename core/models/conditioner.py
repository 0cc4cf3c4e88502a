"""Image encoder: DINOv2 with registers, giving the tokens that the diffusion transformers attend to.

Letters: B batch, S pixels per side, G = S / patch size, K = 1 + registers, T = K + G^2 tokens, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.config.models import ConditionerConfig
from core.models.dinov2_keys import match_layout
from core.sparse.tensor import SparseTensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageConditioner(nn.Module):
    """Picture to tokens: class, registers, patches row by row.

    The architecture is that of the transformers library, built from the config alone: nothing is fetched.
    Weights saved with a version of that library before 5 load too. The last norm of DINOv2 is not used: the
    tokens are the output of the last block, normalised without learned scale.
    """

    def __init__(self, config: ConditionerConfig):
        super().__init__()
        from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel  # seconds to import

        self.config = config
        self.backbone = Dinov2WithRegistersModel(
            Dinov2WithRegistersConfig(
                hidden_size=config.width,
                num_hidden_layers=config.num_blocks,
                num_attention_heads=config.num_heads,
                mlp_ratio=config.mlp_ratio,
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_register_tokens=config.num_registers,
                attn_implementation="sdpa",
            )
        )
        self.backbone.embeddings.mask_token.requires_grad_(False)  # these three have no part in the output
        self.backbone.layernorm.requires_grad_(False)
        self.register_load_state_dict_pre_hook(_accept_both_layouts)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens of a picture.

        Args:
            image: [B, 3, S, S] in 0..1, on white.

        Returns:
            [B, T, W] float32, each token of mean 0 and variance 1.
        """
        size = self.config.image_size
        assert image.shape[1:] == (3, size, size), f"expected [B, 3, {size}, {size}], got {tuple(image.shape)}"
        image = image.float()
        mean, std = (image.new_tensor(value).reshape(3, 1, 1) for value in (IMAGENET_MEAN, IMAGENET_STD))
        tokens = self.backbone.embeddings((image - mean) / std)  # [B, T, W]
        for layer in self.backbone.encoder.layer:
            out = layer(tokens)
            tokens = out[0] if isinstance(out, tuple) else out  # a tuple before transformers 5
        return F.layer_norm(tokens.float(), tokens.shape[-1:], eps=1e-5)


def foreground_tokens(config: ConditionerConfig, tokens: Tensor, mask: Tensor) -> SparseTensor:
    """The tokens of v1.0: class, registers, and the patches that the object touches.

    Args:
        config: of the encoder that ``tokens`` come from.
        tokens: [B, T, W].
        mask: [B, 1, S, S], above 0 on the object.

    Returns:
        Tokens with coordinates, sample after sample: class and registers at (b, 0, 0, 1), a patch of
        column w and row h at (b, w, h, 0).
    """
    patches = F.max_pool2d(mask.float(), config.patch_size)[:, 0] > 0  # [B, G, G]
    return select_foreground(tokens, patches, num_prefix=1 + config.num_registers)


def select_foreground(tokens: Tensor, patches: Tensor, *, num_prefix: int) -> SparseTensor:
    """The first ``num_prefix`` tokens and the patches marked in ``patches``.

    Args:
        tokens: [B, K + G^2, W].
        patches: bool [B, G, G], rows first.
        num_prefix: K.
    """
    batch = tokens.shape[0]
    prefix = torch.ones(batch, num_prefix, dtype=torch.bool, device=tokens.device)
    keep = torch.cat([prefix, patches.flatten(1)], dim=1)  # [B, T]
    sample, position = keep.nonzero(as_tuple=True)
    patch = position - num_prefix
    is_patch = patch >= 0
    column = torch.where(is_patch, patch % patches.shape[2], 0)
    row = torch.where(is_patch, patch // patches.shape[2], 0)
    coords = torch.stack([sample, column, row, (~is_patch).to(sample)], dim=1).int()
    return SparseTensor(tokens[keep], coords, batch_size=batch)


def _accept_both_layouts(module: nn.Module, state_dict: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Before loading: attention weights under the names of the installed transformers."""
    wanted = {f"{prefix}{name}" for name, _value in module.named_parameters()}
    renamed = match_layout({key: value for key, value in state_dict.items() if key.startswith(prefix)}, wanted)
    for key in [key for key in state_dict if key.startswith(prefix)]:
        del state_dict[key]
    state_dict.update(renamed)
