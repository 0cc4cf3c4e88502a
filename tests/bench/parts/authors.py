"""The authors' kernels, unmodified, from a checkout that the variable DIRECT3D_S2_REFERENCE names.

Nothing of theirs is in this repository. They import two packages that a machine may lack: ``flash_attn``, for which
the same FlashAttention-2 kernels in torch stand in, and ``torchsparse``, of which attention needs only a holder of two
tensors and a convolution of one voxel (version 1 of the compression; version 2 needs the real one).

Letters: N tokens, M cells, W blocks, H query heads, G key heads, D channels, S selected blocks.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.config.models import SSAConfig
from core.nn.ssa import SpatialSparseAttention
from core.sparse.resample import pool_plan
from tests.bench.parts.shells import Problem

VARIABLE = "DIRECT3D_S2_REFERENCE"
_ATTENTION = "direct3d_s2.modules.sparse.attention.spatial_sparse_attention"


class Absent(Exception):
    """Why the authors' kernels are not measured."""


def load() -> types.ModuleType:
    """Their sparse package, with what it lacks put in its place.

    Raises:
        Absent: if the variable is not set, or the package cannot be imported.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise Absent(f"{VARIABLE} names no checkout of the authors' repository")
    if folder not in sys.path:
        sys.path.append(folder)
    for name, stand_in in (("flash_attn", _flash_attn), ("torchsparse", _torchsparse)):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules.update(stand_in())
    try:
        with contextlib.redirect_stdout(sys.stderr):  # their packages print when imported
            sparse = importlib.import_module("direct3d_s2.modules.sparse")
            importlib.import_module(_ATTENTION + ".ops")
    except Exception as error:  # whatever their imports meet here
        raise Absent(f"the authors' package cannot be imported: {type(error).__name__}: {error}") from error
    return sparse


def kernel_call(problem: Problem, config: SSAConfig, shift: int) -> tuple[Callable[[], Tensor], tuple[Tensor, ...]]:
    """Their kernels on ``problem``, with everything that follows from coordinates computed before.

    Returns:
        a function that returns [N, H, D], and what gradients are asked for.
    """
    sparse = load()
    from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]

    compressed = importlib.import_module(_ATTENTION + ".ops.compressed_attention")
    ops = importlib.import_module(_ATTENTION + ".ops")
    q, k, v, kc, vc, gate = problem.inputs
    coords, device = problem.x.coords, q.device
    cells = pool_plan(problem.x, config.compression_block).cache.coords
    cu, cu_cells = (torch.tensor([0, n], dtype=torch.int32, device=device) for n in (q.shape[0], kc.shape[0]))
    seqlens, cell_seqlens = cu.diff(), cu_cells.diff()
    base = sparse.SparseTensor(q.detach(), coords)
    pooled = sparse.SparseTensor(kc.detach(), cells)
    resolution = -(-int(coords[:, 1:].max() + 1) // config.selection_block) * config.selection_block
    lse = torch.zeros(q.shape[1], q.shape[0], device=device)
    _, cu_blocks, tokens_of_blocks = compressed.get_block_score(
        base, pooled, lse, resolution, config.compression_block, config.selection_block, config.selected_blocks,
        cu, cu_cells, seqlens, cell_seqlens,
    )  # fmt: skip
    block_of_cell, num_blocks = problem.plan.block_of_cell, problem.plan.cu_blocks.shape[0] - 1
    pooling = None if num_blocks == kc.shape[0] else block_of_cell

    @torch.no_grad()
    def choose(lse: Tensor) -> Tensor:
        scores = compressed._get_attention_score(
            q, kc, lse.exp().log2(), cu, cu_cells, q.shape[0], kc.shape[0], None
        )  # [G, N, M]
        if pooling is not None:
            dense = scores.new_zeros(*scores.shape[:2], (resolution // config.selection_block) ** 3)
            scores = dense.scatter_reduce(2, pooling.expand_as(scores), scores, "sum")[..., :num_blocks]
        kept = min(config.selected_blocks, num_blocks)
        return nn.functional.pad(
            scores.topk(kept, dim=-1).indices.sort(-1).values, (0, config.selected_blocks - kept), value=-1
        ).int()

    def call() -> Tensor:
        coarse, lse, _ = flash_attn_varlen_func(
            q, kc, vc, cu, cu_cells, q.shape[0], kc.shape[0], causal=False, return_attn_probs=True
        )
        fine = ops.spatial_selection_attention(
            q, k, v, choose(lse), cu_blocks, tokens_of_blocks, config.selection_block, cu, None
        )
        wrapped = (base.replace(part) for part in (q, k, v))
        local = ops.sparse_window_attention(*wrapped, window_size=config.window, shift_window=shift).feats
        weights = gate[:, :, None, None]
        return weights[:, 0] * coarse + weights[:, 1] * fine + weights[:, 2] * local

    return call, problem.inputs


def module_call(
    ours: SpatialSparseAttention, config: SSAConfig, feats: Tensor, coords: Tensor, shift: int
) -> tuple[Callable[[], Tensor], tuple[Tensor, ...]]:
    """Their whole layer with the weights of ``ours``: what follows from coordinates is computed in every call."""
    sparse = load()
    if config.compression_version != "v1" and not hasattr(sys.modules.get("torchsparse"), "__path__"):
        raise Absent("version 2 of the compression needs the real torchsparse")
    layer = importlib.import_module(_ATTENTION + ".module.spatial_sparse_attention").SpatialSparseAttention(
        hidden_size=feats.shape[1],
        num_q_heads=config.num_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=feats.shape[1] // config.num_heads,
        compression_block_size=config.compression_block,
        selection_block_size=config.selection_block,
        topk=config.selected_blocks,
        window_size=config.window,
        shift_window=shift,
        resolution=-(-int(coords[:, 1:].max() + 1) // config.selection_block) * config.selection_block,
        compression_version=config.compression_version,
    )
    layer.load_state_dict(ours.state_dict())
    layer.to(feats.device, feats.dtype)
    x = sparse.SparseTensor(feats, coords)
    return lambda: layer(x).feats, (feats, *layer.parameters())


def _flash_attn() -> dict[str, types.ModuleType]:
    module = types.ModuleType("flash_attn")

    def flash_attn_varlen_func(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int,
        causal: bool = False, softmax_scale: float | None = None, return_attn_probs: bool = False,
    ) -> Any:  # fmt: skip
        out, lse = torch.ops.aten._flash_attention_forward(
            q, k, v, cu_q, cu_k, max_q, max_k, 0.0, causal, False, scale=softmax_scale
        )[:2]
        return (out, lse[0] if lse.ndim == 3 else lse, None) if return_attn_probs else out

    module.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    return {"flash_attn": module}


class _Holder:
    """Features and coordinates, under the names that torchsparse has."""

    def __init__(
        self, feats: Tensor, coords: Tensor, stride: Any = (1, 1, 1), spatial_range: Any = None, **_: Any
    ) -> None:
        self.feats = self.F = feats
        self.coords = self.C = coords
        self.stride, self.spatial_range, self._caches = stride, spatial_range, None


class _VoxelConv(nn.Module):
    """A convolution of one voxel; larger ones are not needed here."""

    def __init__(self, channels: int, outputs: int, kernel_size: int, stride: int, *_: Any) -> None:
        super().__init__()
        if kernel_size != 1:
            raise Absent("a convolution of more than one voxel needs the real torchsparse")
        self.out_channels, self.stride = outputs, (stride,) * 3
        self.kernel = nn.Parameter(torch.empty(channels, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: _Holder) -> _Holder:
        return _Holder(x.feats @ self.kernel + self.bias, x.coords, x.stride, x.spatial_range)


def _torchsparse() -> dict[str, types.ModuleType]:
    root, layers, utils = (types.ModuleType(name) for name in ("torchsparse", "torchsparse.nn", "torchsparse.utils"))
    root.SparseTensor, root.nn, root.utils = _Holder, layers, utils  # type: ignore[attr-defined]
    layers.Conv3d = _VoxelConv  # type: ignore[attr-defined]
    utils.make_ntuple = lambda x, ndim: (x,) * ndim if isinstance(x, int) else tuple(x)  # type: ignore[attr-defined]
    return {"torchsparse": root, "torchsparse.nn": layers, "torchsparse.utils": utils}
