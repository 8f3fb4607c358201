"""Settings as frozen dataclasses: to plain data and back, and changed by dotted name.

A settings class may hold int, float, bool, str, Path, None, Literal, tuples, lists, dicts with
text keys, unions of these, and other settings classes. Every message names the setting by its
dotted path.
"""

import dataclasses
import difflib
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from unheard.errors import ConfigError, shorten

Config = TypeVar("Config")


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a settings object into plain data that JSON and TOML have forms for.

    Tuples become lists, paths become text, nested settings become objects.

    Raises:
        ConfigError: if a value has no plain form; the message names it.
    """
    if not _is_settings(config):
        raise ConfigError(f"Expected a settings object, found {type(config).__name__}.")
    return _plain(config, "")


def from_dict(cls: type[Config], data: Mapping[str, Any]) -> Config:
    """Build a settings object from plain data, checking every name and type.

    Whole numbers are taken for floats; nothing else is converted. Settings that `data` leaves
    out keep their defaults.

    Args:
        cls: the settings class.
        data: as `to_dict` made it, or as JSON or TOML read it.

    Raises:
        ConfigError: on an unknown name (with the nearest known one), a missing value without
            default, or a value of another type.
    """
    return cast(Config, _build(cls, data, ""))


def override(config: Config, changes: Mapping[str, Any]) -> Config:
    """Return a copy with some settings changed.

    All changes are applied before the settings check themselves, so that two values that belong
    together (say dim and heads) can change together.

    Args:
        config: any settings object; it stays as it was.
        changes: dotted name -> value, for example {"encoder.layers": "4"}. Text is read as the
            setting's type: "12", "0.1", "true", "none", "3,5,7" or "[3, 5, 7]" for a tuple;
            values that are not text must be of the type already.

    Raises:
        ConfigError: on an unknown name (with the nearest known one) or a value of another type.
    """
    tree: dict[str, Any] = {}
    for name, value in changes.items():
        branch = tree
        *groups, leaf = name.split(".")
        for group in groups:
            branch = branch.setdefault(group, {})
            if not isinstance(branch, dict):
                raise ConfigError(f"Both {group} and a setting within it were given: {name}.")
        if isinstance(branch.get(leaf), dict):
            raise ConfigError(f"Both {name} and a setting within it were given.")
        branch[leaf] = _Leaf(value)
    return _replace(config, tree, "")


@dataclasses.dataclass(frozen=True)
class _Leaf:
    """A new value, told apart from a group of changes even when it is a dict."""

    value: Any


def _plain(value: Any, where: str) -> Any:
    """Turn one value into plain data."""
    if _is_settings(value):
        return {
            field.name: _plain(getattr(value, field.name), _join(where, field.name))
            for field in dataclasses.fields(value)
            if field.init
        }
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [_plain(item, f"{where}[{number}]") for number, item in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item, _join(where, key)) for key, item in value.items()}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise ConfigError(
        f"{where}: expected a finite number, text, a path, a list or settings, found {value!r}."
    )


def _build(kind: Any, value: Any, where: str) -> Any:
    """Check `value` against the annotation `kind` and return it in that type."""
    if kind is Any:
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _wrong_type(where, kind, value)
    if origin is Union or origin is types.UnionType:
        return _build_union(arguments, value, where)
    if dataclasses.is_dataclass(kind):
        return _build_settings(cast(type, kind), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return _build_tuple(kind, arguments, value, where)
    if origin is list and isinstance(value, list | tuple):
        return [_build(arguments[0], item, f"{where}[{n}]") for n, item in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {key: _build(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind in (int, bool, str) and type(value) is kind:
        return value
    if kind in (None, type(None)) and value is None:
        return None
    raise _wrong_type(where, kind, value)


def _build_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """Take the first alternative that fits; explain the only settings class if none does."""
    errors: list[tuple[Any, ConfigError]] = []
    # An exact type goes before a conversion: 3 in "float | int" stays an int.
    exact = [alternative for alternative in arguments if alternative is type(value)]
    for alternative in (*exact, *arguments):
        try:
            return _build(alternative, value, where)
        except ConfigError as error:
            errors.append((alternative, error))
    if isinstance(value, Mapping):
        settings = [error for kind, error in errors if dataclasses.is_dataclass(kind)]
        if len(settings) == 1:
            raise settings[0]
    raise _wrong_type(where, Union[arguments], value)  # noqa: UP007 - built at run time


def _build_tuple(kind: Any, arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    """Build tuple[X, ...] or tuple[X, Y] from a list."""
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    else:
        kinds = () if arguments == ((),) else arguments
    if len(kinds) != len(value):
        raise _wrong_type(where, kind, value)
    return tuple(
        _build(item_kind, item, f"{where}[{number}]")
        for number, (item_kind, item) in enumerate(zip(kinds, value, strict=True))
    )


def _build_settings(cls: type, value: Any, where: str) -> Any:
    """Build one settings object."""
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise _wrong_type(where, cls, value)
    kinds = _kinds(cls)
    for name in value:
        if name not in kinds:
            raise _unknown(cls, str(name), where)
    missing = [
        _join(where, field.name)
        for field in dataclasses.fields(cls)
        if field.init
        and field.name not in value
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"Settings of {cls.__name__} without a value: {shorten(missing)}. Give them."
        )
    return cls(
        **{name: _build(kinds[name], item, _join(where, name)) for name, item in value.items()}
    )


def _replace(config: Any, tree: Mapping[str, Any], where: str) -> Any:
    """Apply one group of changes to a settings object."""
    kinds = _kinds(type(config))
    new: dict[str, Any] = {}
    for name, change in tree.items():
        path = _join(where, name)
        if name not in kinds:
            raise _unknown(type(config), name, where)
        if isinstance(change, _Leaf):
            new[name] = _build(kinds[name], _parse(kinds[name], change.value, path), path)
            continue
        current = getattr(config, name)
        if not _is_settings(current):
            raise ConfigError(
                f"{path} is {current!r}, which has no setting {next(iter(change))!r}."
            )
        new[name] = _replace(current, change, path)
    return dataclasses.replace(config, **new)


def _parse(kind: Any, value: Any, where: str) -> Any:
    """Read text as plain data for `kind`; give anything else, or what cannot be read, back."""
    if not isinstance(value, str) or kind in (str, Path, Any):
        return value
    origin, arguments = get_origin(kind), get_args(kind)
    text = value.strip()
    if origin is Literal:
        return next((choice for choice in arguments if str(choice) == text), value)
    if origin is Union or origin is types.UnionType:
        return _parse_union(arguments, value, where)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), value)
    if kind in (int, float):
        try:
            return kind(text.replace("_", ""))
        except ValueError:
            return value
    if kind in (None, type(None)):
        return None if text.lower() in ("none", "null") else value
    if origin in (tuple, list) and not text.startswith("["):
        items = [item for item in text.split(",") if item.strip()]
        item_kinds = arguments if arguments[-1] is not Ellipsis else arguments[:1]
        if len(item_kinds) != len(items):
            item_kinds = item_kinds[:1] * len(items)
        return [_parse(k, item.strip(), where) for k, item in zip(item_kinds, items, strict=True)]
    if origin in (tuple, list, dict) or dataclasses.is_dataclass(kind):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"{where}: expected {_name(kind)}, found {value!r}: {error}"
            ) from None
    return value


def _parse_union(arguments: tuple[Any, ...], value: str, where: str) -> Any:
    """Read text as the first alternative that it fits; text itself comes last."""
    for alternative in sorted(arguments, key=lambda kind: kind in (str, Path)):
        try:
            parsed = _parse(alternative, value, where)
            _build(alternative, parsed, where)
        except ConfigError:
            continue
        return parsed
    return value


@functools.cache
def _kinds(cls: type) -> dict[str, Any]:
    """Return name -> type of the settings that can be given."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls) if field.init}


