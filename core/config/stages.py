"""Names of a generation's stages, in order, and the share of the work that is done at a step of one. No torch.

``load`` and ``export`` are the server's: before the picture, networks come into memory; after the mesh, files are made.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate

from core.config.presets import ModelPreset

LOAD = "load"  # the preset's networks come into memory
IMAGE = "image"  # picture prepared, then looked at by the image encoder
STRUCTURE = "structure"  # steps of the dense stage's sampler, and its decoder
CLEANUP = "cleanup"  # floaters and interior removed, then the face budget
EXPORT = "export"  # mesh files and pictures written


def detail(resolution: int) -> str:
    """Steps of a sparse stage's sampler."""
    return f"detail {resolution}"


def decode(resolution: int) -> str:
    """Chunks of a sparse stage's decoder."""
    return f"decode {resolution}"


def refine(resolution: int) -> str:
    """Tiles of a sparse stage's refiner."""
    return f"refine {resolution}"


def surface(resolution: int) -> str:
    """The mesh of a sparse stage, and the voxels of the stage after it."""
    return f"surface {resolution}"


def stage_names(preset: ModelPreset, resolution: int | None = None) -> list[str]:
    """The stages that a generation with ``preset`` up to ``resolution`` (None: its last) reports, in order.

    Raises:
        ConfigError: for a resolution that the preset does not have.
    """
    names = [IMAGE, STRUCTURE]
    for stage in preset.up_to(resolution).sparse:
        names += [detail(stage.resolution), decode(stage.resolution)]
        names += [refine(stage.resolution)] if stage.refiner is not None else []
        names += [surface(stage.resolution)]
    return [*names, CLEANUP]


# Share of the time that a stage takes, by the first word of its name; only the estimate of a bar depends on it.
DEFAULT_WEIGHTS = {
    "load": 10.0,
    "image": 4.0,
    "structure": 24.0,
    "detail": 48.0,
    "decode": 8.0,
    "refine": 60.0,
    "surface": 10.0,
    "cleanup": 4.0,
    "export": 6.0,
}
_OTHER_WEIGHT = 4.0


class Fraction:
    """From stage and step to the share of the work that is done, which never falls.

    Args:
        stages: their names, in order.
        weights: measured seconds of stages, by name. A stage without a measure keeps its default weight, scaled to
            the measured ones.
    """

    def __init__(self, stages: Sequence[str], weights: Mapping[str, float] | None = None) -> None:
        self._weight = _merged(stages, weights or {})
        ends = list(accumulate(self._weight.values(), initial=0.0))
        self._before = dict(zip(stages, ends, strict=False))
        self._total = ends[-1]
        self._reached = 0.0

    def after(self, stage: str, step: int, steps: int) -> float:
        """0 at the start, 1 at the end."""
        inside = self._weight[stage] * min(step / max(steps, 1), 1.0)
        self._reached = max(self._reached, (self._before[stage] + inside) / self._total)
        return self._reached


def _merged(stages: Sequence[str], measured: Mapping[str, float]) -> dict[str, float]:
    default = {name: DEFAULT_WEIGHTS.get(name.split()[0], _OTHER_WEIGHT) for name in stages}
    known = {name: float(measured[name]) for name in stages if measured.get(name, 0) > 0}
    scale = sum(known.values()) / sum(default[name] for name in known) if known else 1.0
    return {name: known.get(name, default[name] * scale) for name in stages}
