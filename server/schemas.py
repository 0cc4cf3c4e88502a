"""What comes in and goes out over HTTP, as pydantic models: they check requests and make the OpenAPI document.

The options of a job are not written here: their model is built from the tables of ``core.config.generation``.
"""

import difflib
import functools
import secrets
from dataclasses import replace
from typing import Annotated, Any, Literal, Optional

from flask_openapi3 import FileStorage
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator, create_model

from core.config.generation import GenerationOptions, OptionInfo, OutputOptions, empty_interval, option_table
from core.config.presets import PRESETS
from core.errors import ConfigError
from server.errors import ApiError
from server.jobs.model import ARTIFACTS, JobState

OF_THE_SERVER = ("device", "dtype")  # options that `serve` decides, not a job
MAX_DRAWN_SEED = 2**32 - 1  # exact in every client's numbers
MAX_PAGE = 100
MAX_KEY = 200
_PYTHON = {"string": str, "integer": int, "number": float, "boolean": bool}


def job_option_table() -> tuple[OptionInfo, ...]:
    """The options that a job may have, in order."""
    rows = [row for row in option_table(GenerationOptions) if row.name not in OF_THE_SERVER]
    rows = [replace(row, nullable=True, default=None) if row.name == "seed" else row for row in rows]
    return (*rows, *option_table(OutputOptions))


def _field(row: OptionInfo) -> tuple[Any, Any]:
    limits = {}
    if row.type == "array":
        limits = {"min_length": row.minimum, "max_length": row.maximum}
        kind: Any = list[Literal[row.choices]]  # type: ignore[valid-type]
    elif row.choices is not None:
        kind = Literal[row.choices]
    else:
        kind = _PYTHON[row.type]
        if row.minimum is not None:
            limits = {"ge": row.minimum, "le": row.maximum}
    kind = Optional[kind] if row.nullable else kind  # noqa: UP045 - `|` wants types, not Literals of variables
    default = list(row.default) if isinstance(row.default, tuple) else row.default
    extra = _describe_preset if row.name == "preset" else None
    return kind, Field(default, description=row.help, json_schema_extra=extra, **limits)


def _describe_preset(schema: dict[str, Any]) -> None:
    """For the document: any preset of the table, and the default is the server's own."""
    del schema["default"]
    schema["enum"] = list(PRESETS)


JobOptions = create_model(
    "JobOptions",
    __config__=ConfigDict(extra="forbid", strict=True, allow_inf_nan=False),
    __doc__="What a job may ask for. Unset values are the preset's own; they are told in `job.json`.",
    **{row.name: _field(row) for row in job_option_table()},
)


def parse_options(given: Any, default_preset: str) -> dict[str, Any]:
    """The complete options of a job: defaults filled in, the seed drawn where there is none.

    Raises:
        ApiError: for the first value that cannot be used, naming the option and its limits.
    """
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise ApiError("bad_request", 'options must be a JSON object, such as {"seed": 7}.', field="options")
    for name in given:  # before pydantic, which cannot even name a key that is no Unicode text
        _check_known(name)
    try:
        options = JobOptions.model_validate({"preset": default_preset, **given}).model_dump()
    except ValidationError as error:
        raise _option_error(error.errors()[0]) from None
    _check_preset(options)
    for row in job_option_table():  # what a schema cannot say, such as a format named twice
        if fault := row.out_of_range(options[row.name]):
            raise ApiError("option_not_allowed", fault, field=row.name, choices=list(row.choices or ()))
    high = options["guided_from"]
    if fault := empty_interval(high, options["guided_until"]):
        raise ApiError("option_out_of_range", fault, field="guided_until", min=0.0, max=high)
    if options["seed"] is None:
        options["seed"] = secrets.randbelow(MAX_DRAWN_SEED + 1)
    return options


def _check_known(name: str) -> None:
    known = [row.name for row in job_option_table()]
    if name in known:
        return
    near = difflib.get_close_matches(name[:60], known, n=1)
    hint = f"Did you mean {near[0]!r}? " if near else ""
    message = f"there is no option {name[:60]!r}. {hint}Known: {', '.join(known)}."
    raise ApiError("unknown_option", message, field=name[:60], choices=known)


def _option_error(error: dict[str, Any]) -> ApiError:
    """From pydantic's words to ours."""
    name, value = str(error["loc"][0]), error["input"]
    row = {row.name: row for row in job_option_table()}[name]
    if len(error["loc"]) == 1 and (fault := row.wrong_type(value)):
        return ApiError("option_wrong_type", fault, field=name, type=row.type)
    if row.choices is not None:
        value = value if len(error["loc"]) == 1 else [value]
        fault = row.out_of_range(value) or f"{name} must be one of {', '.join(row.choices)}."
        return ApiError("option_not_allowed", fault, field=name, choices=list(row.choices))
    limits = {"min": row.minimum, "max": row.maximum}
    fault = row.out_of_range(value) or f"{name} is {value!r}; it must be a finite number."
    return ApiError("option_out_of_range", fault, field=name, **limits)


