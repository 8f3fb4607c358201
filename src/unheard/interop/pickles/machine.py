"""A reader of pickles that makes plain data, imports nothing and calls nothing."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Never

from unheard.errors import CheckpointError, FormatError
from unheard.interop.pickles import classes, tables
from unheard.interop.pickles.budget import STEP_BYTES, Budget
from unheard.interop.pickles.refusals import damaged, not_needed
from unheard.interop.pickles.values import Inert, Named, Storage

LONGEST_NAME = 256
"""Longest name of a class or module [bytes]."""

ODD_KEYS = 20_000
"""Most keys of dicts, over a whole file, that are not texts. Texts are hashed with a secret;
other keys can be chosen so that a dict of them takes forever."""

LARGEST_KEY = (1 << 61) - 2
"""Largest number that is a key: up to here, two numbers have two hashes."""

Persistent = Callable[[object], Storage]
"""Turns what a pickle says of a storage outside of it into a storage."""


class Machine:
    """Runs one pickle after another from one file.

    A pickle is a program for a machine with a stack. This machine knows the steps that plain data
    and tensors need and refuses all others by name. Classes and functions are names in a table
    (`classes`); "calling" one runs a few lines of ours, or makes an inert object.

    Source: the pickle protocols 2 to 5 as the standard library's pickletools describes them.
    """

    def __init__(
        self, source: BinaryIO, *, file: Path, budget: Budget, persistent: Persistent
    ) -> None:
        self._source = source
        self._file = file
        self._budget = budget
        self._persistent = persistent
        self._odd_keys = 0
        self._stack: list[Any] = []
        self._outer: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run one pickle and return the value it leaves.

        Raises:
            FormatError: if it needs a class, function or step that is not read here.
            CheckpointError: if it is cut short, damaged, or asks for too much.
        """
        self._stack, self._outer, self._memo = [], [], {}
        while True:
            code = self._source.read(1)
            if not code:
                self._fail("the pickle is cut short")
            if code == b".":
                break
            self._budget.spend(STEP_BYTES)
            step = STEPS.get(code[0])
            if step is None:
                self._refuse_step(code[0])
            step(self)
        value = self._pop()
        if self._stack or self._outer:
            self._fail("the pickle leaves more than one value")
        return value

    # Reading

    def _fail(self, what: str) -> Never:
        raise damaged(self._file, what)

    def _refuse_step(self, code: int) -> Never:
        name = REFUSED_STEPS.get(code)
        if name is None:
            self._fail(f"the pickle has an unknown step, 0x{code:02x}")
        raise not_needed(self._file, f"uses the step {name}")

    def _read(self, size: int) -> bytes:
        if size > 64:
            self._budget.spend(size)
        data = self._source.read(size)
        if len(data) != size:
            self._fail("the pickle is cut short")
        return data

    def _number(self, layout: struct.Struct) -> Any:
        return layout.unpack(self._read(layout.size))[0]

    def _decoded(self, data: bytes) -> str:
        # One character beyond the first 65,536 makes every character of a text take four bytes.
        self._budget.spend(64 + len(data) * (1 if data.isascii() else 4))
        try:
            return data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self._fail("a text of the pickle is not UTF-8")

    def _line(self) -> str:
        line = self._source.readline(LONGEST_NAME + 1)
        if not line.endswith(b"\n"):
            self._fail("a class of the pickle has no proper name")
        return self._decoded(line[:-1])

    # The stack

    def _pop(self) -> Any:
        if not self._stack:
            self._fail("the pickle takes more from its stack than it put there")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            self._fail("the pickle takes more from its stack than it put there")
        return self._stack[-1]

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _since_mark(self) -> list[Any]:
        if not self._outer:
            self._fail("the pickle has no mark where it needs one")
        items = self._stack
        self._stack = self._outer.pop()
        return items

    def _remember(self, index: int) -> None:
        self._budget.spend(96)
        self._memo[index] = self._top()

    def _recall(self, index: int) -> None:
        if index not in self._memo:
            self._fail("the pickle recalls what it never kept")
        self._push(self._memo[index])

    # Steps

    def _protocol(self) -> None:
        protocol = self._read(1)[0]
        if protocol > 5:
            raise FormatError(
                f"{self._file} is a pickle of protocol {protocol}: expected 2 to 5. It may be "
                "newer than this version of unheard."
            )

    def _frame(self) -> None:
        self._read(8)

    def _mark(self) -> None:
        self._budget.spend(96)
        self._outer.append(self._stack)
        self._stack = []

    def _drop(self) -> None:
        self._pop()

    def _drop_mark(self) -> None:
        self._since_mark()

    def _long1(self) -> None:
        self._push(int.from_bytes(self._read(self._read(1)[0]), "little", signed=True))

    def _text8(self) -> None:
        self._push(self._decoded(self._read(self._read(1)[0])))

    def _text32(self) -> None:
        self._push(self._decoded(self._read(self._number(UINT32))))

    def _text64(self) -> None:
        self._push(self._decoded(self._read(self._number(UINT64))))

    def _bytes8(self) -> None:
        self._push(self._read(self._read(1)[0]))

    def _bytes32(self) -> None:
        self._push(self._read(self._number(UINT32)))

    def _bytes64(self) -> None:
        self._push(self._read(self._number(UINT64)))

    def _old_text(self, data: bytes) -> None:
        # A "str" of Python 2: usually text, sometimes the bytes of numbers.
        try:
            text = data.decode("ascii")
        except UnicodeDecodeError:
            self._push(data)
        else:
            self._budget.spend(64 + len(data))
            self._push(text)

    def _old_text8(self) -> None:
        self._old_text(self._read(self._read(1)[0]))

    def _old_text32(self) -> None:
        size = self._number(INT32)
        if size < 0:
            self._fail("a text of the pickle has a negative length")
        self._old_text(self._read(size))

    def _tuple_of(self, size: int) -> None:
        if len(self._stack) < size:
            self._fail("the pickle takes more from its stack than it put there")
        self._budget.spend(56 + 8 * size)
        items = tuple(self._stack[-size:]) if size else ()
        if size:
            del self._stack[-size:]
        self._push(items)

    def _tuple(self) -> None:
        items = self._since_mark()
        self._budget.spend(56 + 8 * len(items))
        self._push(tuple(items))

    def _new_list(self) -> None:
        self._budget.spend(120)
        self._push([])

    def _append(self) -> None:
        value = self._pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if type(target) is not list:
            self._fail("the pickle appends to what is not a list")
        self._budget.spend(16 * len(values))
        target.extend(values)

    def _new_dict(self) -> None:
        self._budget.spend(64)
        self._push({})

    def _set_item(self) -> None:
        value, key = self._pop(), self._pop()
        self._update([key, value])

    def _set_items(self) -> None:
        self._update(self._since_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(flat) % 2:
            self._fail("the pickle puts keys into what is not a dict")
        self._budget.spend(56 * len(flat) + (0 if target else 168))
        for key in flat[::2]:
            self._check_key(key)
        target.update(zip(flat[::2], flat[1::2], strict=True))

    def _check_key(self, key: object) -> None:
        if type(key) is str:
            return
        self._odd_keys += 1
        if self._odd_keys > ODD_KEYS:
            raise CheckpointError(
                f"{self._file} has more than {ODD_KEYS} keys that are not texts: no checkpoint "
                "of weights needs them."
            )
        parts = key if type(key) is tuple else (key,)
        self._budget.spend(8 * len(parts))
        for part in parts:
            if type(part) not in ATOMS or (type(part) is int and abs(part) > LARGEST_KEY):
                raise FormatError(
                    f"{self._file}: a key of a dict in the pickle is a {type(key).__name__} "
                    "that is not read: expected texts, or numbers of up to 60 bits."
                )

    def _new_set(self) -> None:
        self._budget.spend(216)
        self._push(set())

    def _add_items(self) -> None:
        items = self._since_mark()
        self._add_to_set(self._top(), items)

    def _add_to_set(self, target: object, items: list[Any]) -> None:
        if type(target) is not set:
            self._fail("the pickle adds to what is not a set")
        self._budget.spend(64 * len(items))
        for item in items:
            self._check_key(item)
        target.update(items)

    def _frozen_set(self) -> None:
        items = self._since_mark()
        made: set[Any] = set()
        self._budget.spend(216)
        self._add_to_set(made, items)
        self._push(made)

    def _global(self) -> None:
        module = self._line()
        self._name(module, self._line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            self._fail("a class of the pickle has no proper name")
        if max(len(name), len(module)) > LONGEST_NAME:
            self._fail("a class of the pickle has no proper name")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        self._budget.spend(LONGEST_NAME)
        self._push(classes.named(f"{module}.{name}", file=self._file))

    def _reduce(self) -> None:
        args, target = self._pop(), self._pop()
        self._push(self._call(target, args))

    def _new_object(self) -> None:
        args, target = self._pop(), self._pop()
        self._push(self._call(target, args))

    def _new_object_with_names(self) -> None:
        names, args, target = self._pop(), self._pop(), self._pop()
        if names != {}:
            self._fail("the pickle makes an object with named arguments")
        self._push(self._call(target, args))

    def _call(self, target: object, args: object) -> Any:
        if not isinstance(target, Named) or type(args) is not tuple:
            self._fail("the pickle calls what is not a function")
        if target.name in tables.SETS:
            self._budget.spend(216)
            made: set[Any] = set()
            self._add_to_set(made, classes.items_of(args, file=self._file))
            return made
        if target.name in tables.DICTS:
            pairs = classes.pairs_of(target.name, args, file=self._file)
            self._new_dict()
            self._update(pairs)
            return self._pop()
        return classes.call(target.name, args, file=self._file, budget=self._budget)

    def _build(self) -> None:
        state, target = self._pop(), self._top()
        if isinstance(target, Inert):
            target.state = state
        elif type(target) is not dict:
            self._fail("the pickle gives attributes to what has none")
        # Attributes of a dict, such as the "_metadata" of a state dict, say nothing of weights.

    def _persistent_id(self) -> None:
        self._budget.spend(96)
        self._push(self._persistent(self._pop()))


UINT16 = struct.Struct("<H")
INT32 = struct.Struct("<i")
UINT32 = struct.Struct("<I")
UINT64 = struct.Struct("<Q")
FLOAT64 = struct.Struct(">d")
ATOMS = frozenset({str, int, float, bool, bytes, type(None)})
"""Types that a key of a dict may have, or the parts of a tuple that is a key."""

STEPS: dict[int, Callable[[Machine], None]] = {
    0x80: Machine._protocol,
    0x95: Machine._frame,
    ord("("): Machine._mark,
    ord("0"): Machine._drop,
    ord("1"): Machine._drop_mark,
    ord("N"): lambda machine: machine._push(None),
    0x88: lambda machine: machine._push(True),
    0x89: lambda machine: machine._push(False),
    ord("J"): lambda machine: machine._push(machine._number(INT32)),
    ord("K"): lambda machine: machine._push(machine._read(1)[0]),
    ord("M"): lambda machine: machine._push(machine._number(UINT16)),
    0x8A: Machine._long1,
    ord("G"): lambda machine: machine._push(machine._number(FLOAT64)),
    0x8C: Machine._text8,
    ord("X"): Machine._text32,
    0x8D: Machine._text64,
    ord("C"): Machine._bytes8,
    ord("B"): Machine._bytes32,
    0x8E: Machine._bytes64,
    0x96: Machine._bytes64,
    ord("U"): Machine._old_text8,
    ord("T"): Machine._old_text32,
    ord(")"): lambda machine: machine._tuple_of(0),
    0x85: lambda machine: machine._tuple_of(1),
    0x86: lambda machine: machine._tuple_of(2),
    0x87: lambda machine: machine._tuple_of(3),
    ord("t"): Machine._tuple,
    ord("]"): Machine._new_list,
    ord("a"): Machine._append,
    ord("e"): Machine._appends,
    ord("}"): Machine._new_dict,
    ord("s"): Machine._set_item,
    ord("u"): Machine._set_items,
    0x8F: Machine._new_set,
    0x90: Machine._add_items,
    0x91: Machine._frozen_set,
    ord("c"): Machine._global,
    0x93: Machine._stack_global,
    ord("R"): Machine._reduce,
    0x81: Machine._new_object,
    0x92: Machine._new_object_with_names,
    ord("b"): Machine._build,
    ord("Q"): Machine._persistent_id,
    ord("q"): lambda machine: machine._remember(machine._read(1)[0]),
    ord("r"): lambda machine: machine._remember(machine._number(UINT32)),
    0x94: lambda machine: machine._remember(len(machine._memo)),
    ord("h"): lambda machine: machine._recall(machine._read(1)[0]),
    ord("j"): lambda machine: machine._recall(machine._number(UINT32)),
}
"""The steps that are taken, by their codes."""

REFUSED_STEPS = {
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x8B: "LONG4 (a number of more than 255 bytes)",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
    ord("2"): "DUP",
    ord("d"): "DICT",
    ord("F"): "FLOAT",
    ord("g"): "GET",
    ord("i"): "INST",
    ord("I"): "INT",
    ord("l"): "LIST",
    ord("L"): "LONG",
    ord("o"): "OBJ",
    ord("p"): "PUT",
    ord("P"): "PERSID",
    ord("S"): "STRING",
    ord("V"): "UNICODE",
}
"""Steps that exist and that no torch version writes, by their codes."""
