"""A function's signature as command-line options.

Parameters that can be given by position become positional arguments, keyword-only ones become
options, and the docstring becomes the help. Parameters that have no form on a command line (a
loaded model, a callback) are left at their defaults.
"""

import dataclasses
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tyro

from unheard.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What a command line asks of a function.

    Attributes:
        positional: arguments given by position.
        named: arguments given by name.
        json: whether the result shall be printed as JSON.
    """

    positional: tuple[Any, ...]
    named: dict[str, Any]
    json: bool


def parse(
    function: Callable[..., Any], arguments: Sequence[str], *, program: str, with_json: bool = True
) -> Call:
    """Read the arguments of `function` from a command line.

    Args:
        function: its annotations and Google docstring are the options and the help.
        arguments: the words after the verb.
        program: what the help calls the command.
        with_json: add a --json switch.

    Returns:
        The call to make.

    Raises:
        SystemExit: code 0 after --help, code 2 with a message on stderr when the arguments do
            not fit.
    """
    parameters = _command_parameters(function)
    if with_json:
        parameters.append(
            inspect.Parameter(
                "json",
                inspect.Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, tyro.conf.arg(help_behavior_hint="")],
            )
        )

    def collect(*positional: Any, **named: Any) -> Call:
        json = named.pop("json", False)
        return Call(positional=positional, named=named, json=json)

    # tyro reads a function through these three attributes.
    collect.__doc__ = _command_docstring(function, with_json=with_json)
    collect.__annotations__ = {p.name: p.annotation for p in parameters}
    collect.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    call = tyro.cli(
        collect,
        prog=program,
        args=list(arguments),
        config=(
            tyro.conf.DisallowNone,
            tyro.conf.FlagCreatePairsOff,
            tyro.conf.HelptextFromCommentsOff,
            tyro.conf.PositionalMetavarFromFieldName,
        ),
    )
    for parameter, value in zip(parameters, call.positional, strict=False):
        if value == ():
            print(
                f"{program}: expected at least one of {parameter.name}, found none. "
                f"For the options, run {program} --help",
                file=sys.stderr,
            )
            raise SystemExit(2)
    return call


def _command_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that have a form on a command line, in tyro's terms."""
    hints = typing.get_type_hints(function)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        kind = command_type(hints.get(parameter.name, Any))
        by_position = parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if kind is None:
            if parameter.default is inspect.Parameter.empty:
                raise ConfigError(
                    f"{function.__name__}: parameter {parameter.name} has no form on a command "
                    f"line: {parameter.annotation}."
                )
            continue
        if by_position and parameter.default is not inspect.Parameter.empty:
            # An optional positional argument would swallow the words that follow options.
            parameter = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        elif by_position:
            parameter = parameter.replace(kind=inspect.Parameter.POSITIONAL_ONLY)
        details = tyro.conf.arg(
            help_behavior_hint=_hint(parameter, kind),
            metavar=_metavar(parameter, kind, hints[parameter.name]),
        )
        annotation = Annotated[kind, details]
        if _takes_mapping(hints[parameter.name]):
            annotation = Annotated[annotation, tyro.conf.UseAppendAction]
        parameters.append(parameter.replace(annotation=annotation))
    return sorted(parameters, key=lambda parameter: parameter.kind)


def _metavar(parameter: inspect.Parameter, kind: Any, annotation: Any) -> str | None:
    """Name what is to be typed, where tyro's own name would mislead."""
    if _takes_mapping(annotation):
        return "NAME=VALUE"
    if parameter.kind is inspect.Parameter.POSITIONAL_ONLY:
        return f"{parameter.name.upper()} ..." if get_origin(kind) is tuple else None
    if "Path" not in str(annotation):
        return None
    alternatives = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    numeric = {int, float} & set(alternatives)
    listed = any(get_origin(alternative) is tuple for alternative in alternatives)
    return "NUMBER|PATH" if numeric else "PATH ..." if listed else "PATH"


def _takes_mapping(annotation: Any) -> bool:
    """Whether a parameter is names with values: each then has an option of its own."""
    return any(get_origin(one) is Mapping for one in (annotation, *get_args(annotation)))


def _hint(parameter: inspect.Parameter, kind: Any) -> str:
    """Say in the help what happens when an argument is left out."""
    if parameter.default is inspect.Parameter.empty:
        return "(required)"
    if parameter.default is None or parameter.default is False or parameter.default == ():
        return ""
    if kind is bool:
        return "(default: yes; this turns it off)"
    return f"(default: {parameter.default})"


def command_type(annotation: Any) -> Any:
    """Reduce an annotation to what can be typed on a command line; None when nothing can.

    Of a union that takes text or a path, the text is kept; of one that takes an item or a list
    of items, the list; classes without a written form are dropped.
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Union or origin is types.UnionType:
        return _command_union(arguments)
    if origin in (Sequence, Iterable, list, tuple):
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            items = tuple(command_type(argument) for argument in arguments)
            return tuple[items] if all(items) else None  # pyright: ignore[reportInvalidTypeArguments]
        item = command_type(arguments[0]) if arguments else None
        return None if item is None else tuple[item, ...]
    if origin is Literal or annotation in (str, int, float, bool, Path):
        return annotation
    return None


def _command_union(alternatives: tuple[Any, ...]) -> Any:
    """Choose among the alternatives of a union."""
    kept = [command_type(alternative) for alternative in alternatives]
    kept = [kind for kind in kept if kind is not None]
    if not kept:
        return None
    lists = [kind for kind in kept if get_origin(kind) is tuple]
    if lists:
        chosen = lists[0]
    else:
        if str in kept:
            # Text as it was typed, and tried last: a path would rewrite the name of a model on a
            # hub, and everything is text.
            kept = [kind for kind in kept if kind not in (str, Path)] + [str]
        chosen = Union[tuple(kept)]  # noqa: UP007 - built at run time
    return Union[chosen, None] if type(None) in alternatives else chosen  # noqa: UP007


def _command_docstring(function: Callable[..., Any], *, with_json: bool) -> str:
    """Keep of a docstring what a person at a terminal needs: the text and the arguments."""
    text = inspect.getdoc(function) or ""
    for section in ("Returns:", "Raises:", "Yields:", "Source:", "Example:", "Shape:"):
        start = text.find(f"\n{section}")
        if start >= 0:
            end = text.find("\n\n", start)
            following = text.find("\n\nArgs:", start)
            text = text[:start] + (text[end:] if end >= 0 and end <= following else "")
    text = _unwrap_arguments(text.rstrip())
    if with_json:
        if "\nArgs:" not in text:
            text += "\n\nArgs:"
        text += "\n    json: print the result as JSON on standard output."
    return text


def _unwrap_arguments(text: str) -> str:
    """Put each argument's description on one line, for the terminal to wrap."""
    before, found, arguments = text.partition("\nArgs:\n")
    lines: list[str] = []
    for line in arguments.splitlines():
        if line.startswith("     ") and lines:
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return before + found + "\n".join(lines)


def plain(value: Any) -> Any:
    """Turn a result into data that JSON has a form for.

    Objects with a `to_dict` say themselves what they are; numbers that are not finite become
    null.
    """
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
