"""Search through a lexicon beside flashlight-text: time, error rate, first use, two cores.

    OMP_NUM_THREADS=1 python benchmarks/lexicon_search.py TEXT LM.arpa [--utterances 60]
        [--beams 10 50 100 500 1500] [--repeats 3] [--lm-weight 2.0] [--word-score -1.0]
        [--noise 2.4] [--out benchmarks/results/lexicon_search.md]

TEXT holds a sentence on each line, LM.arpa an n-gram model of its words (`unheard lm train` makes
one). Emissions are made of sentences by chance, seeded: some frames a letter, blanks between, noise
on all symbols and some letters confused; the lexicon is the model's vocabulary. Both searches get
the same emissions, ARPA file, lexicon, weights, beam and threshold (50 nats), in one process, one
after the other for each beam and repeat; the table has the fastest repeat of each, in processor
time. Ours is timed whole: search, texts, word times, confidences, score parts. flashlight-text
(Python 3.11 or 3.12; no dependency of this project: install it beside) is timed without what
follows its search. Without it, only ours is measured.
"""

import argparse
import gzip
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from unheard.decoding.emissions import Emissions
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
from unheard.decoding.search import SearchConfig
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import word_errors

THRESHOLD_NATS = 50.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both searches are given."""

    lm_path: Path
    lm: NgramModel
    lexicon: Lexicon
    references: list[str]
    emissions: list[Emissions]
    lm_weight: float
    word_score: float

    @property
    def seconds(self) -> float:
        """How much sound it would be."""
        return sum(e.num_samples / e.sample_rate for e in self.emissions)

    def error_rate(self, texts: list[str]) -> float:
        """Word error rate of all utterances."""
        counts = [word_errors(r, t) for r, t in zip(self.references, texts, strict=True)]
        errors = sum(c.substitutions + c.deletions + c.insertions for c in counts)
        return errors / sum(c.reference_length for c in counts)


def make_emissions(
    text: str, alphabet: Alphabet, rng: np.random.Generator, *, noise: float
) -> Emissions:
    """Log-probabilities of a sentence at 50 frames a second, about a dozen letters a second."""
    rows: list[np.ndarray] = []

    def say(symbol: int, frames: int) -> None:
        for _ in range(frames):
            row = rng.normal(0.0, noise, len(alphabet))
            row[symbol] += 6.0
            if rng.random() < 0.08 * noise:
                row[rng.integers(1, len(alphabet))] += rng.uniform(3.0, 7.0)
            rows.append(row)

    before = -1
    for symbol in alphabet.encode(text):
        say(alphabet.blank_id, int(rng.integers(symbol == before, 4)))
        say(symbol, int(rng.integers(1, 4)))
        before = symbol
    say(alphabet.blank_id, 3)
    return Emissions(
        log_probs=torch.from_numpy(np.array(rows)).log_softmax(dim=-1).float(),
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=320 * len(rows),
        sample_rate=16_000,
    )


def make_task(options: argparse.Namespace) -> Task:
    """Read the files and make the emissions."""
    sentences = [s.strip() for s in options.text.read_text(encoding="utf-8").splitlines()]
    sentences = [" ".join(s.split()) for s in sentences if s]
    alphabet = Alphabet.from_texts(sentences, normalizer="basic-1")
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(sentences), options.utterances, replace=False)
    references = [sentences[number] for number in chosen]
    lm = NgramModel.load(options.lm, units="word")
    return Task(
        lm_path=options.lm,
        lm=lm,
        lexicon=Lexicon.from_model(lm, alphabet),
        references=references,
        emissions=[make_emissions(r, alphabet, rng, noise=options.noise) for r in references],
        lm_weight=options.lm_weight,
        word_score=options.word_score,
    )


def ours(task: Task) -> Callable[[int], list[str]]:
    """Return what decodes all utterances with a beam."""
    base = LexiconDecoder(task.lexicon, lm=task.lm)

    def decode(beam: int) -> list[str]:
        config = SearchConfig.from_flashlight(
            lm_weight=task.lm_weight,
            word_score=task.word_score,
            beam_size=beam,
            beam_threshold=THRESHOLD_NATS,
        )
        decoder = base.with_config(config)
        return [decoder.decode(one)[0].text for one in task.emissions]

    return decode


def flashlight(task: Task, folder: Path) -> Callable[[int], list[str]]:
    """Return the same of flashlight-text."""
    from flashlight.lib.text import decoder as peer
    from flashlight.lib.text.decoder.kenlm import KenLM
    from flashlight.lib.text.dictionary import Dictionary, create_word_dict

    alphabet = task.lexicon.alphabet
    spellings: dict[str, list[list[str]]] = {"<unk>": []}
    for word, spelling in task.lexicon.spellings:
        symbols = [*(alphabet.tokens[s] for s in spelling), "|"]
        spellings.setdefault(task.lexicon.words[word], []).append(symbols)
    words, tokens = create_word_dict(spellings), Dictionary(list(alphabet.tokens))
    path = task.lm_path
    if path.suffix == ".gz":
        path = folder / "lm.arpa"
        path.write_bytes(gzip.decompress(task.lm_path.read_bytes()))
    lm = KenLM(str(path), words)
    boundary, unknown = tokens.get_index("|"), words.get_index("<unk>")
    trie = peer.Trie(tokens.index_size(), boundary)
    for word, several in spellings.items():
        number = words.get_index(word)
        _, score = lm.score(lm.start(False), number)
        for symbols in several:
            trie.insert([tokens.get_index(s) for s in symbols], number, score)
    trie.smear(peer.SmearingMode.MAX)
    arrays = [np.ascontiguousarray(e.log_probs.numpy()) for e in task.emissions]

    def decode(beam: int) -> list[str]:
        options = peer.LexiconDecoderOptions(
            beam_size=beam,
            beam_size_token=len(alphabet),
            beam_threshold=THRESHOLD_NATS,
            lm_weight=task.lm_weight,
            word_score=task.word_score,
            unk_score=-1e9,
            sil_score=0.0,
            log_add=False,
            criterion_type=peer.CriterionType.CTC,
        )
        search = peer.LexiconDecoder(
            options, trie, lm, boundary, alphabet.blank_id, unknown, [], False
        )
        best = [search.decode(a.ctypes.data, *a.shape)[0] for a in arrays]
        return [" ".join(words.get_entry(w) for w in one.words if w >= 0) for one in best]

    return decode


def fastest(decode: Callable[[int], list[str]], beam: int) -> tuple[float, list[str]]:
    """Processor time of one run over all utterances [s], and its texts."""
    start = time.process_time()
    texts = decode(beam)
    return time.process_time() - start, texts


def measure(task: Task, options: argparse.Namespace) -> list[str]:
    """Measure every beam; return the lines of a table."""
    searches: dict[str, Callable[[int], list[str]]] = {"unheard": ours(task)}
    with tempfile.TemporaryDirectory() as folder:
        if importlib.util.find_spec("flashlight"):
            searches["flashlight-text"] = flashlight(task, Path(folder))
        for decode in searches.values():
            decode(2)  # compile, or read the compiled code; touch the memory
        lines = [
            "| beam | " + " | ".join(f"{name}: ms, WER" for name in searches) + " | ratio |",
            "|---|" + "---|" * (len(searches) + 1),
        ]
        for beam in options.beams:
            times: dict[str, list[float]] = {name: [] for name in searches}
            rates: dict[str, float] = {}
            for _ in range(options.repeats):
                for name, decode in searches.items():
                    seconds, texts = fastest(decode, beam)
                    times[name].append(1000 * seconds / task.seconds)
                    rates[name] = task.error_rate(texts)
            best = {name: min(values) for name, values in times.items()}
            cells = " | ".join(f"{best[name]:.2f}, {rates[name]:.4f}" for name in searches)
            ratio = best.get("flashlight-text", float("nan")) / best["unheard"]
            lines.append(f"| {beam} | {cells} | {ratio:.1f} |")
            print(lines[-1], flush=True)
    return lines


def two_threads(task: Task) -> str:
    """Compare the clock of one thread and of two."""
    decoder = LexiconDecoder(
        task.lexicon,
        lm=task.lm,
        config=SearchConfig.from_flashlight(
            lm_weight=task.lm_weight, word_score=task.word_score, beam_size=500
        ),
    )
    clock = []
    for threads in (1, 2):
        start = time.perf_counter()
        decoder.decode_many(task.emissions, threads=threads)
        clock.append(time.perf_counter() - start)
    return f"Two threads take {clock[1] / clock[0]:.2f} of the clock of one (beam 500)."


FIRST_USE = """
import sys, time
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet
import torch
from unheard.decoding.emissions import Emissions
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.lexicon_search import LexiconDecoder
lm = NgramModel.load(sys.argv[1], units="word")
words = [w for w in lm.vocabulary.words if not w.startswith("<")][:1000]
lexicon = Lexicon.from_words(words, Alphabet.from_texts(words, normalizer=str))
log_probs = torch.zeros(9, len(lexicon.alphabet)).log_softmax(-1)
start = time.process_time()
LexiconDecoder(lexicon, lm=lm).decode(Emissions(log_probs=log_probs, frame_stride_samples=320,
    frame_offset_samples=200, num_samples=2880, sample_rate=16000))
