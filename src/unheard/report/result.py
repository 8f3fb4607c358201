"""The result on the page: error rates, comparison, and what to do next."""

import shlex
from collections import Counter
from statistics import median

from unheard.report import advice, plots
from unheard.report.facts import LearnFacts, Rate, Scores
from unheard.report.markup import Html, join, letter, quiet, speech, table, tag
from unheard.report.numbers import per_hundred, percent, quantity

SPEAKERS_SHOWN = 40


def result(facts: LearnFacts) -> Html:
    """Error rates with intervals, the comparison, speakers, and how errors are spread."""
    if facts.scores is None:
        return quiet(
            "No held-out recordings have been evaluated, so there is no error rate. Hold "
            "some out, or run: unheard evaluate."
        )
    ours, other = facts.scores, facts.scratch
    rows = []
    for name, rate, tone in (
        ("Characters", ours.cer, 1),
        ("Characters, without pre-training", other.cer if other else None, 2),
        ("Characters, with a search", facts.search.cer if facts.search else None, 3),
        ("Words", ours.wer, 1),
        ("Words, without pre-training", other.wer if other else None, 2),
        ("Words, with a search", facts.search.wer if facts.search else None, 3),
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
            quiet(
                "Errors are letters (or words) confused with another, left out, or made up, "
                f"over the number in the reference. {_interval_meaning(ours)}"
                + (
                    f" Texts are compared after the normaliser {facts.normalizer}."
                    if facts.normalizer
                    else ""
                )
            ),
            quiet(
                "The search weighs what is heard against a language model or a lexicon. To "
                "transcribe with it, add: "
                f"{facts.search_options}"
            )
            if facts.search_options
            else None,
            *(quiet(warning) for warning in ours.warnings),
            quiet(
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
        return quiet(
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
        quiet(f"And {hidden:,} more, with higher rates.") if hidden else None,
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


def next_steps(facts: LearnFacts) -> Html:
    """Advice from the numbers, and the commands that use the model."""
    given = advice.advise(facts)
    items = [
        tag(
            "li",
            tag("strong", one.title + "."),
            " ",
            one.reason,
            " " if one.letters else None,
            join(letter(symbol, language=facts.language) for symbol in one.letters),
        )
        for one in given
    ]
    # The folder's name alone, so that the page does not tell where it was made.
    model = shlex.quote(f"{facts.name}/model")
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


def interval(rate: Rate) -> str:
    """Write a 95 % interval."""
    if rate.low is None or rate.high is None:
        return "interval not known"
    return f"95 % interval {100 * rate.low:.1f} to {percent(rate.high)}"
