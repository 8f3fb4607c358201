"""The report of a `learn` run: one HTML file that needs nothing else, ever.

The page has no script, no link to the outside, and a content security policy that forbids both;
sounds are data URIs, charts are SVG. The same folder gives the same page: it holds no date, and no
path but those that the files of the folder hold. `facts` documents which files are read.
"""

import base64
import hashlib
import json
import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from statistics import median
from typing import Any

from unheard import files
from unheard.data import corpora
from unheard.report import advice, alignment, plots
from unheard.report.facts import (
    DURATION_STEP_SECONDS,
    LearnFacts,
    Rate,
    RunFacts,
    ScoredUtterance,
    Scores,
    SplitFacts,
    mapping,
    number,
    read_facts,
)
from unheard.report.markup import Content, Html, join, speech, table, tag
from unheard.report.numbers import duration, per_hundred, percent, quantity, significant
from unheard.report.players import Players

WORST_SHOWN = 8
TYPICAL_SHOWN = 8
SAMPLES_SHOWN = 3
SAMPLE_STEPS_SHOWN = 8
CONFUSIONS_SHOWN = 12
SKIPS_SHOWN = 12
SPEAKERS_SHOWN = 40
CHARACTERS_SHOWN = 400
FINDINGS_SHOWN = 20

_SPLIT_NAMES = {
    "train": "training",
    "valid": "validation",
    "test": "test (held out)",
    "unlabelled": "without transcripts",
}

_INKLESS = {" ": "space", "\u200c": "non-joiner", "\u200d": "joiner"}


def write_report(folder: Path) -> Path:
    """Write `report.html` into a `learn` output folder.

    Args:
        folder: output folder of `learn`, finished or not; what is not there is left out.

    Returns:
        Path of the report.

    Raises:
        OSError: if the report cannot be written.
    """
    path = folder / "report.html"
    files.write_text_atomic(path, render(read_facts(folder)))
    return path


def render(facts: LearnFacts) -> str:
    """Make the page."""
    style = resources.files("unheard.report").joinpath("report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; media-src data:; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    sections = [
        ("result", "Result", _result(facts)),
        ("next", "What to do next", _next(facts)),
        ("examples", "Examples", _examples(facts)),
        ("mistakes", "Mistakes", _mistakes(facts)),
        ("training", "How it learnt", _training(facts)),
        ("data", "The data", _data(facts)),
        ("made", "How it was made", _made(facts)),
    ]
    links = (tag("a", title, at={"href": f"#{key}"}) for key, title, _ in sections)
    head = tag(
        "head",
        tag("meta", at={"charset": "utf-8"}),
        tag("meta", at={"http-equiv": "Content-Security-Policy", "content": policy}),
        tag("meta", at={"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("meta", at={"name": "color-scheme", "content": "light dark"}),
        tag("meta", at={"name": "referrer", "content": "no-referrer"}),
        tag("link", at={"rel": "icon", "href": "data:,"}),
        tag("title", f"{_title(facts)}: what this recogniser can do"),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "Unheard", at={"class": "brand"}),
            tag("h1", speech(_title(facts))),
            tag("p", _summary(facts), at={"class": "summary"}),
            _cards(facts),
            tag("nav", *links),
        ),
        tag(
            "main",
            *(
                tag("section", tag("h2", title), content, at={"id": key})
                for key, title, content in sections
            ),
        ),
        tag(
            "footer",
            tag(
                "p",
                "Made by Unheard. This page holds everything it shows: it works "
                "without a network, and it contains voices, so share it as you would share them.",
            ),
        ),
    )
    page = tag("html", head, body, at={"lang": "en"})
    return f"<!doctype html>\n{page}\n"


def _title(facts: LearnFacts) -> str:
    """Name of the output folder."""
    return facts.folder.resolve().name or "Recogniser"


def _line(text: str) -> Html:
    """Say that a part is missing, and why."""
    return tag("p", text, at={"class": "quiet"})


# --------------------------------------------------------------------------------- the beginning


