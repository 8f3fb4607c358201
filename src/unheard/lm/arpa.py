"""ARPA files: the form in which n-gram models are exchanged, with logarithms to the base ten."""

import gzip
import math
from pathlib import Path

import numpy as np

from unheard.errors import FormatError
from unheard.lm.kernel import NgramTables
from unheard.lm.trie import Level, build_tables
from unheard.lm.vocabulary import UNKNOWN, Vocabulary

LN_10 = math.log(10.0)


def read_arpa(path: Path) -> tuple[Vocabulary, NgramTables]:
    """Read a model (first form: one line after the other)."""
    opener = gzip.open if path.read_bytes()[:2] == b"\x1f\x8b" else open
    rows: list[list[tuple[tuple[str, ...], float, float]]] = []
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        for line in file:
            line = line.strip(" \t\r\n")
            if line.endswith("-grams:"):
                rows.append([])
            elif rows and line and not line.startswith("\\end"):
                fields = line.replace("\t", " ").split(" ")
                n = len(rows)
                backoff = float(fields[n + 1]) if len(fields) > n + 1 else 0.0
                rows[-1].append((tuple(fields[1 : n + 1]), float(fields[0]), backoff))
    if not rows:
        raise FormatError(f"{path} is no ARPA file.")
    words = [row[0][0] for row in rows[0]]
    order = [UNKNOWN, *(word for word in words if word != UNKNOWN)]
    vocabulary = Vocabulary(order)
    if UNKNOWN not in words:
        rows[0].append(((UNKNOWN,), -100.0, 0.0))
    place: dict[tuple[int, ...], int] = {(): 0}
    levels = []
    for level in rows:
        entries = sorted(
            (
                place[tuple(map(vocabulary.id_of, ngram[:-1]))],
                vocabulary.id_of(ngram[-1]),
                ngram,
                p,
                b,
            )
            for ngram, p, b in level
        )
        place = {tuple(map(vocabulary.id_of, e[2])): number for number, e in enumerate(entries)}
        levels.append(
            Level(
                context=np.array([e[0] for e in entries], dtype=np.int64),
                word=np.array([e[1] for e in entries], dtype=np.int32),
                log_prob=np.array([e[3] * LN_10 for e in entries], dtype=np.float32),
                backoff=np.array([e[4] * LN_10 for e in entries], dtype=np.float32),
            )
        )
    return vocabulary, build_tables(levels)
