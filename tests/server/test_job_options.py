"""The options of a job as they are sent: every limit of every row from both sides, and every kind of nonsense."""

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config.generation import GenerationOptions, OptionInfo, OutputOptions
from core.config.presets import PRESETS
from server.errors import ApiError
from server.schemas import MAX_DRAWN_SEED, JobOptions, job_option_table, parse_options
from tests.support.tiny_presets import TINY_TWO

ROWS = {row.name: row for row in job_option_table()}
NUMBERS = [row for row in ROWS.values() if row.type in ("integer", "number")]
CHOICES = [row for row in ROWS.values() if row.type == "string" and row.choices]
PRESET_CHECKED = ("resolution",)  # within the limits, the preset has the last word

by_name = {"ids": lambda row: row.name}


def parse(**options) -> dict:
    return parse_options(options, "starter")


def refused(options: object) -> dict:
    """The error of options that must be refused."""
    with pytest.raises(ApiError) as caught:
        parse_options(options, "starter")
    assert len(caught.value.message) > 20 and caught.value.message.endswith(".")
    error = caught.value.body()["error"]
    assert json.loads(json.dumps(error, allow_nan=False)) == error, "it can be sent"
    return error


def beyond(row: OptionInfo, by: int) -> float:
    """Just outside the lower (-1) or upper (1) limit."""
    step = by if row.type == "integer" else by * 1e-6
    return step + (row.minimum if by < 0 else row.maximum)


# --- what is good ---


def test_the_table_is_that_of_a_generation_and_its_files():
    fields = [*dataclasses.fields(GenerationOptions), *dataclasses.fields(OutputOptions)]
    assert list(ROWS) == [field.name for field in fields if field.name not in ("device", "dtype")]
    assert list(JobOptions.model_fields) == list(ROWS)
    assert ROWS["seed"].nullable and ROWS["seed"].default is None


@pytest.mark.parametrize("given", [None, {}, {"seed": None}])
def test_what_is_not_said_is_the_default(given):
    options = parse_options(given, "starter")
    assert list(options) == list(ROWS)
    for name, row in ROWS.items():
        if name != "seed":
            default = list(row.default) if row.type == "array" else row.default
            assert options[name] == default
    assert parse_options(given, "direct3d-s2-v1.1")["preset"] == "direct3d-s2-v1.1"
    assert parse_options({"preset": "starter"}, "direct3d-s2-v1.1")["preset"] == "starter"


def test_the_result_makes_a_generation():
    options = parse(seed=7, formats=["glb", "stl"], turntable=True, iso_level=0, dense_guidance=3)
    outputs = {field.name: options.pop(field.name) for field in dataclasses.fields(OutputOptions)}
    assert OutputOptions(**{**outputs, "formats": tuple(outputs["formats"])}).formats == ("glb", "stl")
    made = GenerationOptions(**options)
    assert made.seed == 7 and made.dense_guidance == 3.0
    assert json.loads(json.dumps(options)) == options


def test_a_seed_of_null_is_drawn_anew_each_time_and_is_exact_everywhere():
    seeds = {parse(seed=None)["seed"] for _ in range(200)}
    assert len(seeds) > 190 and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    assert max(seeds) > 2**31 and MAX_DRAWN_SEED == 2**32 - 1
    assert parse(seed=0)["seed"] == 0


@pytest.mark.parametrize("row", [row for row in NUMBERS if row.name not in PRESET_CHECKED], **by_name)
def test_limits_are_within(row):
    for value in (row.minimum, row.maximum):
        taken = parse(**{row.name: value})[row.name]
        assert taken == value and type(taken) is (int if row.type == "integer" else float)
    if row.nullable and row.name != "seed":
        assert parse(**{row.name: None})[row.name] is None


@pytest.mark.parametrize("row", CHOICES, **by_name)
def test_every_choice_is_taken(row):
    assert [parse(**{row.name: choice})[row.name] for choice in row.choices] == list(row.choices)