def _summary(facts: LearnFacts) -> Html:
    """Say in plain words what was given and what came out."""
    given = []
    if facts.labelled_seconds:
        given.append(f"{duration(facts.labelled_seconds)} of transcripts")
    unlabelled = facts.splits.get("unlabelled")
    start = facts.request.get("start")
    if facts.pretraining is not None and unlabelled is not None and unlabelled.seconds:
        given.append(f"{duration(unlabelled.seconds)} of recordings to listen to")
    elif isinstance(start, str) and start:
        given.append(f"the pre-trained model {start}")
    opening = f"With {' and '.join(given)}, this recogniser" if given else "This recogniser"
    if facts.scores is None:
        return join(
            [
                f"{opening} was trained. It was not tested: no held-out recordings have been "
                "evaluated."
            ]
        )
    rate = facts.scores.cer or facts.scores.wer
    noun = "character" if facts.scores.cer else "word"
    if rate is None:
        return join([opening, " was tested."])
    errors = per_hundred(rate.value)
    parts: list[Content] = [
        f"{opening} makes ",
        tag("strong", f"{errors} {noun} {'error' if errors == '1.0' else 'errors'} in 100"),
    ]
    if rate.low is not None and rate.high is not None:
        parts.append(f" (95 % interval {per_hundred(rate.low)} to {per_hundred(rate.high)})")
    return join([*parts, f" {_tested_on(facts)}."])


def _tested_on(facts: LearnFacts) -> str:
    """Say on what the error rate was measured: "on 14 minutes of speakers it never heard"."""
    test = facts.splits.get("test")
    seconds = test.seconds if test else sum(u.seconds or 0.0 for u in facts.utterances)
    amount = duration(seconds) if seconds else "recordings"
    if facts.speakers_are_new and test is not None:
        count = quantity(len(test.speakers), "speaker")
        return f"on {amount} of {count} it never heard"
    if facts.speakers_are_new is False:
        return f"on {amount} of held-out recordings, some by speakers it was trained on"
    return f"on {amount} of held-out recordings, whose speakers are not known"


def _cards(facts: LearnFacts) -> Html:
    """Show the few numbers people ask for first."""
    cards: list[tuple[str, str, str]] = []
    if facts.scores is not None:
        for name, rate in (
            ("character error rate", facts.scores.cer),
            ("word error rate", facts.scores.wer),
        ):
            if rate is not None:
                cards.append((percent(rate.value), name, _interval(rate)))
    if facts.labelled_seconds:
        valid = facts.splits.get("valid")
        apart = (
            f"{duration(valid.seconds)} of them for validation" if valid and valid.seconds else ""
        )
        cards.append((duration(facts.labelled_seconds), "of transcripts", apart))
    unlabelled = facts.splits.get("unlabelled")
    if unlabelled is not None and unlabelled.seconds:
        heard = "used for pre-training" if facts.pretraining else "not used"
        cards.append((duration(unlabelled.seconds), "without transcripts", heard))
    spent = [
        (name, run.seconds)
        for name, run in (("pre-training", facts.pretraining), ("fine-tuning", facts.finetuning))
        if run is not None and run.seconds is not None
    ]
    if spent:
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in spent)
        cards.append((duration(sum(s for _, s in spent)), "of training", parts))
    return tag(
        "div",
        *(
            tag(
                "div",
                tag("b", value),
                tag("span", name),
                tag("small", detail),
                at={"class": "card"},
            )
            for value, name, detail in cards
        ),
        at={"class": "cards"},
    )


def _interval(rate: Rate) -> str:
    """Write a 95 % interval."""
    if rate.low is None or rate.high is None:
        return "interval not known"
    return f"95 % interval {100 * rate.low:.1f} to {percent(rate.high)}"


# ------------------------------------------------------------------------------------- the result


def _result(facts: LearnFacts) -> Html:
    """Error rates with intervals, the comparison, speakers, and how errors are spread."""
    if facts.scores is None:
        return _line(
            "No held-out recordings have been evaluated, so there is no error rate. Hold "
            "some out, or run: unheard evaluate."
        )
    ours, other = facts.scores, facts.scratch
    rows = []
    for name, rate, tone in (
        ("Characters", ours.cer, 1),
        ("Characters, without pre-training", other.cer if other else None, 2),
        ("Words", ours.wer, 1),
        ("Words, without pre-training", other.wer if other else None, 2),
    ):
        if rate is not None:
            rows.append((name, rate, tone))
    top = max(1.0, *(rate.high or rate.value for _, rate, _ in rows))
    rates = table(
        ("", "errors", "", "95 % interval", "confused", "left out", "made up", "of"),
        [
            (
                name,
                tag("b", percent(rate.value)),
                plots.interval_bar(rate.value, low=rate.low, high=rate.high, top=top, tone=tone),
                _range(rate),
                _share(rate.substitutions, rate.total),
                _share(rate.deletions, rate.total),
                _share(rate.insertions, rate.total),
                "" if rate.total is None else f"{rate.total:,}",
            )
            for name, rate, tone in rows
        ],
        numeric=(1, 3, 4, 5, 6, 7),
    )
    return join(
        [
            _comparison(facts),
            rates,
            _line(
                "Errors are letters (or words) confused with another, left out, or made up, "
                f"over the number in the reference. {_interval_meaning(ours)}"
                + (
                    f" Texts are compared after the normaliser {facts.normalizer}."
                    if facts.normalizer
                    else ""
                )
            ),
            *(_line(warning) for warning in ours.warnings),
            _line(
                "These rates leave out what could not be read: "
                f"{quantity(facts.num_failed, 'held-out recording')}."
            )
            if facts.num_failed
            else None,
            tag("div", _spread(facts), _speakers(facts), at={"class": "pair"}),
            _trust(facts),
        ]
    )


