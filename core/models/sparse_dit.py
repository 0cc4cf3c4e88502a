"""Diffusion transformer on sparse latents: a noisy latent on every occupied cell, given image tokens.

Letters: N voxels, B samples, b of them with a condition, C latent channels, W width, L image tokens.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from core.config.models import SparseDiTConfig
from core.nn.embedding import AbsolutePositionEmbedder, TimestepEmbedder
from core.nn.initialize import initialize_transformer
from core.nn.modulation import AdaLNModulation
from core.nn.sparse_blocks import SparseModulatedCrossBlock
from core.nn.ssa import block_plan
from core.ops.kept_blocks import KeptBlocks
from core.sparse.tensor import SparseTensor


class SparseDiT(nn.Module):
    """Predicts velocity (or the clean sample, as trained) of a sparse latent, given image tokens.

    Norms and position tables work in float32; everything else in the dtype of ``input_layer``. Set
    ``gradient_checkpointing`` to recompute the blocks in the backward pass.
    """

    def __init__(self, config: SparseDiTConfig):
        super().__init__()
        self.config = config
        self.gradient_checkpointing = False
        width = config.width
        self.position = AbsolutePositionEmbedder(width)
        self.t_embedder = TimestepEmbedder(width)
        self.adaLN_modulation = AdaLNModulation(width) if config.shared_modulation else None
        self.cond_proj = nn.Linear(config.cond_width, width) if config.sparse_conditions else None
        self.input_layer = nn.Linear(config.in_channels, width)
        half_window = config.ssa.window // 2
        self.blocks = nn.ModuleList(
            SparseModulatedCrossBlock(
                width,
                width if config.sparse_conditions else config.cond_width,
                config.num_cross_heads,
                config.ssa,
                shift=half_window * (i % 2) if config.shift_windows else half_window,  # as the authors have it
                mlp_ratio=config.mlp_ratio,
                qk_norm_cross=config.qk_norm_cross,
                shared_modulation=config.shared_modulation,
            )
            for i in range(config.num_blocks)
        )
        self.out_layer = nn.Linear(width, config.out_channels)
        initialize_transformer(self)

    def forward(
        self,
        x: SparseTensor,
        t: Tensor,
        cond: Tensor | SparseTensor,
        kept: Sequence[KeptBlocks] | None = None,
        choose: bool = True,
    ) -> SparseTensor:
        """Predict at time ``t``.

        Args:
            x: noisy latent, feats [N, C], sorted into selection blocks (``core.sparse.coords.sort_into_blocks``).
            t: timestep [B] in 0..1000, 1000 is noise.
            cond: image tokens [b, L, cond channels] of the first b samples. The others have none: the same as tokens
                of zeros (the unconditional branch), without the work. With ``sparse_conditions`` a sparse tensor,
                at least one token a sample.
            kept: where each layer puts the blocks that its tokens attend to; for inference.
            choose: whether they are chosen anew; if not, those in ``kept`` are attended to.

        Returns:
            feats [N, out channels] on the voxels of ``x``, in the dtype of ``x``.
        """
        config, dtype = self.config, self.input_layer.weight.dtype
        assert t.shape == (x.batch_size,), f"{tuple(t.shape)} timesteps for {x.batch_size} samples"
        block_plan(x, config.ssa.compression_block, config.ssa.selection_block)  # checks the order, once
        h = x.replace(self.input_layer(x.feats.to(dtype)))
        position = x.cache.get(
            ("position embedding", config.width, config.position_scale),
            lambda: self.position(x.coords[:, 1:] * config.position_scale),
        )
        h = h.replace(h.feats + position.to(h.dtype))  # the table is rounded before it is added
        modulation, cond = self.t_embedder(t).to(dtype), self._condition(cond, dtype)
        if self.adaLN_modulation is not None:
            modulation = self.adaLN_modulation(modulation)
        for i, block in enumerate(self.blocks):
            if self.gradient_checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, modulation, cond, use_reentrant=False)
            else:
                h = block(h, modulation, cond, None if kept is None else kept[i], choose)
        feats = F.layer_norm(h.feats.float(), h.feats.shape[-1:])
        return x.replace(self.out_layer(feats.to(dtype)).to(x.dtype))

    def _condition(self, cond: Tensor | SparseTensor, dtype: torch.dtype) -> Tensor | SparseTensor:
        """Image tokens as the blocks take them: in ``dtype``, sparse ones projected and given their positions."""
        assert isinstance(cond, SparseTensor) == (self.cond_proj is not None), (
            f"sparse_conditions is {self.cond_proj is not None}, but the condition is a {type(cond).__name__}"
        )
        if self.cond_proj is None:
            return cond.to(dtype)
        tokens = self.cond_proj(cond.feats.to(dtype))
        return cond.replace(tokens + self.position(cond.coords[:, 1:]).to(tokens.dtype))
