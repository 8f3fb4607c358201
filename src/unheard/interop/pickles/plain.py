"""From what a pickle left to plain data: dicts, lists, texts, numbers, tensors not yet read."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Never

import numpy as np

from unheard.errors import CheckpointError, FormatError
from unheard.interop.pickles import tables
from unheard.interop.pickles.budget import Budget
from unheard.interop.pickles.machine import ATOMS
from unheard.interop.pickles.refusals import damaged
from unheard.interop.pickles.storages import check_view
from unheard.interop.pickles.values import Inert, Named, Record, Refused, Storage, TensorHandle

MAX_DEPTH = 64
"""Deepest nesting of a checkpoint."""

MAX_OBJECTS = 2_000_000
"""Most objects of a checkpoint, one that is in several places counted in each."""

NUMPY_TYPES = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})
"""Types of numbers that numpy values may have, as numpy spells them."""

REFERENCE = re.compile(r"\$\{([A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\}")
"""A value of an omegaconf configuration that stands for another one: "${model.dropout}"."""

MAX_HOPS = 16
"""Longest chain of such references."""


def plain(value: object, *, file: Path, budget: Budget) -> Any:
    """Turn what a pickle left into plain data, and check every tensor in it.

    Objects of omegaconf become the dicts, lists and values that they hold, with references such
    as "${model.dropout}" replaced by the value they name ("${env:HOME}" and the like are left as
    they are written). Objects of other known classes become records. What is in several places
    stays one object.

    Raises:
        FormatError: for tensors of a kind that is not read, by their names.
        CheckpointError: for tensors that claim numbers the file does not have, for what contains
            itself, is nested too deeply, or is too large.
    """
    return _Converter(file, budget).convert(value, "", 0).value


@dataclass(frozen=True, slots=True)
class _Part:
    """Plain data with its size: objects when written out in full, and levels."""

    value: Any
    objects: int = 1
    height: int = 0


class _Converter:
    """Converts the objects of one file, each once."""

    def __init__(self, file: Path, budget: Budget) -> None:
        self._file = file
        self._budget = budget
        self._done: dict[int, _Part] = {}
        self._open: set[int] = set()
        self._in_config = False

    def convert(self, value: Any, name: str, depth: int) -> _Part:
        """Convert one object, `name` being the way to it."""
        kind = type(value)
        if kind in ATOMS or kind is set:
            return _Part(value)
        if kind is Named:
            return _Part(value.name)
        done = self._done.get(id(value))
        if done is None:
            if id(value) in self._open:
                raise CheckpointError(f"{self._file}: {name or 'the file'} contains itself.")
            self._open.add(id(value))
            self._budget.spend(256)
            done = self._convert(value, name, depth)
            self._open.discard(id(value))
            self._done[id(value)] = done
        if depth + done.height > MAX_DEPTH:
            raise CheckpointError(
                f"{self._file} is nested too deeply: expected at most {MAX_DEPTH} levels."
            )
        return done

    def _convert(self, value: Any, name: str, depth: int) -> _Part:
        if depth > MAX_DEPTH:
            raise CheckpointError(
                f"{self._file} is nested too deeply: expected at most {MAX_DEPTH} levels."
            )
        if isinstance(value, TensorHandle):
            check_view(value, name=name, file=self._file)
            return _Part(replace(value, name=name))
        if isinstance(value, dict):
            return self._dict(value, name, depth)
        if isinstance(value, list):
            return self._items(value, name, depth, list)
        if isinstance(value, tuple):
            return self._items(value, name, depth, tuple)
        if isinstance(value, Inert):
            return self._object(value, name, depth)
        if isinstance(value, Refused):
            raise FormatError(
                f"{self._file}: {name} is {value.what}: expected ordinary tensors of numbers. "
                f"{value.remedy}"
            )
        if isinstance(value, Storage):
            raise FormatError(
                f"{self._file}: {name} is a bare storage: expected tensors, which know the shape "
                "of their numbers. Save the tensor."
            )
        raise CheckpointError(f"{self._file}: {name} is not plain data.")

    # Containers

    def _join(self, name: str, key: object) -> str:
        last = key if type(key) is str else repr(key)
        self._budget.spend(len(name) + len(last) + 64)
        return f"{name}.{last}" if name else last

    def _child(self, value: Any, name: str, key: object, depth: int) -> _Part:
        if type(value) in ATOMS:
            return _Part(value)
        return self.convert(value, self._join(name, key), depth + 1)

    def _sized(self, value: Any, parts: list[_Part]) -> _Part:
        objects = 1 + sum(part.objects for part in parts)
        if objects > MAX_OBJECTS:
            raise CheckpointError(
                f"{self._file} holds too many objects: expected at most {MAX_OBJECTS}, with "
                "those in several places counted in each."
            )
        return _Part(value, objects, 1 + max((part.height for part in parts), default=0))

    def _dict(self, value: dict[Any, Any], name: str, depth: int) -> _Part:
        parts = {key: self._child(item, name, key, depth) for key, item in value.items()}
        self._budget.spend(232 + 112 * len(parts))
        made = {key: part.value for key, part in parts.items()}
        return self._sized(made, list(parts.values()))

    def _items(
        self, value: list[Any] | tuple[Any, ...], name: str, depth: int, kind: Callable[..., Any]
    ) -> _Part:
        self._budget.spend(64 + 80 * len(value))
        parts = [self._child(item, name, index, depth) for index, item in enumerate(value)]
        return self._sized(kind(part.value for part in parts), parts)

    # Objects of foreign classes

    def _fail(self, name: str, what: str) -> Never:
        raise damaged(self._file, f"{name} {what}")

    def _object(self, value: Inert, name: str, depth: int) -> _Part:
        if value.name in tables.CONFIG_DICTS or value.name in tables.CONFIG_LISTS:
            return self._config(value, name, depth)
        if value.name in tables.CONFIG_NODES:
            state = self._state(value, name)
            return self.convert(state.get("_val", state.get("_content")), name, depth + 1)
        if value.name in tables.RECORDS:
            part = self.convert(self._state(value, name), name, depth + 1)
            return _Part(Record(value.name, part.value), part.objects + 1, part.height + 1)
        if value.name in tables.NUMPY_SCALARS:
            return _Part(self._numpy_scalar(value, name))
        if value.name in tables.NUMPY_ARRAYS or value.name in tables.NUMPY_BUFFERS:
            return _Part(self._numpy_array(value, name))
        if value.name in tables.NUMPY_DTYPES:
            return _Part(self._numpy_type(value, name).str)
        # What omegaconf notes about a value, standing alone.
        return self.convert(Record(value.name, {}), name, depth + 1)

    def _state(self, value: Inert, name: str) -> dict[str, Any]:
        state = {} if value.state is None else value.state
        if type(state) is not dict or not all(type(key) is str for key in state):
            self._fail(name, f"has attributes that {value.name} cannot have")
        return state

    def _config(self, value: Inert, name: str, depth: int) -> _Part:
        content = self._state(value, name).get("_content")
        expected = dict if value.name in tables.CONFIG_DICTS else list
        if content is not None and type(content) not in (expected, str):
            self._fail(name, f"has a content that {value.name} cannot have")
        top = not self._in_config
        self._in_config = True
        part = self.convert(content, name, depth + 1)
        if top:
            self._in_config = False
            _resolve(part.value)
        return part

    def _numpy_type(self, value: object, name: str) -> np.dtype[Any]:
        match value:
            case Inert("numpy.dtype", (str(code), *_), state) if code in NUMPY_TYPES:
                order = state[1] if type(state) is tuple and len(state) > 1 else "="
                if order in ("<", ">", "|", "="):
                    return np.dtype(code).newbyteorder(order)
        raise FormatError(
            f"{self._file}: {name} is of a type of numpy that is not read: expected numbers."
        )

    def _numpy_scalar(self, value: Inert, name: str) -> int | float | bool:
        if len(value.args) != 2 or type(value.args[1]) is not bytes:
            self._fail(name, "is not described as a number of numpy")
        kind = self._numpy_type(value.args[0], name)
        if len(value.args[1]) != kind.itemsize:
            self._fail(name, "is not described as a number of numpy")
        return np.frombuffer(value.args[1], dtype=kind)[0].item()

    def _numpy_array(self, value: Inert, name: str) -> np.ndarray[Any, Any]:
        match (value.name in tables.NUMPY_BUFFERS, value.args, value.state):
            case (True, (bytes(data), kind, tuple(shape), order), _):
                fortran = order == "F"
            case (False, _, (_, tuple(shape), kind, fortran, bytes(data))):
                pass
            case _:
                self._fail(name, "is not described as an array of numpy")
        dtype = self._numpy_type(kind, name)
        count = 1
        for length in shape:
            if type(length) is not int or length < 0:
                self._fail(name, "is not described as an array of numpy")
            count *= length
        if len(shape) > 32 or count * dtype.itemsize != len(data):
            self._fail(name, "has another number of numbers than its shape says")
        return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _resolve(config: Any) -> None:
    """Replace references of a configuration by the values they name, in place."""
    seen: set[int] = set()
    waiting = [config]
    while waiting:
        node = waiting.pop()
        if type(node) not in (dict, list) or id(node) in seen:
            continue
        seen.add(id(node))
        for key, item in node.items() if type(node) is dict else enumerate(node):
            if type(item) is str:
                node[key] = _resolved(config, item)
            else:
                waiting.append(item)


def _resolved(config: Any, text: str) -> Any:
    """Follow a reference to a plain value; what is none, or leads nowhere, stays as it is."""
    value: Any = text
    for _ in range(MAX_HOPS):
        match = REFERENCE.fullmatch(value)
        if match is None:
            return value
        value = config
        for key in match[1].split("."):
            if type(value) is dict and key in value:
                value = value[key]
            elif type(value) is list and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                return text
        if type(value) is not str:
            return value if type(value) in ATOMS else text
    return text
