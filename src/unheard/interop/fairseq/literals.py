"""Options that fairseq keeps as Python source, read without evaluating anything.

fairseq hands these strings to `eval` (models/wav2vec/wav2vec2.py @ 3d262bb, `conv_feature_layers`).
Here only their literals are looked at, and the sums and repetitions of lists that occur in them.
"""

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from unheard.errors import ConfigError

_LONGEST = 2000
"""Longest option that is looked at [characters]."""

_MOST_ITEMS = 100
"""Most items that a list may have, repetitions included."""


def read_triples(value: Any, *, what: str) -> tuple[tuple[int, int, int], ...]:
    """Read a list of three whole numbers each, such as "[(512, 10, 5)] + [(512, 3, 2)] * 4".

    Args:
        value: the source text, or the list itself.
        what: name of the option, for messages.

    Raises:
        ConfigError: if it is anything else, or longer than any network.
    """
    items = _read(value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple) or not 0 < len(items) <= _MOST_ITEMS:
        raise _wrong(what, value)
    triples: list[tuple[int, int, int]] = []
    for item in items:
        if not _are_numbers(item, (int,)) or len(item) != 3:
            raise _wrong(what, value)
        triples.append((item[0], item[1], item[2]))
    return tuple(triples)


def read_numbers(value: Any, *, count: int, what: str) -> tuple[float, ...]:
    """Read some numbers, such as "(2.0, 0.5, 0.999995)" or the tuple itself.

    Raises:
        ConfigError: if it is anything else.
    """
    items = _read(value) if isinstance(value, str) else value
    if not _are_numbers(items, (int, float)) or len(items) != count:
        raise ConfigError(f"{what} is not valid: expected {count} numbers, found {_show(value)}.")
    return tuple(float(item) for item in items)


def write_triples(triples: Iterable[Sequence[int]]) -> str:
    """Write triples as fairseq's own files have them."""
    return "[" + ", ".join(f"({', '.join(map(str, triple))})" for triple in triples) + "]"


def _read(text: str) -> Any:
    """Compute a text of numbers, tuples, lists, sums and repetitions of lists; None if it is not.

    The text is parsed, as `ast.literal_eval` does, and never run.
    """
    if len(text) > _LONGEST:
        return None
    try:
        return _evaluate(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _evaluate(node: ast.expr) -> Any:
    """Compute an expression.

    Raises:
        ValueError: if it has anything else in it, or grows too long.
    """
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.Tuple):
        return tuple(_evaluate(item) for item in node.elts)
    if isinstance(node, ast.List):
        return [_evaluate(item) for item in node.elts]
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left), _evaluate(node.right)
        if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
            _check_length(len(left) + len(right))
            return [*left, *right]
        if isinstance(node.op, ast.Mult):
            items, times = (right, left) if isinstance(right, list) else (left, right)
            if isinstance(items, list) and type(times) is int:
                _check_length(len(items) * times)
                return items * times
    raise ValueError(type(node).__name__)


def _check_length(length: int) -> None:
    """Refuse a list before it grows too long.

    Raises:
        ValueError: if it would.
    """
    if not 0 <= length <= _MOST_ITEMS:
        raise ValueError(length)


def _are_numbers(items: Any, kinds: tuple[type, ...]) -> bool:
    """Whether something is a list or tuple of numbers (true and false are none)."""
    return isinstance(items, list | tuple) and all(type(item) in kinds for item in items)


def _show(value: object) -> str:
    """Show the beginning of a value."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _wrong(what: str, value: object) -> ConfigError:
    """Say what was expected."""
    return ConfigError(
        f"{what} is not valid: expected a list of (channels, kernel, stride), sums and repetitions "
        f"of such lists allowed, found {_show(value)}."
    )
