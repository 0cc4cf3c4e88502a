"""What a user may ask of a generation, and the limits of each option. The only place they are written."""

from dataclasses import dataclass
from typing import Literal

from core.errors import ConfigError

MESH_FORMATS = ("glb", "obj", "ply", "stl")
MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 50.0
MAX_FACES = 50_000_000
MIN_FACES = 4
MAX_IMAGE_PIXELS = 50_000_000  # a picture above this is refused before it is decoded
MAX_IMAGE_BYTES = 100_000_000

DeviceName = str  # "auto", "cpu", "cuda", "cuda:N", "mps"


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of one generation. ``None`` means the preset's own value.

    Raises:
        ConfigError: for a value outside its limits, naming the option and the limit.
    """

    preset: str = "starter"
    seed: int = 0
    dense_steps: int | None = None
    sparse_steps: int | None = None  # the same for every sparse stage
    guidance: float | None = None  # classifier-free guidance scale; 0 or 1 use the condition alone
    iso_level: float | None = None  # SDF value of the surface, in truncation bands
    faces: int | None = None  # decimate to at most this many faces
    max_tokens: int | None = None  # refuse a sparse stage with more tokens than this
    remove_background: Literal["auto", "keep"] = "auto"
    remove_floaters: bool = True
    remove_interior: bool = True
    device: DeviceName = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        _check("seed", self.seed, 0, MAX_SEED)
        _check("dense_steps", self.dense_steps, 1, MAX_STEPS)
        _check("sparse_steps", self.sparse_steps, 1, MAX_STEPS)
        _check("guidance", self.guidance, 0.0, MAX_GUIDANCE)
        _check("iso_level", self.iso_level, -0.99, 0.99)
        _check("faces", self.faces, MIN_FACES, MAX_FACES)
        _check("max_tokens", self.max_tokens, 1, 10_000_000)


def _check(name: str, value: float | None, low: float, high: float) -> None:
    if value is not None and not low <= value <= high:  # NaN fails too
        raise ConfigError(f"{name} is {value}; it must be between {low} and {high}.")
