"""Training on the page: curves, and what the model wrote as it learnt."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from unheard.report import advice, alignment, plots
from unheard.report.facts import LearnFacts, RunFacts, number
from unheard.report.markup import Content, Html, join, quiet, speech, table, tag
from unheard.report.numbers import percent, significant

PRETRAINING_NUMBERS = ("accuracy", "code_perplexity", "grad_norm")
SAMPLES_SHOWN = 3
SAMPLE_STEPS_SHOWN = 8


def training(facts: LearnFacts) -> Html:
    """Curves of both stages, and what the model wrote as it learnt."""
    start = facts.start
    parts: list[Content] = [tag("h3", "Learning to listen (pre-training)")]
    if facts.pretraining is not None:
        if start:
            parts.append(quiet(f"It began with the model {start} and went on from there."))
        parts.append(_health(facts.pretraining))
        parts.append(_charts(_pretraining_charts(facts.pretraining)))
        names = (advice.pretraining_loss(facts.pretraining), *PRETRAINING_NUMBERS)
        parts.append(_numbers_table(facts.pretraining, names))
    elif start:
        parts.append(quiet(f"None here: this run started from the model {start}."))
    else:
        parts.append(quiet("None: this run learnt from its transcripts alone."))
    parts.append(tag("h3", "Learning to write (fine-tuning)"))
    if facts.finetuning is not None:
        parts.append(_health(facts.finetuning))
        parts.append(_charts(_finetuning_charts(facts.finetuning, facts.scratch_run)))
        parts.append(_numbers_table(facts.finetuning, ("loss", "cer", "wer", "blank_ratio")))
        parts.append(_samples(facts.finetuning, language=facts.language))
    else:
        parts.append(quiet("No record of fine-tuning was found."))
    return join(parts)


def _health(run: RunFacts) -> Html | None:
    """What the watch over the run has called, with what to do about it."""
    called = [row for row in run.health if row.get("severity") != "note"]
    if not called:
        return None
    rows = [
        (
            tag("b", str(row.get("severity") or "")),
            f"{number(row.get('step')) or 0:,.0f}",
            f"{row.get('message') or ''} {row.get('advice') or ''}".strip(),
        )
        for row in called
    ]
    return table(("", "update", "what the watch over this run called"), rows, numeric=(1,))


def _charts(charts: Iterable[plots.Chart]) -> Html:
    """Draw charts side by side."""
    return tag("div", *(plots.line_chart(chart) for chart in charts), at={"class": "charts"})


def _pretraining_charts(run: RunFacts) -> list[plots.Chart]:
    """Loss and accuracy on masked frames, code perplexity, learning rate, gradient norm, speed."""
    chance, codes = advice.chance_nats(run), advice.code_count(run)
    guess = () if chance is None else (plots.Level(name="guessing", value=chance),)
    most = () if codes is None else (plots.Level(name="all codes", value=codes),)
    loss = advice.pretraining_loss(run)
    contrasts = loss == "contrastive"
    charts = [
        plots.Chart(
            title="Contrastive loss" if contrasts else "Loss on masked units",
            unit="nats",
            series=_both(run, loss),
            levels=guess,
            note="How hard it is to tell the masked sound from others of the same recording."
            if contrasts
            else "How hard it is to say which kind of sound was masked.",
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
    ]
    if contrasts:
        charts.append(
            plots.Chart(
                title="Code perplexity",
                unit="codes in use, all groups",
                series=_both(run, "code_perplexity"),
                levels=most,
                from_zero=True,
                note="A fall towards few codes is a collapse.",
            )
        )
    elif named := run.series("train", "predicted_perplexity"):
        heard = run.series("train", "unit_perplexity")
        charts.append(
            plots.Chart(
                title="Units in use",
                unit="equally frequent ones",
                series=(
                    plots.Series(name="predicted", points=named, tone=1),
                    plots.Series(name="true", points=heard, tone=2),
                ),
                from_zero=True,
                note="A fall of the predicted towards one is a collapse.",
            )
        )
    return [*charts, *_optimiser_charts(run)]


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