def _check_preset(options: dict[str, Any]) -> None:
    name = options["preset"]
    if name not in PRESETS:
        choices = list(PRESETS)
        message = f"there is no preset {name[:60]!r}. Known: {', '.join(choices)}."
        raise ApiError("option_not_allowed", message, field="preset", choices=choices)
    try:
        PRESETS[name].up_to(options["resolution"])
    except ConfigError as error:
        choices = [stage.resolution for stage in PRESETS[name].sparse]
        raise ApiError("option_not_allowed", str(error), field="resolution", choices=choices) from None


# --- requests ---


class Request(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    @functools.cache
    def model_json_schema(cls, *arguments: Any, **named: Any) -> dict[str, Any]:
        """Kept: flask-openapi3 asks for it with every request."""
        return super().model_json_schema(*arguments, **named)


class JobPath(Request):
    job_id: str = Field(description="32 hexadecimal digits.", pattern="^[0-9a-f]{32}$")


class ArtifactPath(JobPath):
    name: Literal[tuple(ARTIFACTS)]  # type: ignore[valid-type]


class AfterQuery(Request):
    after: int | None = Field(None, ge=0, le=2**53, description="Only events with a higher id; without it, none.")


class ListQuery(Request):
    state: JobState | None = Field(None, description="Only jobs in this state.")
    limit: int = Field(20, ge=1, le=MAX_PAGE, description="So many jobs at most.")
    before: int | None = Field(None, ge=1, le=2**53, description="`next` of the page before.")


class KeyHeader(BaseModel):
    idempotency_key: str | None = Field(
        None,
        alias="Idempotency-Key",
        max_length=MAX_KEY,
        description="The same key within 24 hours gives the same job instead of a second one.",
    )


class CreateForm(Request):
    image: FileStorage = Field(description="The picture: PNG, JPEG, WebP, BMP, TIFF or GIF.")
    # Here only for the document: `parse_options` has checked the text before.
    options: Annotated[JobOptions | None, WrapValidator(lambda value, check: None)] = Field(None, description="JSON.")


class PresetPath(Request):
    preset: str = Field(description="Name of a preset, as in capabilities.")


class DownloadBody(Request):
    model_config = ConfigDict(strict=True)

    accept_license: bool = Field(description="That the licences of all that will come are accepted.")


class UnloadBody(Request):
    model_config = ConfigDict(strict=True, openapi_extra={"required": False})  # type: ignore[typeddict-unknown-key]

    wait: bool = Field(False, description="Wait for the running job instead of refusing.")


# --- answers ---


class ErrorBody(BaseModel):
    code: str
    message: str
    details: dict[str, Any]


class ErrorAnswer(BaseModel):
    """Every answer that is not a success."""

    error: ErrorBody


class ArtifactAnswer(BaseModel):
    name: Literal[tuple(ARTIFACTS)]  # type: ignore[valid-type]
    bytes: int
    sha256: str
    media_type: str
    url: str


class EventAnswer(BaseModel):
    """`state`, `progress`, `artifact` or `note`, each with its own further fields."""

    model_config = ConfigDict(extra="allow")
    id: int
    at: str
    type: Literal["state", "progress", "artifact", "note"]


class ResultAnswer(BaseModel):
    vertices: int
    faces: int
    watertight: bool
    seconds: float
    tokens: dict[str, int] = Field(description="Of each detail stage.")
    timings: dict[str, float] = Field(description="Seconds of each stage.")
    device: str
    dtype: str


class JobAnswer(BaseModel):
    id: str
    title: str = Field(description="The picture's name, for people.")
    state: JobState
    cancelling: bool
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    queue_position: int | None = Field(description="1 is the next.")
    stage: str | None
    step: int | None
    steps: int | None
    fraction: float
    eta_s: float | None = Field(description="Seconds left, from measured times.")
    last_event: int
    options: dict[str, Any] = Field(description="As used, the drawn seed included.")
    error: ErrorBody | None
    notes: list[str]
    result: ResultAnswer | None
    artifacts: list[ArtifactAnswer]
    events: list[EventAnswer]


class JobsAnswer(BaseModel):
    jobs: list[JobAnswer]
    next: int | None = Field(description="`before` of the next page.")


class SourceAnswer(BaseModel):
    title: str
    license: str
    bytes: int = Field(description="About.")
    page: str


class OfferAnswer(BaseModel):
    bytes: int = Field(description="To download, about.")
    disk_bytes: int = Field(description="Needed on the disk while it is installed, about.")
    sources: list[SourceAnswer]


class DownloadAnswer(BaseModel):
    preset: str
    state: Literal["none", "running", "succeeded", "failed", "cancelled"]
    installed: bool
    kept_bytes: int = Field(description="Of files that have come, and need not come again.")
    offer: OfferAnswer
    started_at: str | None
    finished_at: str | None
    cancelling: bool
    stage: Literal["check", "download", "convert"] | None
    file: str | None
    done: int | None = Field(description="Bytes of all files, or networks, in this stage.")
    total: int | None
    error: ErrorBody | None


class HealthAnswer(BaseModel):
    status: Literal["ok"]
    service: Literal["s2mesh"]
    version: str
    api: int


class UnloadAnswer(BaseModel):
    unloaded: bool = Field(description="False: after the running job.")


class FreeAnswer(BaseModel):
    """A document that describes itself; `server/API.md` shows one."""

    model_config = ConfigDict(extra="allow")
