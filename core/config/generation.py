"""What a user may ask of a generation: options with their defaults, limits and helps. The only place they are written.

The command line, the server's capabilities and the add-on's panel read them from ``option_table``.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from core.config.options import OptionInfo as OptionInfo  # those who read the options need only this module
from core.config.options import check_options, option
from core.config.options import option_table as option_table
from core.errors import ConfigError

MeshFormat = Literal["glb", "obj", "ply", "stl"]
Background = Literal["auto", "alpha", "none"]
Interior = Literal["sign", "flood", "keep"]
Solver = Literal["euler", "multistep", "heun"]
Memory = Literal["auto", "all", "stage", "stream"]

MESH_FORMATS: tuple[str, ...] = get_args(MeshFormat)
MAX_SEED = 2**63 - 1
MAX_STEPS = 1000
MAX_GUIDANCE = 50.0
MAX_EVERY = 100
MAX_FACES = 50_000_000
MIN_FACES = 4
MAX_TOKENS = 10_000_000
MIN_RESOLUTION, MAX_RESOLUTION = 8, 4096  # what a preset may have; which ones it has, ModelPreset.up_to checks
MAX_IMAGE_PIXELS = 64_000_000  # a picture above this is refused before it is decoded
MAX_IMAGE_BYTES = 100_000_000

DeviceName = str  # "auto", "cpu", "cuda", "cuda:N", "mps"


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """Options of one generation. ``None`` means the preset's own value.

    Raises:
        ConfigError: for a value of the wrong kind or outside its limits, naming the option and the limit; or for two
            that contradict each other.
    """

    preset: str = option("starter", "Set of models that makes the shape.")
    seed: int = option(
        0, "Where the random numbers start: another seed gives another shape.", minimum=0, maximum=MAX_SEED
    )
    resolution: int | None = option(
        None,
        "Stop after the detail stage of so many voxels a side: faster and coarser. Unset: the preset's last.",
        minimum=MIN_RESOLUTION,
        maximum=MAX_RESOLUTION,
    )
    dense_steps: int | None = option(
        None, "Sampling steps of the coarse shape; more take longer. Unset: the preset's.", minimum=1, maximum=MAX_STEPS
    )
    sparse_steps: int | None = option(
        None,
        "Sampling steps of each detail stage; more take longer. Unset: the preset's.",
        minimum=1,
        maximum=MAX_STEPS,
    )
    dense_guidance: float | None = option(
        None,
        "How closely the coarse shape follows the picture; 0 and 1 are without guidance. Unset: the preset's.",
        minimum=0.0,
        maximum=MAX_GUIDANCE,
    )
    sparse_guidance: float | None = option(
        None,
        "How closely the details follow the picture; 0 and 1 are without guidance. Unset: the preset's.",
        minimum=0.0,
        maximum=MAX_GUIDANCE,
    )
    iso_level: float | None = option(
        None,
        "Where the surface is cut, from inside (-1) to outside (1); more is thicker. Unset: the preset's.",
        minimum=-0.99,
        maximum=0.99,
    )
    faces: int | None = option(
        None, "Simplify the mesh to at most so many triangles. Unset: keep all.", minimum=MIN_FACES, maximum=MAX_FACES
    )
    max_tokens: int | None = option(
        None,
        "Refuse a shape with more occupied cells than this, to save memory. Unset: the preset's.",
        minimum=1,
        maximum=MAX_TOKENS,
    )
    background: Background = option(
        "auto",
        "auto: the picture's transparency, else a plain background is cut away; alpha: its transparency alone; "
        "none: the whole picture is the object.",
    )
    interior: Interior = option(
        "sign",
        "sign: the model says what is inside, if it has a network for it; flood: what no path from outside reaches is "
        "filled; keep: nothing inside is removed.",
    )
    remove_floaters: bool = option(True, "Remove small loose pieces.")
    remove_interior: bool = option(True, "Remove parts that lie unseen inside others.")
    solver: Solver = option(
        "euler",
        "euler: the models' own method; multistep: second order, for fewer steps; heun: second order, two evaluations "
        "of the model a step.",
    )
    guided_from: float = option(
        1.0, "Noise level from which guidance is in use; 1 is the start of the walk.", minimum=0.0, maximum=1.0
    )
    guided_until: float = option(
        0.0, "Noise level down to which guidance is in use; 0 is the end of the walk.", minimum=0.0, maximum=1.0
    )
    unconditional_every: int = option(
        1,
        "Evaluate guidance's branch without the picture only every so many times; 1 is exact, 2 saves a quarter.",
        minimum=1,
        maximum=MAX_EVERY,
    )
    selection_every: int = option(
        1,
        "Choose the blocks of sparse attention only every so many evaluations of a branch; 1 is exact.",
        minimum=1,
        maximum=MAX_EVERY,
    )
    memory: Memory = option(
        "auto",
        "Networks on the device. all: keep them, fastest; stage: those in use; stream: their blocks one by one, "
        "slowest; auto: what fits.",
    )
    device: DeviceName = option("auto", "Where to compute: auto, cpu, cuda, cuda:INDEX or mps.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "Number format of the networks; auto takes what suits the device."
    )

    def __post_init__(self) -> None:
        check_options(self)
        if fault := empty_interval(self.guided_from, self.guided_until):
            raise ConfigError(fault)


def empty_interval(guided_from: float, guided_until: float) -> str | None:
    """A sentence where no noise level lies between the two, from the higher one down; else None."""
    if guided_from >= guided_until:
        return None
    return (
        f"guided_until is {guided_until} and guided_from is {guided_from}; guidance runs from a noise level down to a "
        "lower one. For none at all set dense_guidance and sparse_guidance to 1."
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Which files come of a generation.

    Raises:
        ConfigError: for an unknown format, none at all, or one named twice.
    """

    formats: tuple[MeshFormat, ...] = option(("glb",), "Mesh files to make.", minimum=1, maximum=len(MESH_FORMATS))
    turntable: bool = option(False, "Also make a short animation of the mesh as it turns around once.")

    def __post_init__(self) -> None:
        check_options(self)
