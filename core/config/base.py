"""Strict conversion between configuration dataclasses and plain dictionaries.

An unknown key is an error that lists the known ones; nothing is guessed and nothing is imported by name.
"""

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from core.errors import ConfigError

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass ``config`` as plain dictionaries, lists and scalars (fit for JSON)."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def from_dict(cls: type[T], data: dict[str, Any]) -> T:
    """Build ``cls`` from ``data``, strictly and recursively.

    Raises:
        ConfigError: for an unknown or missing key, or a value of the wrong kind.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{cls.__name__} needs a mapping, got {type(data).__name__}.")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{cls.__name__} has no field {key!r}. Known: {', '.join(sorted(fields))}.{hint}")
    missing = [
        f.name
        for f in fields.values()
        if f.name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}.")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _build(hints[key], value, f"{cls.__name__}.{key}") for key, value in data.items()})


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    return value


def _build(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else from_dict(hint, value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            if type(None) in args:
                return None
            raise ConfigError(f"{where} may not be empty.")
        return _first_fitting([a for a in args if a is not type(None)], value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} needs a list, got {value!r}.")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_build(args[0], v, where) for v in value)
        if len(value) != len(args):
            raise ConfigError(f"{where} needs {len(args)} values, got {len(value)}.")
        return tuple(_build(a, v, where) for a, v in zip(args, value, strict=True))
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}; it must be one of {', '.join(map(repr, args))}.")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{where} needs {hint.__name__}, got {value!r}.")
    return value


def _first_fitting(hints: list[Any], value: Any, where: str) -> Any:
    problems = []
    for hint in hints:
        try:
            return _build(hint, value, where)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(problems[0] if len(problems) == 1 else f"{where} is {value!r}: {' '.join(problems)}")
