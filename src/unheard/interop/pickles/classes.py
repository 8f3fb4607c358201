"""Every class and function that a checkpoint may name, and what becomes of it.

The names are looked up in `tables` and in `CALLS` below, and nowhere else. Nothing is imported,
and what a "call" does is written here: it makes plain data, a tensor that has not been read, or an
inert object that keeps its arguments.
"""

import ntpath
import posixpath
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, Never

from unheard.errors import FormatError
from unheard.interop.pickles.budget import Budget
from unheard.interop.pickles.refusals import ADVICE, damaged, not_needed, whole_network
from unheard.interop.pickles.tables import (
    DICTS,
    DTYPES,
    INERT,
    REFUSED_TENSORS,
    SETS,
    STORAGES,
    TENSOR_CLASSES,
    TYPES,
)
from unheard.interop.pickles.values import Inert, Named, Refused, Storage, TensorHandle

MAX_DIMENSIONS = 64
"""Most dimensions of a tensor; torch has the same limit."""


def named(name: str, *, file: Path) -> Named:
    """Look up a class or function by its full name.

    Raises:
        FormatError: if it is not in the tables; nothing has been imported or run.
    """
    if name in KNOWN:
        return Named(name)
    shown = name if name.isascii() and name.isprintable() else ascii(name)
    if name == "torch.storage._load_from_bytes":
        raise FormatError(
            f"{file} has another pickle inside its pickle ({shown}), as copies of whole storages "
            f"have: it is not opened. Nothing of it was run. {ADVICE}"
        )
    if name.startswith(("torch.nn.", "torch.jit.")):
        raise whole_network(file, shown)
    raise FormatError(
        f"{file}: the pickle asks for {shown}, which is not among the classes of checkpoints "
        f"that are read here. Nothing of it was run. {ADVICE}"
    )


def call(name: str, args: tuple[Any, ...], *, file: Path, budget: Budget) -> Any:
    """Do what a class or function of the tables stands for.

    Raises:
        FormatError: if it is one that may be named and not called.
        CheckpointError: if its arguments make no sense.
    """
    budget.spend(96)
    if name in INERT:
        return Inert(name, args)
    if name in REFUSED_TENSORS:
        return Refused(*REFUSED_TENSORS[name])
    made = CALLS.get(name)
    if made is None:
        raise not_needed(file, f"calls {name}")
    return made(args, _Context(file, budget))


def items_of(args: tuple[Any, ...], *, file: Path) -> list[Any]:
    """Return the items that a set is made of."""
    if not args:
        return []
    if len(args) != 1 or type(args[0]) not in (list, tuple, set):
        _Context(file).fail("a set is made of what is not a list")
    return list(args[0])


def pairs_of(name: str, args: tuple[Any, ...], *, file: Path) -> list[Any]:
    """Return the keys and values that a dict is made of, one after the other."""
    if not args or (name == "collections.defaultdict" and len(args) == 1):
        return []
    (source,) = args if len(args) == 1 else (None,)
    if type(source) is dict:
        return list(chain.from_iterable(source.items()))
    if type(source) is not list or not all(
        type(pair) in (list, tuple) and len(pair) == 2 for pair in source
    ):
        _Context(file).fail("a dict is made of what is not pairs")
    return list(chain.from_iterable(source))


class _Context:
    """Where a call stands: the file for messages, and what it may still cost."""

    def __init__(self, file: Path, budget: Budget | None = None) -> None:
        self.file = file
        self.budget = budget

    def fail(self, what: str) -> Never:
        raise damaged(self.file, what)

    def spend(self, size: int) -> None:
        if self.budget is not None:
            self.budget.spend(size)


def _counts(value: object) -> tuple[int, ...] | None:
    """Return a tuple or list of integers as a tuple; None for anything else."""
    if type(value) not in (tuple, list):
        return None
    items = tuple(value)  # type: ignore[arg-type]
    if len(items) > MAX_DIMENSIONS or not all(type(item) is int for item in items):
        return None
    return items


def _tensor(args: tuple[Any, ...], context: _Context, kind: str | None, metadata: object) -> Any:
    """Make the handle of a strided tensor."""
    storage, offset = args[0], args[1]
    shape, strides = _counts(args[2]), _counts(args[3])
    if (
        not isinstance(storage, Storage)
        or type(offset) is not int
        or shape is None
        or strides is None
        or kind is None
    ):
        context.fail("a tensor of the pickle is not described as tensors are")
    if metadata:
        return Refused("a conjugated or negated view of a tensor", "Save its resolve_conj().")
    if kind.startswith("C"):
        return Refused("a tensor of complex numbers", "Save its real and imaginary parts.")
    if kind.startswith("Q"):
        return Refused("a quantized tensor", "Save its dequantize().")
    context.spend(32 + 16 * len(shape))
    return TensorHandle(
        name="", shape=shape, kind=kind, storage=storage, offset=offset, strides=strides
    )