def _interval_meaning(scores: Scores) -> str:
    """Say what the intervals are intervals of."""
    if scores.resample == "speakers":
        return "The interval says where the rate may lie with other speakers like these."
    if scores.resample == "utterances":
        return (
            "The interval says where the rate may lie on other recordings of the same speakers; "
            "with other speakers it may lie farther away."
        )
    return "The interval says where the rate may lie on other recordings like these."


def _range(rate: Rate) -> str:
    """Write an interval for a table."""
    if rate.low is None or rate.high is None:
        return ""
    return f"{100 * rate.low:.1f} to {percent(rate.high)}"


def _share(count: int | None, total: int | None) -> str:
    """Write a count as a share of the reference."""
    return "" if count is None or not total else percent(count / total)


def _comparison(facts: LearnFacts) -> Html | None:
    """Say what pre-training was worth."""
    if facts.scores is None or facts.scratch is None:
        if facts.pretraining is None:
            return None
        return _line(
            "No run without pre-training was made on the same transcripts, so this "
            "page cannot say what pre-training was worth."
        )
    ours, other = facts.scores.cer, facts.scratch.cer
    if ours is None or other is None or other.value <= 0:
        return None
    change = 1 - ours.value / other.value
    gap = facts.difference
    if gap is not None and gap.low is not None and gap.high is not None:
        apart = gap.low > 0 or gap.high < 0
        certainty = f"On the same recordings that is {_points(gap.low, gap.high)} (95 % interval"
        certainty += ")." if apart else "), so it may be chance."
    else:
        apart = None not in (ours.low, ours.high, other.low, other.high) and (
            (ours.high or 0) < (other.low or 0) or (other.high or 0) < (ours.low or 0)
        )
        certainty = (
            "The intervals do not overlap."
            if apart
            else "The intervals overlap, so the difference may be chance."
        )
    direction = "removed" if change >= 0 else "added"
    return tag(
        "p",
        f"Pre-training {direction} ",
        tag("strong", f"{percent(abs(change), digits=0)} of the character errors"),
        f": {percent(other.value)} without it, {percent(ours.value)} with it, on the same "
        f"transcripts and with the same fine-tuning. {certainty}",
    )


def _points(low: float, high: float) -> str:
    """Write an interval of differences in points, in words for the sign."""
    if high <= 0:
        return f"{-100 * high:.1f} to {-100 * low:.1f} points fewer"
    if low >= 0:
        return f"{100 * low:.1f} to {100 * high:.1f} points more"
    return f"between {-100 * low:.1f} points fewer and {100 * high:.1f} points more"


def _speakers(facts: LearnFacts) -> Html | None:
    """Error rate of each held-out speaker."""
    speakers = facts.scores.speakers if facts.scores else ()
    if len(speakers) < 2:
        return None
    shown = speakers[:SPEAKERS_SHOWN]
    top = max(1.0 if speakers[-1][1].value > 0.5 else 0.5, *(s[1].high or 0 for s in shown))
    rows = [
        (
            speech(name),
            "" if count is None else f"{count:,}",
            percent(rate.value),
            plots.interval_bar(rate.value, low=rate.low, high=rate.high, top=top),
        )
        for name, rate, count in shown
    ]
    hidden = len(speakers) - len(shown)
    return tag(
        "div",
        tag("h3", "By speaker"),
        table(("speaker", "utterances", "characters wrong", ""), rows, numeric=(1, 2)),
        _line(f"And {hidden:,} more, with higher rates.") if hidden else None,
    )


