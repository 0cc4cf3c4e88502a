"""Submanifold convolution as a module. Letters: N voxels, I input channels, O output channels."""

import torch
from torch import nn

from core.ops.submanifold_conv import subdivided_conv3d, submanifold_conv3d
from core.sparse.neighbors import cached_conv_plan
from core.sparse.resample import subdivide_coords
from core.sparse.tensor import SparseTensor


class _Kernel(nn.Module):
    """Holds ``kernel`` and ``bias``, so that their names are those of the released weights."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool) -> None:
        super().__init__()
        volume = kernel_size**3
        shape = (in_channels, out_channels) if volume == 1 else (volume, in_channels, out_channels)
        self.kernel = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = (volume * in_channels) ** -0.5
        nn.init.uniform_(self.kernel, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class SubmanifoldConv3d(nn.Module):
    """Convolution with outputs at the voxels of the input only.

    Parameters: ``conv.kernel`` [K, I, O], offsets with x fastest ([I, O] for a kernel of one voxel), ``conv.bias`` [O].
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = True) -> None:
        super().__init__()
        assert kernel_size % 2 == 1, f"a submanifold kernel has an odd side, got {kernel_size}"
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel_size
        self.conv = _Kernel(in_channels, out_channels, kernel_size, bias)

    def extra_repr(self) -> str:
        """For ``print(model)``."""
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"

    def forward(self, x: SparseTensor) -> SparseTensor:
        """feats [N, I] -> [N, O], same coordinates."""
        kernel, bias = self.conv.kernel, self.conv.bias
        if self.kernel_size == 1:
            return x.replace(submanifold_conv3d(x.feats, x.coords[:, :1], kernel, bias))
        plan = cached_conv_plan(x, self.kernel_size)
        return x.replace(submanifold_conv3d(x.feats, plan.neighbor_map, kernel, bias, plan=plan))

    def forward_subdivided(self, x: SparseTensor) -> SparseTensor:
        """The same as ``self(SparseSubdivide()(x))``, without the work that equal siblings make superfluous.

        feats [N, I] -> [8 N, O] on the children.
        """
        assert self.kernel_size == 3, "only a 3^3 kernel is folded onto the parents"
        plan = cached_conv_plan(x)
        feats = subdivided_conv3d(x.feats, plan.neighbor_map, self.conv.kernel, self.conv.bias, plan=plan)
        cache = subdivide_coords(x.cache)
        return SparseTensor(feats, cache.coords, cache=cache)
