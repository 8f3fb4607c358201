"""Utterances on the page: the typical, the worst, and the mistakes counted."""

from collections import Counter
from collections.abc import Iterable, Sequence

from unheard.report import alignment
from unheard.report.facts import LearnFacts, ScoredUtterance
from unheard.report.markup import Content, Html, join, letter, quiet, speech, table, tag
from unheard.report.numbers import percent, quantity
from unheard.report.players import Players

WORST_SHOWN = 8
TYPICAL_SHOWN = 8
CONFUSIONS_SHOWN = 12


def examples(facts: LearnFacts) -> Html:
    """Worst and typical utterances with players and marked texts."""
    if not facts.utterances:
        return quiet("No held-out recordings have been transcribed.")
    worst, typical = choose_examples(facts.utterances)
    folders = [facts.folder / "data", facts.folder / "evaluation", facts.folder]
    if facts.evaluated is not None:
        folders = [facts.evaluated, facts.folder / facts.evaluated, *folders]
    players = Players(folders=tuple(folders))
    made = {  # one of each in turn, so that a full page has players of both kinds
        one.id: _example(one, players=players, language=facts.language)
        for pair in _in_turn(typical, worst)
        for one in (pair,)
    }
    notes = [f"{quantity(players.embedded, 'recording')} embedded, re-encoded to 16 kHz mono"]
    if players.left_out:
        notes.append(f"{players.left_out} left out to keep the page small")
    if players.unreadable:
        notes.append(f"{players.unreadable} could not be read")
    return join(
        [
            tag(
                "p",
                "Marked: ",
                tag("mark", "confused"),
                ", ",
                tag("del", "left out"),
                " (in the reference), ",
                tag("ins", "made up"),
                " (in what the recogniser wrote).",
                at={"class": "quiet"},
            ),
            tag("h3", "Typical"),
            tag(
                "p",
                "Recordings in the middle of the order from best to worst.",
                at={"class": "quiet"},
            ),
            *(made[one.id] for one in typical),
            tag("h3", "Worst"),
            tag(
                "p",
                "The first place to look for wrong transcripts, noise and unusual voices.",
                at={"class": "quiet"},
            )
            if worst
            else None,
            *(made[one.id] for one in worst),
            quiet("; ".join(notes) + "."),
        ]
    )


def _in_turn(
    left: Sequence[ScoredUtterance], right: Sequence[ScoredUtterance]
) -> Iterable[ScoredUtterance]:
    """Take from two lists in turn until both are empty."""
    for index in range(max(len(left), len(right))):
        yield from left[index : index + 1]
        yield from right[index : index + 1]


def choose_examples(
    utterances: Sequence[ScoredUtterance],
) -> tuple[list[ScoredUtterance], list[ScoredUtterance]]:
    """Choose the worst utterances, and those around the median of the rest.

    Returns:
        Worst first, and typical ones from better to worse; no utterance is in both.
    """
    ordered = sorted(utterances, key=lambda u: (u.cer, u.char_errors, u.id))
    few = min(WORST_SHOWN, len(ordered) // 2)
    worst = [u for u in reversed(ordered[len(ordered) - few :]) if u.char_errors > 0]
    start = max(0, (len(ordered) - TYPICAL_SHOWN) // 2)
    chosen = {u.id for u in worst}
    typical = [u for u in ordered[start : start + TYPICAL_SHOWN] if u.id not in chosen]
    return worst, typical


def _example(utterance: ScoredUtterance, *, players: Players, language: str | None) -> Html:
    """One utterance: who, how long, how wrong, the sound, both texts."""
    edits = alignment.align(utterance.reference, utterance.hypothesis)
    wrong = f" {utterance.char_errors} of {quantity(utterance.char_total, 'character')}"
    long = "" if utterance.seconds is None else f" · {utterance.seconds:.1f} s"
    who: list[Content] = [] if utterance.speaker is None else [speech(utterance.speaker)]
    if utterance.confidence is not None:
        who.append(f"{' · ' if who else ''}confidence {utterance.confidence:.2f}")
    wrote = alignment.mark(edits, side="hypothesis")
    return tag(
        "article",
        tag(
            "div",
            tag("p", tag("b", percent(utterance.cer, digits=0)), wrong, long),
            tag("p", *who) if who else None,
            tag("p", speech(utterance.id), at={"class": "id"}),
            players.player(utterance),
            at={"class": "about"},
        ),
        tag(
            "dl",
            tag("dt", "said"),
            tag("dd", speech(alignment.mark(edits, side="reference"), language=language)),
            tag("dt", "wrote"),
            tag("dd", speech(wrote, language=language) if wrote else tag("i", "nothing")),
        ),
        at={"class": "example"},
    )


def mistakes(facts: LearnFacts) -> Html:
    """The most frequent confusions, deletions and insertions."""
    confusions = alignment.count_confusions((u.reference, u.hypothesis) for u in facts.utterances)
    if not confusions:
        return quiet(
            "There are no mistakes to count."
            if facts.utterances
            else "No held-out recordings have been transcribed."
        )
    spoken = Counter(c for u in facts.utterances for c in alignment.clusters(u.reference))
    language = facts.language

    def rows(kind: str) -> list[tuple[Content, ...]]:
        chosen = [c for c in confusions if alignment.kind_of(c) == kind][:CONFUSIONS_SHOWN]
        return [
            (
                *(
                    (
                        letter(c.reference, language=language),
                        "→",
                        letter(c.hypothesis, language=language),
                    )
                    if kind == "replace"
                    else (letter(c.reference or c.hypothesis, language=language),)
                ),
                f"{c.times:,}",
                *((percent(c.times / spoken[c.reference], digits=0),) if c.reference else ()),
            )
            for c in chosen
        ]

    blocks = []
    for title, kind, head, numeric in (
        ("Confused", "replace", ("said", "", "wrote", "times", "of its uses"), (3, 4)),
        ("Left out", "delete", ("said", "times", "of its uses"), (1, 2)),
        ("Made up", "insert", ("wrote", "times"), (1,)),
    ):
        found = rows(kind)
        body = table(head, found, numeric=numeric) if found else quiet("None.")
        blocks.append(tag("div", tag("h3", title), body))
    total = sum(c.times for c in confusions)
    return join(
        [
            tag(
                "p",
                f"{quantity(total, 'mistake')} in "
                f"{quantity(len(facts.utterances), 'held-out recording')}; "
                "a letter with its marks counts as one here.",
            ),
            tag("div", *blocks, at={"class": "columns"}),
        ]
    )
