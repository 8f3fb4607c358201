"""What our reading of a pickle makes: names, storages, tensors not yet read, inert objects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Named:
    """A class or function that a pickle names. Only the name: nothing is imported."""

    name: str


@dataclass(slots=True, eq=False)
class Inert:
    """An object of a foreign class: what it was made of, and the state it was given."""

    name: str
    args: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Refused:
    """Something that stands where a tensor should and is none that we read."""

    what: str
    """Such as "a sparse tensor"."""

    remedy: str
    """What whoever made the file can do."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of numbers in the file that tensors are views of.

    Attributes:
        key: name of the storage in the file.
        kind: type of its numbers as safetensors spells it; None for plain bytes.
        first_byte: where this storage starts in the one that `key` names (old files have views
            of storages).
        size_bytes: how many bytes of it may be used.
    """

    key: str
    kind: str | None
    first_byte: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TensorHandle:
    """A tensor that is in the file and has not been read.

    Attributes:
        name: keys on the way to the tensor from the top of the file, joined by dots; the first
            way, if it is in several places.
        shape: its shape.
        kind: type of its numbers, as safetensors spells it.
        storage: the numbers it is a view of.
        offset: its first number, counted in numbers from the start of the storage.
        strides: steps between neighbours of each dimension, counted in numbers.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    storage: Storage
    offset: int
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """An object of a class that we know by name only, as plain data.

    Attributes:
        class_name: module and class, such as "argparse.Namespace".
        state: its attributes.
    """

    class_name: str
    state: Mapping[str, Any]
