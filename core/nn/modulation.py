"""Adaptive layer norm: the timestep shifts, scales and gates the branches of a transformer block (adaLN, DiT).

``core.ops.modulated_norm`` applies what is projected here. Letters: B batch, C channels.
"""

from typing import NamedTuple

from torch import Tensor, nn


class Modulation(NamedTuple):
    """The six vectors of one block, in the order in which the projection puts them out; each [B, C]."""

    shift_attention: Tensor
    scale_attention: Tensor
    gate_attention: Tensor
    shift_mlp: Tensor
    scale_mlp: Tensor
    gate_mlp: Tensor


class AdaLNModulation(nn.Sequential):
    """Projects the embedded timestep to a ``Modulation``: SiLU, then one linear layer (state-dict key ``1``).

    A network owns either one in each block or, with ``shared_modulation``, a single one whose result all blocks
    receive; the attribute is called ``adaLN_modulation`` in both cases.
    """

    def __init__(self, width: int):
        super().__init__(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, t_emb: Tensor) -> Modulation:
        """t_emb [B, C] -> six vectors [B, C]."""
        return Modulation(*super().forward(t_emb).chunk(6, dim=-1))
