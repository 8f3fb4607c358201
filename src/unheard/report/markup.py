"""HTML and SVG made of Python calls, escaped unless it was made here.

Text from recordings, transcripts and file names is hostile until proven otherwise. `tag` escapes
every child and attribute that is not already `Html`, so forgetting to escape shows as doubled
entities on the page and never as an injection.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import TypeAlias

_VOID = frozenset({"br", "hr", "link", "meta"})
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")
_LANGUAGE = re.compile(r"[A-Za-z]{2,8}(-[A-Za-z0-9]{1,8})*")
_INKLESS = {" ": "space", "\u200c": "non-joiner", "\u200d": "joiner"}
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff"
    "\ud800-\udfff]"
)


class Html(str):
    """Markup that is safe to put on the page as it is."""

    __slots__ = ()


Content: TypeAlias = Html | str | None


def escape(text: str) -> Html:
    """Escape text for an element or a quoted attribute, and make unseen characters visible.

    Control characters, direction overrides and halves of surrogate pairs would change how the rest
    of the line reads, or could not be written as UTF-8: they become their code point in brackets.
    """
    shown = _UNSEEN.sub(lambda match: f"⟦U+{ord(match[0]):04X}⟧", text)
    return Html(html.escape(shown, quote=True))


def join(parts: Iterable[Content]) -> Html:
    """Put parts one after the other, escaping those that are plain text."""
    return Html("".join(p if isinstance(p, Html) else escape(p) for p in parts if p is not None))


def tag(name: str, *children: Content, at: Mapping[str, str | float | None] | None = None) -> Html:
    """Make one element.

    Args:
        name: element name.
        children: text (escaped here), `Html`, or None for nothing.
        at: attributes; None leaves one out, an empty string makes it a bare attribute.
    """
    attributes = ""
    for key, value in (at or {}).items():
        if value is None:
            continue
        if not _NAME.fullmatch(key):
            raise ValueError(f"{key!r} is not an attribute name.")
        plain = value if isinstance(value, str) else f"{value:g}"
        attributes += f" {key}" if plain == "" else f' {key}="{escape(plain)}"'
    if name in _VOID:
        return Html(f"<{name}{attributes}>")
    return Html(f"<{name}{attributes}>{join(children)}</{name}>")


def speech(*children: Content, language: str | None = None) -> Html:
    """Isolate text of the recordings' language: its own direction, its own language tag."""
    tagged = language if language is not None and _LANGUAGE.fullmatch(language) else None
    return tag("bdi", *children, at={"dir": "auto", "lang": tagged, "class": "speech"})


def quiet(text: str) -> Html:
    """Make a paragraph of side remark, such as that a part is missing and why."""
    return tag("p", text, at={"class": "quiet"})


def letter(letter: str, *, language: str | None = None) -> Html:
    """Write one character so that it can be seen; what has no ink is named."""
    if len(letter) == 1 and unicodedata.category(letter) in ("Zs", "Cf"):
        name = _INKLESS.get(letter) or unicodedata.name(letter, code_points(letter)).lower()
        return tag("span", name, at={"class": "letter named"})
    # A mark that combines needs something to stand on.
    carrier = "◌" if unicodedata.category(letter[0])[0] == "M" else ""
    return tag("span", speech(carrier + letter, language=language), at={"class": "letter"})


def code_points(symbol: str) -> str:
    """Write the code points of a symbol."""
    return " ".join(f"U+{ord(character):04X}" for character in symbol)


def table(
    head: Iterable[Content],
    rows: Iterable[Iterable[Content]],
    *,
    numeric: Iterable[int] = (),
    caption: str | None = None,
) -> Html:
    """Make a table that scrolls sideways by itself where the screen is narrow.

    Args:
        head: column titles.
        rows: cells.
        numeric: indices of the columns that hold numbers.
        caption: sentence above the table.
    """
    right = frozenset(numeric)

    def cells(name: str, row: Iterable[Content]) -> Html:
        return join(
            tag(
                name,
                cell,
                at={
                    "class": "number" if column in right else None,
                    "scope": "col" if name == "th" else None,
                },
            )
            for column, cell in enumerate(row)
        )

    body = join(tag("tr", cells("td", row)) for row in rows)
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption) if caption else None,
            tag("thead", tag("tr", cells("th", head))),
            tag("tbody", body),
        ),
        at={"class": "scroll"},
    )
