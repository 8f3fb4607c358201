"""What to pre-train by in little time: the same trunk, the same minutes, one thread each.

    python -m benchmarks.objectives CORPUS SETS OUT [--minutes 15] [--write]

CORPUS is anything that `scan` reads; SETS the folder sets of a task of benchmarks/few_labels.py,
with train, valid and test. The variants pre-train side by side, two at a time, for as many
minutes; then
each is fine-tuned for as many updates and measured on the test set, beside random weights. OUT
keeps every run with its curves; those that are done are not done again.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from unheard.files import read_json, read_jsonl, write_json_atomic

RESULTS = Path(__file__).parent / "results" / "objectives.md"
VARIANTS: dict[str, tuple[str, ...]] = {
    "masked units": (),
    "contrastive": ("--objective", "contrastive"),
    "masked units, 50 clusters": ("--units", "50"),
    "masked units, crops of 10 s": ("--set", "training.max_seconds=10"),
}
"""What is asked for besides the recipe mini."""
RANDOM = "random weights"
TOGETHER = 2
FINETUNE_STEPS = 600


def pretrain_all(corpus: Path, out: Path, *, minutes: float, variants: list[str]) -> None:
    """Pre-train what is not pre-trained yet, two at a time."""
    waiting = [name for name in variants if not (out / _slug(name) / "pretrain" / "model").exists()]
    for place in range(0, len(waiting), TOGETHER):
        running = [
            _start(
                "pretrain",
                str(corpus),
                *("--recipe", "mini"),
                *VARIANTS[name],
                *("--max-minutes", str(minutes)),
                *("--out", str(out / _slug(name) / "pretrain")),
                log=out / f"{_slug(name)}-pretrain.log",
            )
            for name in waiting[place : place + TOGETHER]
        ]
        _wait(running)


def finetune_all(sets: Path, out: Path, *, variants: list[str]) -> None:
    """Fine-tune and measure what is not measured yet, two at a time."""
    names = [*variants, RANDOM]
    waiting = [name for name in names if not (out / _slug(name) / "row.json").exists()]
    for place in range(0, len(waiting), TOGETHER):
        pair = waiting[place : place + TOGETHER]
        running = []
        for name in pair:
            model = str(out / _slug(name) / "pretrain" / "model")
            running.append(
                _start(
                    "finetune",
                    str(sets / "train.jsonl"),
                    *("--valid", str(sets / "valid.jsonl")),
                    *("--start", "none" if name == RANDOM else model),
                    *("--recipe", "mini"),
                    *("--max-steps", str(FINETUNE_STEPS)),
                    *("--out", str(out / _slug(name) / "finetune")),
                    log=out / f"{_slug(name)}-finetune.log",
                )
            )
        _wait(running)
        for name in pair:
            folder = out / _slug(name)
            test = folder / "test"
            words = ("evaluate", str(folder / "finetune" / "model"), str(sets / "test.jsonl"))
            _wait([_start(*words, "--out", str(test), log=out / f"{_slug(name)}-test.log")])
            rates = read_json(test / "result.json")["error_rate"]
            write_json_atomic(
                folder / "row.json", {"name": name, "rates": rates, **_pretrained(folder)}
            )


def _pretrained(folder: Path) -> dict[str, Any]:
    """How far the pre-training came; nothing for random weights."""
    path = folder / "pretrain" / "metrics.jsonl"
    if not path.exists():
        return {}
    rows = read_jsonl(path)
    last = [row for row in rows if row["kind"] == "train"][-1]
    held_out = [row for row in rows if row["kind"] == "valid"][-1]
    return {
        "updates": last["step"],
        "hours_heard": last["audio_seconds"] / 3600,
        "accuracy": held_out["accuracy"],
    }


def _start(*words: str, log: Path) -> subprocess.Popen[bytes]:
    """Run a verb with one thread."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "unheard.cli", *words],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=stream,
            stderr=subprocess.STDOUT,
        )


def _wait(running: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all; stop if one failed."""
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"a run ended with {codes}: see the logs")


def table(out: Path, variants: list[str], minutes: float) -> list[str]:
    """A row for each variant."""
    lines = [
        f"{minutes:g} minutes of pre-training, one thread each, two at a time; then "
        f"{FINETUNE_STEPS} updates of fine-tuning.",
        "",
        "| pre-trained by | updates | hours heard | accuracy, held out | CER (95 % interval) |",
        "|---|---|---|---|---|",
    ]
    for name in [*variants, RANDOM]:
        row = read_json(out / _slug(name) / "row.json")
        rate = row["rates"]["cer"]
        shown = f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
        if "updates" in row:
            far = f"{row['updates']:,} | {row['hours_heard']:.1f} | {row['accuracy']:.3f}"
        else:
            far = " | | "
        lines.append(f"| {name} | {far} | {shown} |")
    return lines


def _slug(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("sets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--only", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    pretrain_all(options.corpus, options.out, minutes=options.minutes, variants=options.only)
    finetune_all(options.sets, options.out, variants=options.only)
    lines = table(options.out, options.only, options.minutes)
    print("\n".join(lines))
    if options.write:
        body = "\n".join(lines)
        RESULTS.write_text(f"# What to pre-train by\n\n{body}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