@pytest.mark.parametrize("value", [True, False])
def test_switches(value):
    for row in ROWS.values():
        if row.type == "boolean":
            assert parse(**{row.name: value})[row.name] is value


# --- what is not ---


@pytest.mark.parametrize("by", [-1, 1], ids=["below", "above"])
@pytest.mark.parametrize("row", NUMBERS, **by_name)
def test_just_outside_the_limits(row, by):
    error = refused({row.name: beyond(row, by)})
    assert error["code"] == "option_out_of_range"
    assert error["details"] == {"field": row.name, "min": row.minimum, "max": row.maximum}
    assert error["message"].startswith(f"{row.name} is ") and f"{row.minimum} and {row.maximum}" in error["message"]


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "-" + "9" * 400])
@pytest.mark.parametrize("row", NUMBERS, **by_name)
def test_numbers_that_are_none_or_huge(row, text):
    assert refused({row.name: json.loads(text)})["details"]["field"] == row.name


@pytest.mark.parametrize("value", ["7", "", "null", True, False, [], [7], {}, {"value": 7}], ids=repr)
@pytest.mark.parametrize("row", NUMBERS, **by_name)
def test_what_is_no_number(row, value):
    error = refused({row.name: value})
    assert error["code"] == "option_wrong_type"
    assert error["details"] == {"field": row.name, "type": row.type}


@pytest.mark.parametrize("row", [row for row in NUMBERS if row.type == "integer"], **by_name)
def test_a_fraction_is_no_whole_number(row):
    for value in (10.5, 10.0):
        assert refused({row.name: value})["code"] == "option_wrong_type"


@pytest.mark.parametrize("row", [row for row in ROWS.values() if row.type == "boolean"], **by_name)
def test_what_is_no_switch(row):
    for value in (0, 1, "true", "", None, [], 1.0):
        assert refused({row.name: value})["code"] == "option_wrong_type"


@pytest.mark.parametrize("row", CHOICES, **by_name)
def test_what_is_no_choice(row):
    for value in ("", "x" * 1000, row.choices[0].upper(), row.choices[0] + " ", "\ud800"):
        error = refused({row.name: value})
        assert error["code"] == "option_not_allowed"
        assert error["details"] == {"field": row.name, "choices": list(row.choices)}
    for value in (None, 0, True, [row.choices[0]]):
        assert refused({row.name: value})["code"] == "option_wrong_type"


@pytest.mark.parametrize("row", [row for row in ROWS.values() if not row.nullable], **by_name)
def test_null_where_there_must_be_a_value(row):
    assert refused({row.name: None})["code"] == "option_wrong_type"


@pytest.mark.parametrize(
    ("formats", "code"),
    [
        ([], "option_not_allowed"),
        (["glb", "glb"], "option_not_allowed"),
        (["glb", "obj", "ply", "stl", "glb"], "option_not_allowed"),
        (["fbx"], "option_not_allowed"),
        (["glb", "GLB"], "option_not_allowed"),
        (["../token"], "option_not_allowed"),
        ([7], "option_not_allowed"),
        ([None], "option_not_allowed"),
        ([["glb"]], "option_not_allowed"),
        ([{}], "option_not_allowed"),
        ("glb", "option_wrong_type"),
        ({"glb": True}, "option_wrong_type"),
        (7, "option_wrong_type"),
        (True, "option_wrong_type"),
    ],
)
def test_formats(formats, code):
    error = refused({"formats": formats})
    assert error["code"] == code and error["details"]["field"] == "formats"
    assert parse(formats=["stl", "glb", "ply", "obj"])["formats"] == ["stl", "glb", "ply", "obj"]


@pytest.mark.parametrize("name", ["nothing", "", "STARTER", "../starter", "x" * 10_000, "\ud800"])
def test_unknown_presets(name):
    error = refused({"preset": name})
    assert error["code"] == "option_not_allowed" and error["details"] == {"field": "preset", "choices": list(PRESETS)}
    assert len(error["message"]) < 300