def _tensor_v2(args: tuple[Any, ...], context: _Context) -> Any:
    if not 4 <= len(args) <= 7:
        context.fail("a tensor of the pickle is not described as tensors are")
    kind = args[0].kind if isinstance(args[0], Storage) else None
    return _tensor(args, context, kind, args[6] if len(args) > 6 else None)


def _tensor_v3(args: tuple[Any, ...], context: _Context) -> Any:
    if not 7 <= len(args) <= 8:
        context.fail("a tensor of the pickle is not described as tensors are")
    kind = DTYPES.get(args[6].name) if isinstance(args[6], Named) else None
    return _tensor(args, context, kind, args[7] if len(args) > 7 else None)


def _parameter(args: tuple[Any, ...], context: _Context) -> Any:
    if not args or not isinstance(args[0], TensorHandle | Refused):
        context.fail("a parameter of the pickle is no tensor")
    return args[0]


def _tensor_of_type(args: tuple[Any, ...], context: _Context) -> Any:
    if (
        len(args) != 4
        or not isinstance(args[0], Named)
        or not isinstance(args[1], Named)
        or type(args[2]) is not tuple
    ):
        context.fail("a tensor of the pickle is not described as tensors are")
    maker, kind, parts, _ = args
    if maker.name in REFUSED_TENSORS:
        return Refused(*REFUSED_TENSORS[maker.name])
    if maker.name not in REBUILDS or kind.name not in TENSOR_CLASSES:
        return Refused("a tensor of a class of its own", "Save plain tensors.")
    return REBUILDS[maker.name](parts, context)


def _size(args: tuple[Any, ...], context: _Context) -> Any:
    sizes = _counts(args[0]) if len(args) == 1 else None
    if sizes is None:
        context.fail("a size of the pickle is not a tuple of numbers")
    return sizes


def _device(args: tuple[Any, ...], context: _Context) -> Any:
    if not 1 <= len(args) <= 2 or type(args[0]) is not str:
        context.fail("a device of the pickle has no name")
    if len(args) == 1:
        return args[0]
    if type(args[1]) is not int:
        context.fail("a device of the pickle has no number")
    context.spend(len(args[0]) + 64)
    return f"{args[0]}:{args[1]}"


def _layout(args: tuple[Any, ...], context: _Context) -> Any:
    if len(args) != 1 or type(args[0]) is not str:
        context.fail("a layout of the pickle has no name")
    return args[0]


def _encoded(args: tuple[Any, ...], context: _Context) -> Any:
    """Bytes as protocol 2 writes them: a text of code points below 256."""
    if len(args) != 2 or type(args[0]) is not str or args[1] not in ("latin1", "latin-1"):
        context.fail("bytes of the pickle are not written as bytes are")
    context.spend(len(args[0]) + 64)
    try:
        return args[0].encode("latin-1")
    except UnicodeEncodeError:
        context.fail("bytes of the pickle are not written as bytes are")


def _empty_bytes(args: tuple[Any, ...], context: _Context) -> Any:
    if args:
        context.fail("bytes of the pickle are not written as bytes are")
    return b""


def _path(join: Callable[..., str]) -> Callable[[tuple[Any, ...], _Context], Any]:
    def joined(args: tuple[Any, ...], context: _Context) -> Any:
        if not all(type(part) is str for part in args):
            context.fail("a path of the pickle is not made of texts")
        context.spend(4 * sum(len(part) + 1 for part in args) + 64)
        return join(*args) if args else "."

    return joined


def _subscripted(args: tuple[Any, ...], context: _Context) -> Any:
    """A type with parameters, such as Dict[str, int]: only its first name is kept."""
    if len(args) != 2 or not isinstance(args[0], Named) or not args[0].name.startswith("typing."):
        context.fail("the pickle looks something up that is not a type")
    return args[0]


REBUILDS: dict[str, Callable[[tuple[Any, ...], _Context], Any]] = {
    "torch._utils._rebuild_tensor": _tensor_v2,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
"""Functions that make tensors from storages -> what we do instead."""

CALLS: dict[str, Callable[[tuple[Any, ...], _Context], Any]] = {
    **REBUILDS,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_type,
    "torch.Size": _size,
    "torch.device": _device,
    "torch.serialization._get_layout": _layout,
    "_codecs.encode": _encoded,
    "__builtin__.bytes": _empty_bytes,
    "builtins.bytes": _empty_bytes,
    "_operator.getitem": _subscripted,
    "operator.getitem": _subscripted,
    **{
        f"{module}.{name}": _path(join)
        for module in ("pathlib", "pathlib._local")
        for name, join in (
            ("Path", posixpath.join),
            ("PosixPath", posixpath.join),
            ("PurePath", posixpath.join),
            ("PurePosixPath", posixpath.join),
            ("PureWindowsPath", ntpath.join),
            ("WindowsPath", ntpath.join),
        )
    },
}
"""Functions and classes that are called -> what we do instead."""

KNOWN = frozenset(
    chain(STORAGES, DTYPES, DICTS, SETS, TENSOR_CLASSES, TYPES, INERT, REFUSED_TENSORS, CALLS)
)
"""Every name that a pickle may ask for."""
