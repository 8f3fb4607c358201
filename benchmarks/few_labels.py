"""What a pre-trained start is worth with few transcripts: Luganda, Wolof and Amharic.

    python -m benchmarks.few_labels run DATA OUT [--start MODEL] [--only luganda-1h] [--seeds 0 1]
    python -m benchmarks.few_labels table OUT [--write]

Each task fine-tunes the network of the recipe mini twice for each seed, from the start and from
random weights, with the same recipe, the same number of updates and the same data, and measures
both on speakers that neither training nor validation heard. One in twenty of the utterances to
learn from is set aside to choose the best step by. Stopped and started again, it goes on; runs that
are done are not done again. DATA has the folders luganda, wolof and amharic of RESULTS.md, which
are only read.
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unheard.files import read_json, read_jsonl, write_json_atomic, write_jsonl_atomic
from unheard.tasks.evaluate import evaluate
from unheard.tasks.finetune import finetune

RESULTS = Path(__file__).parent / "results" / "few_labels.md"
RANDOM = "random weights"
SET_ASIDE = 20
"""One in so many utterances validates."""
WOLOF_TEST = "wo_09"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Transcripts to learn from, and those to measure with.

    Attributes:
        manifest: to learn from.
        test: to measure with.
        learns, tests: which utterances of the two files.
        steps: updates.
    """

    manifest: str
    test: str
    steps: int
    learns: Callable[[dict[str, Any]], bool] = lambda _: True
    tests: Callable[[dict[str, Any]], bool] = lambda _: True


TASKS = {
    "luganda-10min": Task(
        manifest="luganda/train-10min.jsonl", test="luganda/dev.jsonl", steps=1200
    ),
    "luganda-1h": Task(manifest="luganda/train-1h.jsonl", test="luganda/dev.jsonl", steps=2500),
    "luganda-all": Task(manifest="luganda/train.jsonl", test="luganda/dev.jsonl", steps=2000),
    "wolof": Task(
        manifest="wolof/manifest.jsonl",
        test="wolof/manifest.jsonl",
        steps=1200,
        learns=lambda row: row["speaker"] != WOLOF_TEST,
        tests=lambda row: row["speaker"] == WOLOF_TEST,
    ),
    "amharic": Task(
        manifest="amharic/manifest.jsonl",
        test="amharic/manifest.jsonl",
        steps=1500,
        learns=lambda row: row["split"] == "train",
        tests=lambda row: row["split"] == "test",
    ),
}


def prepare(task: Task, data: Path, folder: Path) -> None:
    """Write the three manifests of a task, and copy their recordings beside them."""
    learnt = [row for row in read_jsonl(data / task.manifest) if task.learns(row)]
    sets = {
        "train": [row for number, row in enumerate(learnt) if number % SET_ASIDE],
        "valid": learnt[::SET_ASIDE],
        "test": [row for row in read_jsonl(data / task.test) if task.tests(row)],
    }
    for name, rows in sets.items():
        for row in rows:
            row.pop("split", None)  # the corpus's own sets are not those of the task
            copy = folder / row["audio"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile((data / task.manifest).parent / row["audio"], copy)
        write_jsonl_atomic(folder / f"{name}.jsonl", rows)


def run(data: Path, out: Path, *, start: str, names: list[str], seeds: list[int]) -> None:
    """Do what is not done yet."""
    for name in names:
        task = TASKS[name]
        sets = out / name / "sets"
        if not (sets / "test.jsonl").exists():
            prepare(task, data, sets)
        for seed in seeds:
            for origin in (start, RANDOM):
                folder = out / name / f"{_slug(origin)}-{seed}"
                if (folder / "row.json").exists():
                    continue
                print(f"{name}, {origin}, seed {seed}", flush=True)
                found = finetune(
                    sets / "train.jsonl",
                    valid=sets / "valid.jsonl",
                    out=folder,
                    start=None if origin == RANDOM else origin,
                    recipe="mini",
                    max_steps=task.steps,
                    seed=seed + 1,
                )
                rates = evaluate(found.model, sets / "test.jsonl", out=folder / "test").to_dict()
                row = {
                    "task": name,
                    "start": origin,
                    "seed": seed + 1,
                    "steps": found.steps,
                    "minutes": found.minutes,
                    "utterances": found.utterances,
                    "threads": torch.get_num_threads(),
                    "rates": rates["error_rate"],
                }
                write_json_atomic(folder / "row.json", row)


def table(out: Path) -> Iterator[str]:
    """A row for each run that is done."""
    yield "| task | start | seed | updates | CER (95 % interval) | WER (95 % interval) |"
    yield "|---|---|---|---|---|---|"
    for name in TASKS:
        rows = [read_json(path) for path in sorted((out / name).glob("*/row.json"))]
        for row in sorted(
            rows, key=lambda row: (row["start"] == RANDOM, row["start"], row["seed"])
        ):
            yield (
                f"| {name} | {Path(row['start']).name} | {row['seed']} | {row['steps']:,} | "
                f"{_rate(row['rates']['cer'])} | {_rate(row['rates']['wer'])} |"
            )


def _rate(rate: dict[str, float]) -> str:
    return f"{rate['value']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"


def _slug(origin: str) -> str:
    return "random" if origin == RANDOM else Path(origin).name


def main() -> None:
    """Run tasks, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(required=True, dest="verb")
    run_verb = verbs.add_parser("run")
    run_verb.add_argument("data", type=Path)
    run_verb.add_argument("out", type=Path)
    run_verb.add_argument("--start", default="unheard-mini")
    run_verb.add_argument("--only", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    run_verb.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    table_verb = verbs.add_parser("table")
    table_verb.add_argument("out", type=Path)
    table_verb.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.verb == "run":
        run(
            options.data,
            options.out,
            start=options.start,
            names=options.only,
            seeds=options.seeds,
        )
        return
    lines = "\n".join(table(options.out))
    print(lines)
    if options.write:
        RESULTS.write_text(f"# Few labels\n\n{lines}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
