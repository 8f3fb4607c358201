"""The report of a `learn` run: one HTML file that needs nothing else, ever.

The page has no script, no link to the outside, and a content security policy that forbids both;
sounds are data URIs, charts are SVG. The same folder gives the same page: it holds no date, and no
path but those that the files of the folder hold. `facts` documents which files are read.
"""

import base64
import hashlib
import shlex
from importlib import resources
from pathlib import Path

from unheard import files
from unheard.report import curves, examples, material, result
from unheard.report.facts import LearnFacts, flatten, mapping, number, read_facts
from unheard.report.markup import Content, Html, join, quiet, speech, table, tag
from unheard.report.numbers import duration, per_hundred, percent, quantity


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
        ("result", "Result", result.result(facts)),
        ("next", "What to do next", result.next_steps(facts)),
        ("examples", "Examples", examples.examples(facts)),
        ("mistakes", "Mistakes", examples.mistakes(facts)),
        ("training", "How it learnt", curves.training(facts)),
        ("data", "The data", material.data(facts)),
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
        tag("title", f"{facts.name}: what this recogniser can do"),
        tag("style", Html(style)),
    )
    body = tag(
        "body",
        tag(
            "header",
            tag("p", "Unheard", at={"class": "brand"}),
            tag("h1", speech(facts.name)),
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


def _summary(facts: LearnFacts) -> Html:
    """Say in plain words what was given and what came out."""
    given = []
    if facts.labelled_seconds:
        given.append(f"{duration(facts.labelled_seconds)} of transcripts")
    unlabelled = facts.splits.get("unlabelled")
    if facts.start:
        given.append(f"the pre-trained model {facts.start}")
    if facts.pretraining is not None and unlabelled is not None and unlabelled.seconds:
        given.append(f"{duration(unlabelled.seconds)} of recordings to listen to")
    listed = " and ".join(filter(None, (", ".join(given[:-1]), *given[-1:])))
    opening = f"With {listed}, this recogniser" if given else "This recogniser"
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
                cards.append((percent(rate.value), name, result.interval(rate)))
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


def _made(facts: LearnFacts) -> Html:
    """Command, versions, machine, time of each stage, settings."""
    parts: list[Content] = []
    command = facts.request.get("command")
    if isinstance(command, list):
        command = shlex.join(str(word) for word in command)
    if isinstance(command, str):
        parts.append(tag("pre", tag("code", command)))
    made_with = flatten(mapping(facts.result.get("made_with")))
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
    settings = flatten({k: v for k, v in facts.request.items() if k != "command"})
    for title, pairs in (
        ("Settings of the command", settings),
        (
            "Settings of pre-training",
            flatten(facts.pretraining.config if facts.pretraining else {}),
        ),
        ("Settings of fine-tuning", flatten(facts.finetuning.config if facts.finetuning else {})),
    ):
        if pairs:
            body = table(("setting", "value"), [(name, speech(value)) for name, value in pairs])
            parts.append(tag("details", tag("summary", title), body))
    if facts.unreadable:
        broken = ", ".join(f"{name} ({count:,})" for name, count in facts.unreadable.items())
        parts.append(tag("p", f"Lines or files that could not be read: {broken}."))
    return join(parts) if parts else quiet("No record of the command was found.")
