"""Command-line options read from a function's signature."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from unheard.arguments import command_type, parse, plain
from unheard.errors import ConfigError


class Loaded:
    """Something no command line can give."""


def verb(
    model: Loaded | str | Path,
    paths: Sequence[str | Path],
    *,
    out: Path | None = None,
    minutes: float | None = None,
    recipe: Literal["nano", "mini"] = "mini",
    scratch: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Do one thing to some files.

    And say more about it.

    Args:
        model: a folder.
        paths: files.
        out: where results go.
        minutes: how long it may take.
        recipe: the size.
        scratch: begin from nothing.
        progress: called with a count.

    Returns:
        Nothing a terminal shows.

    Raises:
        ConfigError: sometimes.
    """


def test_arguments_arrive_as_the_function_wants_them() -> None:
    call = parse(verb, ["m", "a", "b", "--out", "o", "--minutes", "2", "--json"], program="x")
    assert call.positional == ("m", ("a", "b"))
    assert call.named == {"out": Path("o"), "minutes": 2.0, "recipe": "mini", "scratch": False}
    assert call.json
    verb(*call.positional, **call.named)


def test_a_number_or_a_path_is_a_number_where_it_can_be() -> None:
    def split(*, test: str | Path | float = 0.1) -> None:
        """Split.

        Args:
            test: a share, or
                a folder.
        """

    assert parse(split, ["--test", "0.3"], program="x").named == {"test": 0.3}
    assert parse(split, ["--test", "a/b"], program="x").named == {"test": "a/b"}
    assert parse(split, [], program="x").named == {"test": 0.1}


def test_help_is_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(verb, ["--help"], program="unheard verb")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    for expected in ("Do one thing", "And say more", "where results go", "--minutes", "--json"):
        assert expected in shown
    for hidden in ("Raises", "Nothing a terminal shows", "progress", "None|"):
        assert hidden not in shown


@pytest.mark.parametrize(
    "words", [[], ["m"], ["m", "a", "--recipe", "huge"], ["m", "a", "--oot", "b"]]
)
def test_wrong_usage_ends_with_two(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(verb, words, program="unheard verb")
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "unheard verb --help" in shown.err


def test_a_parameter_that_nobody_can_give_is_an_error() -> None:
    def needs_an_object(model: Loaded) -> None:
        """Do it."""

    with pytest.raises(ConfigError, match="parameter model has no form on a command line"):
        parse(needs_an_object, [], program="x")


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, int),
        (Loaded, None),
        (Callable[[int], None], None),
        (str | Path, str),
        (Loaded | str, str),
        (str | Path | float | None, float | str | None),
        (str | Path | Sequence[str | Path], tuple[str, ...]),
        (tuple[int, int], tuple[int, int]),
        (list[str] | None, tuple[str, ...] | None),
        (int | Literal["auto"], int | Literal["auto"]),
    ],
)
def test_annotations_reduce_to_what_can_be_typed(annotation: Any, expected: Any) -> None:
    assert command_type(annotation) == expected


@dataclass
class Inner:
    rate: float
    path: Path

    def to_dict(self) -> dict[str, Any]:
        return {"rate": self.rate, "made": "by itself"}


@dataclass
class Outer:
    inner: Inner
    items: tuple[Path, ...]
    table: dict[int, float]


def test_results_become_json() -> None:
    value = plain(
        Outer(inner=Inner(0.5, Path("a")), items=(Path("b"),), table={1: float("nan"), 2: 1.0})
    )
    assert json.loads(json.dumps(value)) == {
        "inner": {"rate": 0.5, "made": "by itself"},
        "items": ["b"],
        "table": {"1": None, "2": 1.0},
    }
