"""Reference and hypothesis side by side: letters confused, lost or made up."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from rapidfuzz.distance import Levenshtein

from unheard.report.markup import Html, join, tag

_JOINERS = frozenset("\u200c\u200d")


class Edit(NamedTuple):
    """A stretch of an alignment; what an insertion replaces, and what a deletion puts, is empty.

    `kind` is "equal", "replace", "delete" or "insert".
    """

    kind: str
    reference: tuple[str, ...]
    hypothesis: tuple[str, ...]


class Confusion(NamedTuple):
    """One mistake and how often it was made; an empty side is a deletion or an insertion."""

    reference: str
    hypothesis: str
    times: int


def clusters(text: str) -> list[str]:
    """Cut text into what a reader sees as one letter: a base with its combining marks.

    Joiners stay with the letter before them. Enough for marking and counting; it is not the full
    segmentation of Unicode annex 29.
    """
    cut: list[str] = []
    for character in text:
        joins = unicodedata.category(character)[0] == "M" or character in _JOINERS
        if joins and cut:
            cut[-1] += character
        else:
            cut.append(character)
    return cut


def align(reference: str, hypothesis: str) -> list[Edit]:
    """Align two texts with the fewest edits of letters.

    Returns:
        Stretches in order; the sides of a "replace" have the same number of letters.
    """
    left, right = clusters(reference), clusters(hypothesis)
    return [
        Edit(
            op.tag,
            tuple(left[op.src_start : op.src_end]),
            tuple(right[op.dest_start : op.dest_end]),
        )
        for op in Levenshtein.opcodes(left, right)
    ]


def count_confusions(pairs: Iterable[tuple[str, str]]) -> list[Confusion]:
    """Count every mistake over pairs of reference and hypothesis, the most frequent first."""
    counts: Counter[tuple[str, str]] = Counter()
    for reference, hypothesis in pairs:
        for edit in align(reference, hypothesis):
            if edit.kind == "replace":
                counts.update(zip(edit.reference, edit.hypothesis, strict=True))
            elif edit.kind == "delete":
                counts.update((letter, "") for letter in edit.reference)
            elif edit.kind == "insert":
                counts.update(("", letter) for letter in edit.hypothesis)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(left, right, count) for (left, right), count in ordered]


def kind_of(confusion: Confusion) -> Literal["replace", "delete", "insert"]:
    """Say what kind of mistake a confusion is."""
    if not confusion.reference:
        return "insert"
    return "replace" if confusion.hypothesis else "delete"


def mark(edits: Sequence[Edit], *, side: Literal["reference", "hypothesis"]) -> Html:
    """Write one side of an alignment with its mistakes marked.

    Marks are colours and underlines only: padding or borders inside a word would break the joined
    letters of Arabic and the like.
    """
    parts: list[Html | str] = []
    for edit in edits:
        text = "".join(edit.reference if side == "reference" else edit.hypothesis)
        if not text:
            continue
        if edit.kind == "equal":
            parts.append(text)
        else:
            name = {"replace": "mark", "delete": "del", "insert": "ins"}[edit.kind]
            parts.append(tag(name, text))
    return join(parts)