print(time.process_time() - start)
"""


def first_use(lm: Path) -> str:
    """Time the first decode of a process, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        seconds = [
            float(
                subprocess.run(
                    [sys.executable, "-c", FIRST_USE, str(lm)],
                    env=environment,
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for _ in range(2)
        ]
    return (
        f"First decode of a process: {seconds[0]:.1f} s with an empty cache (compilation), "
        f"{seconds[1]:.2f} s after that."
    )


def versions() -> str:
    """Name the machine and what ran."""
    parts: list[Any] = [
        f"{platform.machine()}, {os.cpu_count()} cores",
        f"Python {platform.python_version()}",
        f"numba {numba.__version__}",
        f"numpy {np.__version__}",
    ]
    return "; ".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("lm", type=Path)
    parser.add_argument("--utterances", type=int, default=60)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50, 100, 500, 1500])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--lm-weight", type=float, default=2.0, help="for decimal logarithms")
    parser.add_argument("--word-score", type=float, default=-1.0)
    parser.add_argument("--noise", type=float, default=2.4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = make_task(options)
    lines = [
        "# Search through a lexicon",
        "",
        f"`python benchmarks/lexicon_search.py {options.text.name} {options.lm.name} --utterances "
        f"{options.utterances}`: {task.seconds:.0f} s of synthetic emissions, "
        f"{len(task.lexicon):,} words, {task.lm.order}-gram; cost of one second of sound in "
        f"processor time, one core. {versions()}.",
        "",
        *measure(task, options),
        "",
        two_threads(task),
        first_use(options.lm),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
