"""Options and their table: complete, consistent, and the same limits everywhere."""

import dataclasses
import json
import typing

import pytest

from core.config.base import from_dict, to_dict
from core.config.generation import MESH_FORMATS, GenerationOptions, OutputOptions, option_table
from core.errors import ConfigError

CLASSES = (GenerationOptions, OutputOptions)
ROWS = [(cls, row) for cls in CLASSES for row in option_table(cls)]
NAMES = [row.name for _, row in ROWS]
KINDS = {"string": str, "integer": int, "number": float, "boolean": bool, "array": tuple}


@pytest.mark.parametrize("cls", CLASSES)
def test_the_table_has_every_field_in_order(cls):
    assert [row.name for row in option_table(cls)] == [field.name for field in dataclasses.fields(cls)]
    json.dumps([dataclasses.asdict(row) for row in option_table(cls)])


@pytest.mark.parametrize("cls, row", ROWS, ids=NAMES)
def test_a_row_agrees_with_its_field(cls, row):
    assert row.default == getattr(cls(), row.name)
    assert (row.default is None) <= row.nullable
    assert row.default is None or isinstance(row.default, KINDS[row.type])
    hint = typing.get_type_hints(cls)[row.name]
    assert (type(None) in typing.get_args(hint)) == row.nullable
    assert row.help and "\n" not in row.help and row.help[-1] == "." and len(row.help) <= 150
    if row.type in ("integer", "number"):
        assert row.minimum < row.maximum
    if row.choices:
        assert set([row.default] if row.type == "string" else row.default) <= set(row.choices)


@pytest.mark.parametrize("cls, row", [pair for pair in ROWS if pair[1].type in ("integer", "number")])
def test_limits_belong_to_the_range_and_nothing_beyond_does(cls, row):
    step = 1 if row.type == "integer" else 1e-6
    for value in (row.minimum, row.maximum):
        assert getattr(cls(**{row.name: value}), row.name) == value
    for value in (row.minimum - step, row.maximum + step, *([float("nan")] if row.type == "number" else [])):
        with pytest.raises(ConfigError) as refusal:
            cls(**{row.name: value})
        for word in (row.name, str(value), str(row.minimum), str(row.maximum)):
            assert word in str(refusal.value)


@pytest.mark.parametrize("cls, row", [pair for pair in ROWS if pair[1].choices and pair[1].type == "string"])
def test_choices_are_all_there_is(cls, row):
    for choice in row.choices:
        cls(**{row.name: choice})
    with pytest.raises(ConfigError, match=f"{row.name} is 'other'; it must be one of {row.choices[0]}, "):
        cls(**{row.name: "other"})


@pytest.mark.parametrize("cls, row", ROWS, ids=NAMES)
def test_a_value_of_another_kind_is_refused(cls, row):
    others = {"string": (1,), "integer": ("1", 1.5, True), "number": ("1", True), "boolean": (1, "yes"),
              "array": ("glb", {"glb": 1}, (1,))}  # fmt: skip
    for value in (*others[row.type], *([] if row.nullable else [None])):
        with pytest.raises(ConfigError, match=f"^{row.name} is .*; it must be "):
            cls(**{row.name: value})
    if row.type == "number":
        cls(**{row.name: int(row.maximum)})  # JSON does not tell 1 from 1.0


@pytest.mark.parametrize("formats, words", [
    ((), "0 values"), (("glb", "fbx"), "'fbx'; each must be one of glb, obj, ply, stl"), (("ply", "ply"), "one twice"),
])  # fmt: skip
def test_formats_that_cannot_be_written(formats, words):
    with pytest.raises(ConfigError, match=words):
        OutputOptions(formats=formats)
    assert OutputOptions(formats=MESH_FORMATS).formats == MESH_FORMATS


def test_options_go_through_json():
    for options in (
        GenerationOptions(seed=3, resolution=128, sparse_guidance=2),
        OutputOptions(formats=("stl", "glb")),
    ):
        assert from_dict(type(options), json.loads(json.dumps(to_dict(options)))) == options


def test_a_message_repeats_only_the_start_of_a_long_value():
    faults = [row.wrong_type("x" * 10**6) for row in option_table(GenerationOptions) if row.type == "integer"]
    assert faults and all(len(fault) < 200 and "xxx..." in fault for fault in faults)