def test_resolutions_are_the_preset_s(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny-two", TINY_TWO)
    assert [parse(preset="tiny-two", resolution=side)["resolution"] for side in (32, 64)] == [32, 64]
    error = refused({"preset": "tiny-two", "resolution": 128})
    assert error["code"] == "option_not_allowed"
    assert error["details"] == {"field": "resolution", "choices": [32, 64]} and "32, 64" in error["message"]


def test_guidance_that_would_end_before_it_begins():
    error = refused({"guided_from": 0.4, "guided_until": 0.7})
    assert error["code"] == "option_out_of_range"
    assert error["details"] == {"field": "guided_until", "min": 0.0, "max": 0.4}
    assert error["message"].startswith("guided_until is 0.7 and guided_from is 0.4; ")
    assert parse(guided_from=0.5, guided_until=0.5)["guided_until"] == 0.5


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("stepz", None),
        ("sparse_step", "sparse_steps"),
        ("Faces", "faces"),
        ("device", None),
        ("dtype", None),
        ("formats ", "formats"),
        ("", None),
        ("__class__", None),
        ("model_config", None),
        ("x" * 100_000, None),
        ("\ud800", None),
        ("\0", None),
    ],
)
def test_unknown_options_get_a_hint(name, hint):
    error = refused({name: 1})
    assert error["code"] == "unknown_option" and error["details"] == {"field": name[:60], "choices": list(ROWS)}
    assert len(error["message"]) < 500 and ", ".join(ROWS) in error["message"]
    if hint is not None:
        assert f"Did you mean {hint!r}?" in error["message"]


@pytest.mark.parametrize("given", [[], "", "{}", 7, 0, True, False, [{"seed": 1}], float("nan")], ids=repr)
def test_what_is_no_object(given):
    assert refused(given)["code"] == "bad_request"


def test_a_good_option_does_not_excuse_a_bad_one():
    assert refused({"seed": 7, "faces": 3})["details"]["field"] == "faces"
    assert refused({"faces": 100, "fazes": 3})["code"] == "unknown_option"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["glb", "auto", "starter"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@settings(deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(list(ROWS)) | st.text(), ANYTHING, max_size=5))
def test_anything_is_either_taken_or_refused(options):
    try:
        taken = parse_options(options, "starter")
    except ApiError as error:
        json.dumps(error.body())
        return
    outputs = {field.name: taken.pop(field.name) for field in dataclasses.fields(OutputOptions)}
    OutputOptions(**{**outputs, "formats": tuple(outputs["formats"])})
    GenerationOptions(**taken)  # which checks once more


# --- the document ---


@pytest.mark.parametrize("row", list(ROWS.values()), **by_name)
def test_the_schema_tells_help_and_limits_of_every_row(row):
    schema = JobOptions.model_json_schema()["properties"][row.name]
    kinds = schema.get("anyOf", [schema])
    told = {kind.get("type", "string"): kind for kind in kinds}
    assert schema["description"] == row.help
    assert ("null" in told) is row.nullable and row.type in told
    if row.name != "preset":  # whose default is the server's
        assert schema["default"] == (list(row.default) if row.type == "array" else row.default)
    kind = told[row.type]
    if row.type == "array":
        assert (kind["minItems"], kind["maxItems"]) == (row.minimum, row.maximum)
        assert kind["items"]["enum"] == list(row.choices)
    elif row.choices is not None:
        assert kind["enum"] == list(row.choices)
    elif row.minimum is not None:
        assert (kind["minimum"], kind["maximum"]) == (row.minimum, row.maximum)


def test_the_schema_wants_nothing_more_and_nothing_else():
    schema = JobOptions.model_json_schema()
    assert schema["additionalProperties"] is False and "required" not in schema
