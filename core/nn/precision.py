"""Which weights go to half precision: those of matrix products. Norms, gains and position tables stay in float32."""

import torch
from torch import nn

_PRODUCTS = (nn.Linear, nn.Conv2d, nn.Conv3d, nn.ConvTranspose3d)


def set_compute_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert linear and convolution weights of ``model`` in place to ``dtype``; returns ``model``.

    This is how the released networks run in float16. Their activations follow the weights.
    """
    for module in model.modules():
        if isinstance(module, _PRODUCTS) or isinstance(getattr(module, "kernel", None), nn.Parameter):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(dtype)
    return model
