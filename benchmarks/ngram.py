"""N-gram models beside KenLM: the same models, the same scores, and how long it takes.

    python -m benchmarks.ngram FOLDER [--strings 10000] [--rounds 5]

FOLDER holds text.txt, models that KenLM's lmplz made of it (NAME.arpa.gz), and scores that KenLM's
query gave (NAME.scores.tsv). Trains the same models and compares every n-gram; compares the stored
scores; then scores random strings with both programs. Ends with an error if one differs by more
than 1e-4 (log10), or n-grams are missing.

The package `kenlm` has no wheel; where it cannot be imported, the comparison with it is left out
and said to be. Prints tables in Markdown. Times are medians over rounds in which the two programs
take turns, compilation and the first round left out.
"""

import argparse
import gzip
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unheard.lm.arpa import LN_10, read_arpa
from unheard.lm.kernel import NgramTables
from unheard.lm.ngram import NgramModel, train_ngram

MODELS: dict[str, tuple[int, tuple[int, ...]]] = {
    "2gram": (2, ()),
    "3gram": (3, ()),
    "5gram": (5, ()),
    "3gram-prune": (3, (0, 0, 1)),
}
TOLERANCE = 1e-4
ODD = (
    "",
    " ",
    "\t",
    "  a ",
    "\u00a0",
    "\u3000x",
    "e\u0301",
    "\x1c",
    "\x0b",
    "\r",
    "word\u2028word",
    "👩‍👩",
    "<",
    "|",
)


def entries(
    tables: NgramTables, words: tuple[str, ...]
) -> dict[tuple[str, ...], tuple[float, float]]:
    """N-gram -> log10 probability and back-off."""
    inner = len(tables.backoff)
    names: list[tuple[str, ...]] = [()] * len(tables.word)
    found = {}
    word, first = tables.word.tolist(), tables.first_child.tolist()
    log_prob, backoff = tables.log_prob.tolist(), tables.backoff.tolist()
    for node in range(inner):
        for child in range(first[node], first[node + 1]):
            names[child] = (*names[node], words[word[child]])
            rest = backoff[child] if child < inner else 0.0
            found[names[child]] = (log_prob[child] / LN_10, rest / LN_10)
    return found


def compare_training(folder: Path) -> float:
    """Train each model and compare every number; return the largest difference."""
    texts = (folder / "text.txt").read_text().splitlines()
    print(
        "| model | n-grams | missing | too many | probability off by | back-off off by | trained |"
    )
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for name, (order, prune) in MODELS.items():
        start = time.process_time()
        trained = train_ngram(texts, order=order, prune=prune)
        seconds = time.process_time() - start
        ours = entries(trained.model.tables, trained.model.vocabulary.words)
        vocabulary, tables = read_arpa(folder / f"{name}.arpa.gz")
        theirs = entries(tables, vocabulary.words)
        missing, extra = len(theirs.keys() - ours.keys()), len(ours.keys() - theirs.keys())
        both = ours.keys() & theirs.keys()
        off = [max(abs(ours[n][i] - theirs[n][i]) for n in both) for i in (0, 1)]
        worst = max(worst, *off, math.inf if missing or extra else 0.0)
        print(
            f"| {name} | {len(theirs):,} | {missing} | {extra} | {off[0]:.1e} | {off[1]:.1e} "
            f"| {seconds:.2f} s of processor |"
        )
    return worst


def compare_stored_scores(folder: Path) -> float:
    """Compare sentence scores that KenLM's query gave; return the largest difference."""
    print("\n| model | sentences | unknown words | score off by |\n|---|---|---|---|")
    worst = 0.0
    for name in MODELS:
        model = NgramModel.load(folder / f"{name}.arpa.gz")
        rows = [row.split("\t") for row in (folder / f"{name}.scores.tsv").read_text().splitlines()]
        off, unknown = 0.0, 0
        for score, count, text in rows:
            off = max(off, abs(model.score_sentence(text) / LN_10 - float(score)))
            found = sum(model.word_id(word) == 0 for word in text.split())
            unknown += found
            off = math.inf if found != int(count) else off
        worst = max(worst, off)
        print(f"| {name} | {len(rows):,} | {unknown:,} | {off:.1e} |")
    return worst


def random_strings(texts: list[str], count: int, *, seed: int) -> list[str]:
    """Parts of true sentences, shuffled words, misspelt words and odd characters."""
    draw = random.Random(seed)
    words = sorted({word for text in texts for word in text.split()})
    strings = []
    for number in range(count):
        kind = number % 4
        length = draw.randint(0, 24)
        if kind == 0:
            true = draw.choice(texts).split()
            start = draw.randrange(len(true))
            chosen = true[start : start + length]
        elif kind == 1:
            chosen = draw.choices(words, k=length)
        elif kind == 2:
            chosen = [word[: draw.randint(1, 9)] for word in draw.choices(words, k=length)]
        else:
            chosen = [
                draw.choice(words) if draw.random() < 0.7 else draw.choice(ODD)
                for _ in range(length)
            ]
        strings.append(draw.choice((" ", "  ", "\t")).join(chosen))
    return strings


def compare_package(folder: Path, kenlm: Any, *, count: int, rounds: int) -> float:
    """Score random strings with both programs; return the largest difference."""
    texts = (folder / "text.txt").read_text().splitlines()
    strings = random_strings(texts, count, seed=5)
    print(
        "\n| model | strings | score off by | load: KenLM | ours, ARPA | ours, mapped "
        "| score: KenLM | ours |\n|---|---|---|---|---|---|---|---|"
    )
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        for name in MODELS:
            arpa, mapped = Path(temporary, "m.arpa"), Path(temporary, "m.unheard-lm")
            arpa.write_bytes(gzip.decompress((folder / f"{name}.arpa.gz").read_bytes()))
            NgramModel.load(arpa).save(mapped)
            theirs, ours = kenlm.Model(str(arpa)), NgramModel.load(mapped)
            off = max(
                abs(ours.score_sentence(text) / LN_10 - theirs.score(text)) for text in strings
            )
            worst = max(worst, off)
            actions: list[Callable[[], object]] = [
                lambda arpa=arpa: kenlm.Model(str(arpa)),
                lambda arpa=arpa: NgramModel.load(arpa),
                lambda mapped=mapped: NgramModel.load(mapped),
                lambda theirs=theirs: [theirs.score(text) for text in strings],
                lambda ours=ours: [ours.score_sentence(text) for text in strings],
            ]
            seconds: list[list[float]] = [[] for _ in actions]
            for _ in range(rounds + 1):
                for place, action in enumerate(actions):
                    start = time.process_time()
                    action()
                    seconds[place].append(time.process_time() - start)
            middle = [statistics.median(one[1:]) * 1e3 for one in seconds]
            print(
                f"| {name} | {len(strings):,} | {off:.1e} | "
                + " | ".join(f"{m:.0f} ms" for m in middle)
                + " |"
            )
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--strings", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    train_ngram(["a"], order=2)  # compiles, or loads what was compiled
    worst = max(compare_training(arguments.folder), compare_stored_scores(arguments.folder))
    try:
        import kenlm
    except ImportError:
        print("\nThe package kenlm is not installed: random strings were not compared.")
    else:
        worst = max(
            worst,
            compare_package(
                arguments.folder, kenlm, count=arguments.strings, rounds=arguments.rounds
            ),
        )
    print(f"\nlargest difference: {worst:.1e} (log10), allowed: {TOLERANCE:g}")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
