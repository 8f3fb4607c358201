"""The data on the page: hours, speakers, what was left out, the vocabulary."""

import json
import math
from collections import Counter

from unheard.data import corpora
from unheard.report import plots
from unheard.report.facts import (
    DURATION_STEP_SECONDS,
    LearnFacts,
    SplitFacts,
    flatten,
    mapping,
    number,
)
from unheard.report.markup import (
    Content,
    Html,
    code_points,
    join,
    letter,
    quiet,
    speech,
    table,
    tag,
)
from unheard.report.numbers import quantity

SKIPS_SHOWN = 12
CHARACTERS_SHOWN = 400
FINDINGS_SHOWN = 20

_SPLIT_NAMES = {
    "train": "training",
    "valid": "validation",
    "test": "test (held out)",
    "unlabelled": "without transcripts",
}


def data(facts: LearnFacts) -> Html:
    """Hours, speakers, splits, lengths, what was skipped, the audit, the vocabulary."""
    if not facts.splits:
        return quiet("No manifests were found.")
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
    return quiet(said[facts.speakers_are_new]) if {"train", "test"} <= set(facts.splits) else None


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


def _scan_facts(facts: LearnFacts) -> Html | None:
    """What the scan found out about the folder."""
    found = dict(mapping(facts.scan.get("facts")))
    if "layout" in facts.scan:
        found = {"layout": facts.scan["layout"], **found}
    rows = [(name.replace("_", " "), value) for name, value in flatten(found)]
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
        return join([head, quiet(said)])
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
        return join([head, quiet("No audit was found.")])
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
            parts.append(quiet("Nothing was found amiss."))
    rest = {key: value for key, value in facts.audit.items() if key != "findings"}
    pairs = [(name.replace("_", " "), speech(value)) for name, value in flatten(rest)]
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
        return join([head, quiet("No vocabulary was found.")])
    totals = {s: counts[s] if len(s) == 1 else None for s in symbols}
    ordered = sorted(symbols, key=lambda s: (-(totals[s] or 0), s))
    most = max((n or 0 for n in totals.values()), default=0) or 1
    cells = [
        tag(
            "li",
            letter(symbol, language=facts.language),
            tag("small", "" if totals[symbol] is None else f"{totals[symbol]:,}"),
            at={
                "class": "rare" if (totals[symbol] or 0) < 5 else None,
                "title": code_points(symbol),
            },
        )
        for symbol in ordered[:CHARACTERS_SHOWN]
    ]
    source = "the model can write" if facts.vocabulary else "occur in the training transcripts"
    hidden = len(ordered) - len(cells)
    return join(
        [
            head,
            quiet(
                f"{quantity(len(symbols), 'character')} {source}, with their counts in the "
                f"training transcripts (most frequent {most:,} times); those that occur fewer "
                "than five times have a dashed frame."
                + (f" {hidden:,} rarer ones are not shown." if hidden else "")
            ),
            tag("ul", *cells, at={"class": "vocabulary"}),
        ]
    )