def _spread(facts: LearnFacts) -> Html | None:
    """Histogram of the error rate of each utterance."""
    if len(facts.utterances) < 5:
        return None
    counts = Counter(min(10, int(10 * u.cer + 1e-9)) for u in facts.utterances)
    bars = [(f"{10 * k}", float(counts[k])) for k in range(11)]
    middle = median(u.cer for u in facts.utterances)
    exact = sum(u.char_errors == 0 for u in facts.utterances)
    return plots.bar_chart(
        "How the errors are spread",
        bars=bars,
        unit="recordings",
        x_label="characters wrong in a recording [%]",
        note=f"Half of the recordings have at most {per_hundred(middle)} errors in 100 "
        f"characters; {exact or 'none'} of {len(facts.utterances):,} without any. "
        f"The last bar is {percent(1, digits=0)} and more.",
    )


def _trust(facts: LearnFacts) -> Html | None:
    """Say whether the model knows when it is wrong."""
    known = sorted((u.confidence, u.id, u) for u in facts.utterances if u.confidence is not None)
    if len(known) < 30:
        return None
    third = len(known) // 3
    groups = (
        ("the least certain third", known[:third]),
        ("the middle third", known[third:-third]),
        ("the most certain third", known[-third:]),
    )
    rows = []
    for name, group in groups:
        errors = sum(u.char_errors for _, _, u in group)
        rate = errors / max(1, sum(u.char_total for _, _, u in group))
        span = f"{group[0][0]:.2f} to {group[-1][0]:.2f}"
        bar = plots.interval_bar(rate, low=None, high=None, top=max(1.0, rate))
        rows.append((name, span, percent(rate), bar))
    return tag(
        "div",
        tag("h3", "Does it know when it is wrong?"),
        table(("recordings", "confidence", "characters wrong", ""), rows, numeric=(1, 2)),
    )


def _next(facts: LearnFacts) -> Html:
    """Advice from the numbers, and the commands that use the model."""
    given = advice.advise(facts)
    items = [
        tag(
            "li",
            tag("strong", one.title + "."),
            " ",
            one.reason,
            " " if one.letters else None,
            join(_letter(letter, language=facts.language) for letter in one.letters),
        )
        for one in given
    ]
    # The folder's name alone, so that the page does not tell where it was made.
    model = shlex.quote(f"{_title(facts)}/model")
    commands = (
        f"unheard transcribe {model} RECORDINGS --out texts/\n"
        f"unheard evaluate {model} MANIFEST.jsonl"
    )
    return join(
        [
            tag("ol", *items, at={"class": "advice"})
            if items
            else tag("p", "The numbers raise no alarm."),
            tag("h3", "Use it"),
            tag("pre", tag("code", commands)),
        ]
    )


def _letter(letter: str, *, language: str | None = None) -> Html:
    """Write one character so that it can be seen; what has no ink is named."""
    if len(letter) == 1 and unicodedata.category(letter) in ("Zs", "Cf"):
        name = _INKLESS.get(letter) or unicodedata.name(letter, _code_points(letter)).lower()
        return tag("span", name, at={"class": "letter named"})
    # A mark that combines needs something to stand on.
    carrier = "◌" if unicodedata.category(letter[0])[0] == "M" else ""
    return tag("span", speech(carrier + letter, language=language), at={"class": "letter"})


# ----------------------------------------------------------------------------------- the examples


def _examples(facts: LearnFacts) -> Html:
    """Worst and typical utterances with players and marked texts."""
    if not facts.utterances:
        return _line("No held-out recordings have been transcribed.")
    worst, typical = choose_examples(facts.utterances)
    folders = [facts.folder / "data", facts.folder / "evaluation", facts.folder]
    if facts.evaluated is not None:
        folders = [facts.evaluated, facts.folder / facts.evaluated, *folders]
    players = Players(folders=tuple(folders))
    made = {  # one of each in turn, so that a full page has players of both kinds
        one.id: _example(one, players=players, language=facts.language)
        for pair in zip_longest_flat(typical, worst)
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
            _line("; ".join(notes) + "."),
        ]
    )