def _unknown(cls: type, name: str, where: str) -> ConfigError:
    """Say which setting is not known, and which one may be meant."""
    known = list(_kinds(cls))
    near = difflib.get_close_matches(name, known, n=1)
    advice = (
        f'Did you mean "{_join(where, near[0])}"?'
        if near
        else f"Known: {', '.join(sorted(known))}."
    )
    return ConfigError(f'{cls.__name__} has no setting "{_join(where, name)}". {advice}')


def _wrong_type(where: str, kind: Any, value: Any) -> ConfigError:
    """Say which type a setting must have."""
    return ConfigError(f"{where or 'settings'}: expected {_name(kind)}, found {value!r}.")


def _name(kind: Any) -> str:
    """Name a type as a person would."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in arguments)
    if origin is Union or origin is types.UnionType:
        return " or ".join(_name(argument) for argument in arguments)
    if kind in (None, type(None)):
        return "none"
    if origin is not None:
        return str(kind)
    if dataclasses.is_dataclass(kind):
        return f"settings of {cast(type, kind).__name__}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return words.get(kind, "a path" if kind is Path else str(kind))


def _is_settings(value: Any) -> bool:
    """Whether a value is a settings object (not a class)."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _join(where: str, name: str) -> str:
    """Put a dotted name together."""
    return f"{where}.{name}" if where else name
