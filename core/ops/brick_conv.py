"""Convolution on bricks: what voxels become that were cut into their 8 children again and again.

Letters: N latent voxels, L level (times that they were cut), I input channels, O output channels.

Every latent is a dense brick of (2^L)^3 voxels, numbered by the children's numbers, z fastest in each. Kernels find a
voxel's neighbors from its number and the map of the latents; elsewhere the map of every level is built.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from core.ops.backend import Backend, backend_for
from core.ops.conv_plan import ConvPlan, children_map
from core.ops.submanifold_conv import kernels, one_dtype, subdivided_conv3d, submanifold_conv3d


def brick_conv3d(
    feats: Tensor,  # [N * 8^L, I]
    plan: ConvPlan,  # of the N latents, [N, 27]
    weight: Tensor,  # [27, I, O]
    bias: Tensor | None = None,  # [O]
    *,
    level: int,
    subdivide: bool = False,
    silu: bool = False,
) -> Tensor:
    """A 3^3 convolution of the bricks' voxels, then SiLU if asked. Returns [N * 8^L, O].

    With ``subdivide`` every voxel is copied to its 8 children before it. Returns [8 N * 8^L, O].
    """
    rows = plan.neighbor_map.shape[0] << (3 * level)
    assert level >= 0 and weight.shape[0] == 27 and feats.shape == (rows, weight.shape[1]), (
        f"feats {tuple(feats.shape)} for {plan.neighbor_map.shape[0]} bricks of level {level}, "
        f"a kernel {tuple(weight.shape)}"
    )
    if needs_no_maps(feats, weight, bias):
        feats, weight, bias = one_dtype(feats, weight, bias)
        return kernels().brick_conv3d(feats, weight, bias, plan, level, subdivide=subdivide, silu=silu)
    neighbor_map = plan.neighbor_map
    for _ in range(level):
        neighbor_map = children_map(neighbor_map)
    convolution = subdivided_conv3d if subdivide else submanifold_conv3d
    out = convolution(feats, neighbor_map, weight, bias, plan=plan if level == 0 else None)
    return F.silu(out) if silu else out


def needs_no_maps(*tensors: Tensor | None) -> bool:
    """Whether bricks are convolved without maps of their voxels: by kernels, where no gradient is wanted."""
    used = [x for x in tensors if x is not None]
    if torch.is_grad_enabled() and any(x.requires_grad for x in used):
        return False
    return backend_for("submanifold_conv3d", used[0].device) is Backend.TRITON
