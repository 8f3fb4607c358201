"""Curves of runs that came out well, thin enough to keep: a CSV and a drawing of each.

    python -m benchmarks.healthy_curves keep RUN NAME [--every 4]
    python -m benchmarks.healthy_curves draw NAME [--beside RUN] [--out curves.svg]

RUN is a run folder of `pretrain`, `finetune` or `learn`, with metrics.jsonl. `keep` writes
benchmarks/results/healthy/NAME.csv: every n-th row of training, all of validation, times left out.
`draw` makes an SVG of it, with your own run beside it in another colour if one is given;
docs/healthy-runs.md shows those of NAME alone.
"""

import argparse
import csv
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from unheard.files import read_jsonl, write_text_atomic
from unheard.report import plots
from unheard.report.markup import tag

KEPT = Path(__file__).parent / "results" / "healthy"
DRAWN = Path(__file__).parents[1] / "docs" / "healthy"

LEFT_OUT = ("elapsed_seconds", "audio_seconds_per_second", "loss", "wer", "impossible", "alarms")
"""Figures that are of no use here, or follow from others."""

FIGURES = (
    ("masked", "Loss on masked units [nats]", False),
    ("contrastive", "Contrastive loss [nats]", False),
    ("ctc", "CTC loss [nats an utterance]", True),
    ("accuracy", "Accuracy on masked frames", True),
    ("unmasked_accuracy", "Accuracy on frames that are heard", True),
    ("code_perplexity", "Code perplexity", True),
    ("blank_ratio", "Share of blanks", True),
    ("cer", "Character error rate", True),
    ("grad_norm", "Norm of the gradient", True),
    ("feature_power", "Mean square of the features", True),
    ("learning_rate", "Learning rate", True),
)
"""What is drawn: name, title, whether the axis begins at zero."""

COLUMNS, GAP = 2, 34
APART = 18


def main() -> None:
    """Keep or draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True, dest="verb")
    keep_verb = verbs.add_parser("keep")
    keep_verb.add_argument("run", type=Path)
    keep_verb.add_argument("name")
    keep_verb.add_argument("--every", type=int, default=1)
    draw_verb = verbs.add_parser("draw")
    draw_verb.add_argument("name")
    draw_verb.add_argument("--beside", type=Path)
    draw_verb.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.verb == "keep":
        print(keep(given.run, given.name, every=given.every))
    else:
        out = given.out or DRAWN / f"{given.name}.svg"
        beside = None if given.beside is None else read_jsonl(given.beside / "metrics.jsonl")
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text_atomic(out, draw(read(given.name), beside))
        print(out)


def keep(run: Path, name: str, *, every: int) -> Path:
    """Write the thin CSV of a run; figures have four digits."""
    rows = read_jsonl(run / "metrics.jsonl")
    heard = [row for row in rows if row["kind"] == "train"]
    chosen = {row["step"] for row in (heard[0], *heard[every - 1 :: every], heard[-1])}
    thin = [row for row in rows if row["kind"] != "train" or row["step"] in chosen]
    names = [name for name in dict.fromkeys(k for row in thin for k in row) if name not in LEFT_OUT]
    path = KEPT / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(names)
        table.writerows([_cell(row.get(column)) for column in names] for row in thin)
    return path


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def read(name: str) -> list[dict[str, Any]]:
    """Read a CSV that was kept, as rows of metrics.jsonl."""
    with (KEPT / f"{name}.csv").open(newline="") as file:
        return [
            {
                "kind": row.pop("kind"),
                "step": int(row.pop("step")),
                **{figure: float(value) for figure, value in row.items() if value},
            }
            for row in csv.DictReader(file)
        ]


def draw(rows: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]] | None) -> str:
    """Draw every figure that a run has, in one picture of its own; yours is in the third colour."""
    boxes = []
    for name, title, from_zero in FIGURES:
        series = [
            plots.Series(name="training", points=_points(rows, "train", name), tone=1),
            plots.Series(
                name="validation", points=_points(rows, "valid", name), tone=2, marks=True
            ),
        ]
        if not any(one.points for one in series):
            continue
        if beside is not None:
            points = _points(beside, "train", name) or _points(beside, "valid", name)
            series.append(plots.Series(name="yours", points=points, tone=3))
        chart = plots.Chart(
            title=title, unit="", series=tuple(series), from_zero=from_zero, tick=_tick
        )
        boxes.append(
            (title, re.findall(r"<svg (viewBox.*?)</svg>", str(plots.line_chart(chart)))[-1])
        )
    height = plots.HEIGHT + GAP
    parts = []
    for number, (title, drawing) in enumerate(boxes):
        x, y = number % COLUMNS * (plots.WIDTH + APART), number // COLUMNS * height
        parts.append(tag("text", title, at={"class": "title", "x": x + 14, "y": y + 22}))
        place = f'x="{x}" y="{y + GAP}" width="{plots.WIDTH}" height="{plots.HEIGHT}"'
        parts.append(f"<svg {place} {drawing}</svg>")
    size = (COLUMNS * (plots.WIDTH + APART) - APART, -(-len(boxes) // COLUMNS) * height + GAP)
    key = [("training", 1), ("validation", 2), *([("yours", 3)] if beside is not None else [])]
    for number, (name, tone) in enumerate(key):
        x, y = 14 + 110 * number, size[1] - 12
        parts.append(tag("path", at={"class": f"line line{tone}", "d": f"M{x} {y - 4}h18"}))
        parts.append(tag("text", name, at={"class": "axis", "x": x + 24, "y": y}))
    view = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}"'
    return f'<svg {view} role="img"><style>{_style()}</style>{"".join(map(str, parts))}</svg>\n'


def _points(
    rows: Sequence[dict[str, Any]], kind: str, name: str
) -> tuple[tuple[float, float], ...]:
    return tuple((row["step"], row[name]) for row in rows if row["kind"] == kind and name in row)


def _tick(value: float) -> str:
    """Write a number on an axis, in few characters."""
    return f"{value:g}" if value == 0 or 1e-3 < abs(value) < 1e5 else f"{value:.2g}"


def _style() -> str:
    """Take what a drawing needs from the style sheet of the report."""
    sheet = resources.files("unheard.report").joinpath("report.css").read_text(encoding="utf-8")
    colours = sheet[: sheet.index("* { box-sizing")]
    needed = ("text {", ".tick", ".levelname", ".grid", ".level", ".line", ".band", ".fill")
    rules = [line for line in sheet.splitlines() if line.startswith(needed)]
    title = ".title { font-size: 13.5px; font-weight: 600; fill: var(--ink); }"
    return "\n".join([colours, *rules, title, "svg { background: var(--paper); }"])


if __name__ == "__main__":
    main()