def zip_longest_flat(
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


# ----------------------------------------------------------------------------------- the mistakes


def _mistakes(facts: LearnFacts) -> Html:
    """The most frequent confusions, deletions and insertions."""
    confusions = alignment.count_confusions((u.reference, u.hypothesis) for u in facts.utterances)
    if not confusions:
        return _line(
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
                        _letter(c.reference, language=language),
                        "→",
                        _letter(c.hypothesis, language=language),
                    )
                    if kind == "replace"
                    else (_letter(c.reference or c.hypothesis, language=language),)
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
        body = table(head, found, numeric=numeric) if found else _line("None.")
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


# ----------------------------------------------------------------------------------- the training


def _training(facts: LearnFacts) -> Html:
    """Curves of both stages, and what the model wrote as it learnt."""
    start = facts.request.get("start")
    parts: list[Content] = [tag("h3", "Learning to listen (pre-training)")]
    if facts.pretraining is not None:
        parts.append(_charts(_pretraining_charts(facts.pretraining)))
        parts.append(
            _numbers_table(
                facts.pretraining, ("contrastive", "accuracy", "code_perplexity", "grad_norm")
            )
        )
    elif isinstance(start, str) and start:
        parts.append(_line(f"None here: this run started from the model {start}."))
    else:
        parts.append(_line("None: this run learnt from its transcripts alone."))
    parts.append(tag("h3", "Learning to write (fine-tuning)"))
    if facts.finetuning is not None:
        parts.append(_charts(_finetuning_charts(facts.finetuning, facts.scratch_run)))
        parts.append(_numbers_table(facts.finetuning, ("loss", "cer", "wer", "blank_ratio")))
        parts.append(_samples(facts.finetuning, language=facts.language))
    else:
        parts.append(_line("No record of fine-tuning was found."))
    return join(parts)


def _charts(charts: Iterable[plots.Chart]) -> Html:
    """Draw charts side by side."""
    return tag("div", *(plots.line_chart(chart) for chart in charts), at={"class": "charts"})


def _pretraining_charts(run: RunFacts) -> list[plots.Chart]:
    """Contrastive loss, accuracy, code perplexity, learning rate, gradient norm, speed."""
    chance, codes = advice.chance_nats(run), advice.code_count(run)
    guess = () if chance is None else (plots.Level(name="guessing", value=chance),)
    most = () if codes is None else (plots.Level(name="all codes", value=codes),)
    return [
        plots.Chart(
            title="Contrastive loss",
            unit="nats",
            series=_both(run, "contrastive"),
            levels=guess,
            note="How hard it is to tell the masked sound from others of the same recording.",
        ),
        plots.Chart(
            title="Accuracy",
            unit="share of masked frames",
            series=_both(run, "accuracy"),
            from_zero=True,
            form=_percent_tick,
            tick=_percent_tick,
            note="How often the right sound scores highest.",
        ),
        plots.Chart(
            title="Code perplexity",
            unit="codes in use, all groups",
            series=_both(run, "code_perplexity"),
            levels=most,
            from_zero=True,
            note="A fall towards few codes is a collapse.",
        ),
        *_optimiser_charts(run),
    ]


def _finetuning_charts(run: RunFacts, scratch: RunFacts | None) -> list[plots.Chart]:
    """CTC loss, error rates, blank ratio, learning rate, gradient norm."""
    heard = run.series("train", "ctc") or run.series("train", "loss")
    rates = [
        plots.Series(name="characters", points=run.series("valid", "cer"), tone=1, marks=True),
        plots.Series(name="words", points=run.series("valid", "wer"), tone=3, marks=True),
    ]
    if scratch is not None:
        points = scratch.series("valid", "cer")
        rates.append(plots.Series(name="characters, scratch", points=points, tone=2, marks=True))
    return [
        plots.Chart(
            title="CTC loss",
            unit="nats",
            series=(
                plots.Series(name="training", points=heard, tone=1),
                plots.Series(
                    name="validation", points=run.series("valid", "loss"), tone=2, marks=True
                ),
            ),
            from_zero=True,
            note="A gap that widens means that transcripts are learnt by heart.",
        ),
        plots.Chart(
            title="Error rates on validation",
            unit="share wrong",
            series=tuple(rates),
            from_zero=True,
            form=_percent_tick,
            tick=_percent_tick,
            note="The model with the fewest character errors is kept.",
        ),
        plots.Chart(
            title="Blank ratio",
            unit="share of frames",
            series=_both(run, "blank_ratio"),
            from_zero=True,
            form=_percent_tick,
            tick=_percent_tick,
            note="Near 100 % the model writes nothing; training begins there.",
        ),
        *_optimiser_charts(run),
    ]


def _optimiser_charts(run: RunFacts) -> list[plots.Chart]:
    """Learning rate, gradient norm and speed."""
    norms = run.series("train", "grad_norm")
    rates = run.series("train", "learning_rate")
    positive = [norm for _, norm in norms if norm > 0]
    wide = bool(positive) and max(positive) > 30 * min(positive)
    return [
        plots.Chart(
            title="Learning rate",
            unit=f"highest {_short(max(rate for _, rate in rates))}" if rates else "",
            series=(plots.Series(name="rate", points=rates),),
            from_zero=True,
            form=_short,
            tick=_short,
        ),
        plots.Chart(
            title="Gradient norm",
            unit="before clipping, logarithmic" if wide else "before clipping",
            series=(plots.Series(name="norm", points=norms),),
            from_zero=not wide,
            logarithmic=wide,
            form=_short,
        ),
        plots.Chart(
            title="Speed",
            unit="seconds of audio a second",
            series=(
                plots.Series(name="speed", points=run.series("train", "audio_seconds_per_second")),
            ),
            from_zero=True,
        ),
    ]


def _both(run: RunFacts, name: str) -> tuple[plots.Series, ...]:
    """The training and the validation curve of a metric."""
    return (
        plots.Series(name="training", points=run.series("train", name), tone=1),
        plots.Series(name="validation", points=run.series("valid", name), tone=2, marks=True),
    )


def _percent_tick(value: float) -> str:
    """Write a share on an axis."""
    return percent(value, digits=0 if value == 0 or abs(value) >= 0.0995 else 1)


def _short(value: float) -> str:
    """Write a number of any size in few characters."""
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def _numbers_table(run: RunFacts, names: Sequence[str]) -> Html | None:
    """The validation rows (training rows if there are none) as numbers, thinned."""
    rows = run.valid or run.train
    present = [name for name in names if any(number(row.get(name)) is not None for row in rows)]
    if not present:
        return None
    kept = _spaced(rows, 12)

    def cell(value: object) -> str:
        read = number(value)
        return "" if read is None else significant(read)

    heard = [number(row.get("audio_seconds")) for row in kept]
    body = [
        (
            f"{number(row.get('step')) or 0:,.0f}",
            "" if seconds is None else f"{seconds / 3600:.2f}",
            *(cell(row.get(name)) for name in present),
        )
        for row, seconds in zip(kept, heard, strict=True)
    ]
    head = ("update", "hours heard", *(name.replace("_", " ") for name in present))
    whose = "validation" if run.valid else "training"
    return tag(
        "details",
        tag("summary", f"The numbers ({whose})"),
        table(head, body, numeric=range(len(head))),
    )


def _spaced(items: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Keep at most `count` items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def _samples(run: RunFacts, *, language: str | None) -> Html | None:
    """What the model wrote for the same recordings as it learnt."""
    if not run.samples:
        return None
    by_id: dict[str, list[Mapping[str, Any]]] = {}
    for row in run.samples:
        by_id.setdefault(str(row.get("id")), []).append(row)
    blocks = []
    for rows in list(by_id.values())[:SAMPLES_SHOWN]:
        reference = str(rows[-1].get("reference") or "")
        lines = [
            (
                f"{number(row.get('step')) or 0:,.0f}",
                _written(reference, str(row.get("hypothesis") or ""), language=language),
            )
            for row in _doubling(rows, SAMPLE_STEPS_SHOWN)
        ]
        lines.append(("said", tag("b", speech(reference, language=language))))
        blocks.append(table(("update", "wrote"), lines, numeric=(0,)))
    return tag("div", tag("h3", "What it wrote as it learnt"), *blocks, at={"class": "samples"})


def _written(reference: str, hypothesis: str, *, language: str | None) -> Html:
    """One hypothesis with its mistakes marked."""
    if not hypothesis.strip():
        return tag("i", "nothing")
    marked = alignment.mark(alignment.align(reference, hypothesis), side="hypothesis")
    return speech(marked, language=language)


def _doubling(items: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Keep at most `count` items, dense at the beginning, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    last = len(items) - 1
    chosen = {0} | {round(last ** (k / (count - 1))) for k in range(1, count)}
    return [items[k] for k in sorted(chosen)]


# --------------------------------------------------------------------------------------- the data


def _data(facts: LearnFacts) -> Html:
    """Hours, speakers, splits, lengths, what was skipped, the audit, the vocabulary."""
    if not facts.splits:
        return _line("No manifests were found.")
    rows = [
        (
            _SPLIT_NAMES[name],
            f"{split.utterances:,}",
            f"{split.seconds / 3600:.2f} h"
            if split.seconds >= 6000
            else f"{split.seconds / 60:.1f} min",
            _speaker_count(split),
            f"{split.words:,}" if split.transcribed else "",
            f"{sum(split.characters.values()):,}" if split.transcribed else "",
        )
        for name, split in facts.splits.items()
    ]
    return join(
        [
            table(
                ("", "recordings", "duration", "speakers", "words", "characters"),
                rows,
                numeric=range(1, 6),
            ),
            _speaker_line(facts),
            tag(
                "div", *(_lengths(split) for split in facts.splits.values()), at={"class": "charts"}
            ),
            _scan_facts(facts),
            _skipped(facts),
            _audit(facts),
            _vocabulary(facts),
        ]
    )


def _speaker_count(split: SplitFacts) -> str:
    """Write how many speakers a split has."""
    if not split.speakers:
        return "not known"
    more = f" + {split.unknown_speakers:,} recordings not known" if split.unknown_speakers else ""
    return f"{len(split.speakers):,}{more}"


def _speaker_line(facts: LearnFacts) -> Html | None:
    """Say whether the test is on new voices."""
    said = {
        True: "No speaker of the test is in training.",
        False: "Some speakers are both in training and in the test.",
        None: "Speakers are not all known, so voices may be both in training and in the test.",
    }
    return _line(said[facts.speakers_are_new]) if {"train", "test"} <= set(facts.splits) else None


def _lengths(split: SplitFacts) -> Html | None:
    """Histogram of the lengths of the utterances of a split."""
    if not split.lengths:
        return None
    longest = max(split.lengths)
    step = next(
        (s for s in (1, 2, 4, 10, 20, 60, 120) if longest / s < 24), math.ceil((longest + 1) / 24)
    )
    counts: Counter[int] = Counter()
    for steps, count in split.lengths.items():
        counts[steps // step] += count
    seconds = step * DURATION_STEP_SECONDS
    bars = [(f"{k * seconds:g}", float(counts[k])) for k in range(longest // step + 1)]
    return plots.bar_chart(
        f"Lengths: {_SPLIT_NAMES[split.name]}",
        bars=bars,
        unit="recordings",
        x_label="length [s]",
        tone=4 if split.name == "unlabelled" else 1,
    )


def _flatten(data: Mapping[str, Any], *, prefix: str = "") -> list[tuple[str, str]]:
    """Write nested settings as pairs of dotted name and value; long lists are counted."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            rows += _flatten(value, prefix=f"{name}.")
        elif isinstance(value, list):
            plain = all(isinstance(item, str | int | float | bool) for item in value)
            short = plain and len(value) <= 8
            text = (
                ", ".join(map(str, value))
                if short
                else quantity(len(value), "entry", plural="entries")
            )
            rows.append((name, text))
        elif isinstance(value, float):
            rows.append((name, f"{value:.6g}"))
        elif value is not None:
            rows.append((name, str(value)))
    return rows


def _scan_facts(facts: LearnFacts) -> Html | None:
    """What the scan found out about the folder."""
    found = dict(mapping(facts.scan.get("facts")))
    if "layout" in facts.scan:
        found = {"layout": facts.scan["layout"], **found}
    rows = [(name.replace("_", " "), value) for name, value in _flatten(found)]
    if not rows:
        return None
    return tag(
        "details",
        tag("summary", "What the scan found"),
        table(("", ""), [(name, speech(value)) for name, value in rows]),
    )


def _skipped(facts: LearnFacts) -> Html:
    """What was left out of the data, and why."""
    listed = facts.scan.get("skipped")
    skips = [mapping(row) for row in listed] if isinstance(listed, list) else []
    head = tag("h3", "Left out")
    if not skips:
        said = "Nothing was skipped." if facts.scan else "No record of the scan was found."
        return join([head, _line(said)])
    reasons = Counter(str(row.get("reason")) for row in skips)
    shown = skips[:SKIPS_SHOWN]
    rows = []
    for row in shown:
        where = str(row.get("path") or "")
        line = row.get("line")
        place = where if line is None else f"{where}, line {line}"
        rows.append((speech(place), str(row.get("reason")), speech(str(row.get("detail") or ""))))
    return join(
        [
            head,
            table(
                ("reason", "times", ""),
                [
                    (reason.replace("_", " "), f"{count:,}", corpora.REASONS.get(reason))
                    for reason, count in reasons.most_common()
                ],
                numeric=(1,),
            ),
            tag(
                "details",
                tag(
                    "summary",
                    f"The first {len(shown)} of {len(skips):,}"
                    if len(shown) < len(skips)
                    else "Each of them",
                ),
                table(("where", "reason", "detail"), rows),
            ),
        ]
    )


def _audit(facts: LearnFacts) -> Html:
    """Findings of the audit; what is not a list of findings is shown as it is."""
    head = tag("h3", "Audit")
    if not facts.audit:
        return join([head, _line("No audit was found.")])
    findings = facts.audit.get("findings")
    parts: list[Content] = [head]
    if isinstance(findings, list):
        rows = []
        for finding in map(mapping, findings[:FINDINGS_SHOWN]):
            words = next((finding[k] for k in ("message", "detail", "text") if k in finding), "")
            name = next(
                (finding[k] for k in ("code", "kind", "name", "reason") if k in finding), ""
            )
            count = number(finding.get("count"))
            examples = finding.get("examples")
            few = examples[:5] if isinstance(examples, list) else []
            rows.append(
                (
                    str(name).replace("_", " "),
                    "" if count is None else f"{count:,.0f}",
                    speech(str(words)),
                    speech(
                        ", ".join(
                            e if isinstance(e, str) else json.dumps(e, ensure_ascii=False)
                            for e in few
                        )
                    ),
                )
            )
        if rows:
            parts.append(table(("finding", "times", "", "such as"), rows, numeric=(1,)))
        else:
            parts.append(_line("Nothing was found amiss."))
    rest = {key: value for key, value in facts.audit.items() if key != "findings"}
    pairs = [(name.replace("_", " "), speech(value)) for name, value in _flatten(rest)]
    if pairs:
        body = table(("", ""), pairs)
        parts.append(tag("details", tag("summary", "All that was measured"), body))
    return join(parts)


def _vocabulary(facts: LearnFacts) -> Html:
    """The characters of the model with their counts in training."""
    train = facts.splits.get("train")
    counts = train.characters if train else Counter[str]()
    symbols = list(facts.vocabulary) or [c for c in counts if not c.isspace()]
    head = tag("h3", "Vocabulary")
    if not symbols:
        return join([head, _line("No vocabulary was found.")])
    totals = {s: counts[s] if len(s) == 1 else None for s in symbols}
    ordered = sorted(symbols, key=lambda s: (-(totals[s] or 0), s))
    most = max((n or 0 for n in totals.values()), default=0) or 1
    cells = [
        tag(
            "li",
            _letter(symbol, language=facts.language),
            tag("small", "" if totals[symbol] is None else f"{totals[symbol]:,}"),
            at={
                "class": "rare" if (totals[symbol] or 0) < 5 else None,
                "title": _code_points(symbol),
            },
        )
        for symbol in ordered[:CHARACTERS_SHOWN]
    ]
    source = "the model can write" if facts.vocabulary else "occur in the training transcripts"
    hidden = len(ordered) - len(cells)
    return join(
        [
            head,
            _line(
                f"{quantity(len(symbols), 'character')} {source}, with their counts in the "
                f"training transcripts (most frequent {most:,} times); those that occur fewer "
                "than five times have a dashed frame."
                + (f" {hidden:,} rarer ones are not shown." if hidden else "")
            ),
            tag("ul", *cells, at={"class": "vocabulary"}),
        ]
    )


def _code_points(symbol: str) -> str:
    """Write the code points of a symbol."""
    return " ".join(f"U+{ord(character):04X}" for character in symbol)


# --------------------------------------------------------------------------------- how it was made


def _made(facts: LearnFacts) -> Html:
    """Command, versions, machine, time of each stage, settings."""
    parts: list[Content] = []
    command = facts.request.get("command")
    if isinstance(command, list):
        command = shlex.join(str(word) for word in command)
    if isinstance(command, str):
        parts.append(tag("pre", tag("code", command)))
    made_with = _flatten(mapping(facts.result.get("made_with")))
    if made_with:
        rows = [(name.replace("_", " "), speech(value)) for name, value in made_with]
        parts.append(table(("", ""), rows))
    stages = []
    for name, stage in facts.stages.items():
        seconds = number(mapping(stage).get("seconds"))
        state = mapping(stage).get("state") if isinstance(stage, dict) else stage
        took = "" if seconds is None else duration(seconds)
        stages.append((name, str(state if state is not None else ""), took))
    if stages:
        parts += [tag("h3", "Stages"), table(("stage", "state", "took"), stages, numeric=(2,))]
    settings = _flatten({k: v for k, v in facts.request.items() if k != "command"})
    for title, pairs in (
        ("Settings of the command", settings),
        (
            "Settings of pre-training",
            _flatten(facts.pretraining.config if facts.pretraining else {}),
        ),
        ("Settings of fine-tuning", _flatten(facts.finetuning.config if facts.finetuning else {})),
    ):
        if pairs:
            body = table(("setting", "value"), [(name, speech(value)) for name, value in pairs])
            parts.append(tag("details", tag("summary", title), body))
    if facts.unreadable:
        broken = ", ".join(f"{name} ({count:,})" for name, count in facts.unreadable.items())
        parts.append(tag("p", f"Lines or files that could not be read: {broken}."))
    return join(parts) if parts else _line("No record of the command was found.")
