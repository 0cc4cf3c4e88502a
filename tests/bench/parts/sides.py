"""The two scopes in which spatial sparse attention is measured, ours and the authors'.

Letters: N tokens, H query heads, D channels per head, C channels.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from core.config.models import SSAConfig
from core.nn.ssa import SpatialSparseAttention
from core.ops.ssa import spatial_sparse_attention
from core.sparse.tensor import SparseTensor
from tests.bench.parts import authors
from tests.bench.parts.shells import Problem, features
from tests.bench.parts.timing import Call

Attention = Callable[[], Tensor]


class Kernel:
    """The op, ours and theirs, on the same tensors."""

    def __init__(self, problem: Problem, config: SSAConfig, shift: int):
        self.problem, self.config, self.shift = problem, config, shift
        self.inputs, self.grad = problem.inputs, problem.grad

    def ours(self) -> Tensor:
        """[N, H, D]."""
        p = self.problem
        return spatial_sparse_attention(*p.inputs, p.plan, p.windows, self.config.selected_blocks)

    def theirs(self) -> tuple[Attention, tuple[Tensor, ...]]:
        """And what gradients are asked for. May raise ``authors.Absent``."""
        return authors.kernel_call(self.problem, self.config, self.shift)

    def twin(self) -> "Kernel":
        """The same on tensors of its own: a graph of the backward pass must not meet those of another stream."""
        names = ("q", "k", "v", "kc", "vc", "gate")
        fresh = {name: x.detach().requires_grad_(x.requires_grad) for name, x in zip(names, self.inputs, strict=True)}
        return Kernel(self.problem._replace(**fresh), self.config, self.shift)


class Module:
    """The layer, ours and theirs, with the same weights and features."""

    def __init__(self, problem: Problem, width: int, config: SSAConfig, regime: str, shift: int):
        self.config, self.shift = config, shift
        dtype = problem.q.dtype
        self.layer = SpatialSparseAttention(width, config, shift).to(problem.q.device, dtype)
        self.x = problem.x.replace(features(problem.x.coords, width, regime, 9).to(dtype))
        self.grad = features(problem.x.coords, width, "iid", 10).to(dtype)

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What gradients are asked for: features and weights."""
        return self.x.feats, *self.layer.parameters()

    def ours(self) -> Tensor:
        """[N, C]."""
        return self.layer(self.x).feats

    def with_geometry(self) -> Tensor:
        """The same on coordinates that were never seen."""
        return self.layer(SparseTensor(self.x.feats, self.x.coords)).feats

    def theirs(self) -> tuple[Attention, tuple[Tensor, ...]]:
        """And what gradients are asked for. May raise ``authors.Absent``."""
        return authors.module_call(self.layer, self.config, self.x.feats, self.x.coords, self.shift)

    def twin(self) -> "Module":
        """See ``Kernel.twin``."""
        other = copy.copy(self)
        other.layer = copy.deepcopy(self.layer)
        other.x = self.x.replace(self.x.feats.detach().requires_grad_(self.x.feats.requires_grad))
        return other


def one_pass(call: Attention, inputs: tuple[Tensor, ...], grad: Tensor, backward: bool) -> Call:
    """``call`` without gradients, or the backward pass alone of what it returned."""
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return call()

        return forward
    out = call()
    return lambda: torch.autograd.grad(out, inputs, grad, retain_graph=True)


def whole(call: Attention, inputs: tuple[Tensor, ...], grad: Tensor, backward: bool) -> Call:
    """What memory is read of: forward alone, or forward (with what it keeps) and backward."""
    if not backward:
        return one_pass(call, inputs, grad, False)

    def both() -> tuple[object, ...]:
        out = call()
        return out, torch.autograd.grad(out, inputs, grad)

    return both
