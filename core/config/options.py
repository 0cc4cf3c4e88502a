"""Options that describe themselves: a dataclass field with help and limits, and the table read from such fields.

A field's type and choices come from its type hint, its help and limits from ``option``; so a command line, a JSON
document and a panel of controls can be made from a dataclass, and its values are checked by the same table.
"""

import dataclasses
import functools
import types
import typing
from typing import Any, Literal

from core.errors import ConfigError

OptionType = Literal["string", "integer", "number", "boolean", "array"]

_NAMES: dict[Any, OptionType] = {str: "string", int: "integer", float: "number", bool: "boolean"}
_KINDS: dict[OptionType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (tuple, list),
}
_SHOWN = 100  # letters of a wrong value that a message repeats
_WORDS: dict[OptionType, str] = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionInfo:
    """One option, as those who draw controls need it."""

    name: str
    type: OptionType
    default: Any
    minimum: float | None  # of a number; of an array, the fewest items
    maximum: float | None  # of a number; of an array, the most items
    choices: tuple[str, ...] | None  # all that a string, or an item of an array, may be
    nullable: bool  # whether None (null) is a value
    help: str  # one line

    def wrong_type(self, value: Any) -> str | None:
        """A sentence where ``value`` is of another kind, else None. True and false are no numbers."""
        if value is None and self.nullable:
            return None
        fits = isinstance(value, _KINDS[self.type]) and (self.type == "boolean" or not isinstance(value, bool))
        if fits and self.type == "array":
            fits = all(isinstance(item, str) for item in value)
        unset = " or unset" if self.nullable else ""
        return None if fits else f"{self.name} is {_shown(value)}; it must be {_WORDS[self.type]}{unset}."

    def out_of_range(self, value: Any) -> str | None:
        """A sentence where ``value``, of the right kind, is beyond the limits or no choice, else None."""
        if value is None:
            return None
        if self.type == "array":
            return self._unfit_items(value)
        if self.choices is not None and value not in self.choices:
            return f"{self.name} is {_shown(value)}; it must be one of {', '.join(self.choices)}."
        low, high = self.minimum, self.maximum
        if (low is not None and not value >= low) or (high is not None and not value <= high):  # NaN fails too
            return f"{self.name} is {_shown(value)}; it must be between {low} and {high}."
        return None

    def _unfit_items(self, items: tuple[str, ...] | list[str]) -> str | None:
        known = "" if self.choices is None else f" of {', '.join(self.choices)}"
        for item in items:
            if self.choices is not None and item not in self.choices:
                return f"{self.name} holds {_shown(item)}; each must be one{known}."
        if len(set(items)) < len(items):
            return f"{self.name} names one twice: {_shown(list(items))}. Name each once."
        low, high = self.minimum or 0, self.maximum
        if len(items) < low or (high is not None and len(items) > high):
            return f"{self.name} has {len(items)} values; it must have {low} to {high}{known}."
        return None


def option(default: Any, help: str, *, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A dataclass field with what ``option_table`` says of it."""
    assert (minimum is None) == (maximum is None), "an option has both limits or none"
    return dataclasses.field(default=default, metadata={"help": help, "minimum": minimum, "maximum": maximum})


@functools.cache
def option_table(cls: type) -> tuple[OptionInfo, ...]:
    """The options of a dataclass whose fields were made by ``option``, in order."""
    hints = typing.get_type_hints(cls)
    rows = []
    for field in dataclasses.fields(cls):
        name, choices, nullable = _read_hint(hints[field.name])
        row = OptionInfo(
            name=field.name, type=name, default=field.default, choices=choices, nullable=nullable, **field.metadata
        )
        rows.append(row)
    return tuple(rows)


def check_options(options: Any) -> None:
    """Hold every field of ``options`` to the table of its class.

    Raises:
        ConfigError: for the first value of the wrong kind or beyond its limits, naming the option.
    """
    for row in option_table(type(options)):
        value = getattr(options, row.name)
        if fault := row.wrong_type(value) or row.out_of_range(value):
            raise ConfigError(fault)


def _shown(value: Any) -> str:
    """A value in a message: a client may send megabytes."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _read_hint(hint: Any) -> tuple[OptionType, tuple[str, ...] | None, bool]:
    """Type, choices and whether it may be None."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        (inner,) = [arg for arg in args if arg is not type(None)]
        name, choices, _ = _read_hint(inner)
        return name, choices, True
    if origin is Literal:
        return "string", args, False
    if origin is tuple:
        return "array", _read_hint(args[0])[1], False
    return _NAMES[hint], None, False
