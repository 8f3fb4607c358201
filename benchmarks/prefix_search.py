"""Prefix search beside pyctcdecode: time, error rate, first use, two cores.

    OMP_NUM_THREADS=1 python -m benchmarks.prefix_search TEXT LM.arpa
        [--peer-python /path/to/python] [--utterances 30] [--beams 10 50 100 500 1500]
        [--peer-beams 10 50 100] [--repeats 3] [--alpha 0.9] [--beta 0.0] [--unknown -10]
        [--noise 2.4] [--out benchmarks/results/prefix_search.md]

TEXT holds a sentence on each line, LM.arpa an n-gram model of its words (`unheard lm train` makes
one). Emissions are made of sentences by chance, as in `benchmarks/lexicon_search.py`. Both searches
get the same emissions, ARPA file, weights, beam and thresholds (pyctcdecode's own: -10 for beams,
-5 for symbols), in turns, one after the other for each beam and repeat; the table has the fastest
repeat of each, in processor time. pyctcdecode wants numpy 1 and runs in an environment of its own,
whose interpreter --peer-python names (`benchmarks/pyctcdecode_worker.py` says how to make it);
reading emissions and starting are not timed. Ours is timed whole: search, texts, word times,
confidences, score parts. Without --peer-python only ours is measured.

The last column is ours with our own defaults of the thresholds and the score of unknown words.
"""

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from benchmarks.lexicon_search import make_emissions

from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.decoding.search import SearchConfig
from unheard.lm.ngram import NgramModel
from unheard.lm.vocabulary import MARKERS
from unheard.text.alphabet import Alphabet
from unheard.text.error_rate import word_errors

BEAM_PRUNE, TOKEN_MIN = -10.0, -5.0


@dataclass(frozen=True, kw_only=True)
class Run:
    """One pass over all utterances."""

    processor_seconds: float
    clock_seconds: float
    texts: list[str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What both searches are given."""

    alphabet: Alphabet
    lm: NgramModel
    references: list[str]
    emissions: list[Emissions]

    @property
    def seconds(self) -> float:
        """How much sound it would be."""
        return sum(one.log_probs.shape[0] for one in self.emissions) / 50

    def error_rate(self, texts: Sequence[str]) -> float:
        """Word error rate of all utterances."""
        counts = [word_errors(r, t) for r, t in zip(self.references, texts, strict=True)]
        errors = sum(c.substitutions + c.deletions + c.insertions for c in counts)
        return errors / sum(c.reference_length for c in counts)


def make_task(options: argparse.Namespace) -> Task:
    """Read the files and make the emissions."""
    lines = options.text.read_text(encoding="utf-8").splitlines()
    sentences = [" ".join(line.split()) for line in lines if line.strip()]
    alphabet = Alphabet.from_texts(sentences, normalizer="basic-1")
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(sentences), options.utterances, replace=False)
    references = [sentences[number] for number in chosen]
    return Task(
        alphabet=alphabet,
        lm=NgramModel.load(options.lm, units="word"),
        references=references,
        emissions=[make_emissions(r, alphabet, rng, noise=options.noise) for r in references],
    )


class Ours:
    """Our search over the task."""

    def __init__(self, task: Task, options: argparse.Namespace) -> None:
        self._task = task
        self._options = options
        self._decoder = PrefixDecoder(task.alphabet, lm=task.lm)

    def run(self, beam: int, *, threads: int = 1, own_settings: bool = False) -> Run:
        config = SearchConfig.from_pyctcdecode(
            alpha=self._options.alpha,
            beta=self._options.beta,
            unk_score_offset=self._options.unknown,
            beam_width=beam,
            beam_prune_logp=BEAM_PRUNE,
            token_min_logp=TOKEN_MIN,
        )
        if own_settings:
            own = SearchConfig()
            config = replace(
                config,
                beam_threshold=own.beam_threshold,
                symbol_threshold=own.symbol_threshold,
                unknown_score=own.unknown_score,
            )
        decoder = self._decoder.with_config(config)
        clock, processor = time.perf_counter(), time.process_time()
        found = decoder.decode_many(self._task.emissions, threads=threads)
        return Run(
            processor_seconds=time.process_time() - processor,
            clock_seconds=time.perf_counter() - clock,
            texts=[readings[0].text for readings in found],
        )


class Pyctcdecode:
    """pyctcdecode in a process of its own."""

    def __init__(self, task: Task, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        arpa = options.lm
        if arpa.suffix == ".gz":
            arpa = folder / "lm.arpa"
            arpa.write_bytes(gzip.decompress(options.lm.read_bytes()))
        emissions = folder / "emissions.npz"
        np.savez(emissions, **{f"u{n}": e.log_probs.numpy() for n, e in enumerate(task.emissions)})
        written = {task.alphabet.blank: "", task.alphabet.word_boundary: " "}
        worker = Path(__file__).with_name("pyctcdecode_worker.py")
        self._process = subprocess.Popen(
            [options.peer_python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(
            labels=[written.get(token, token) for token in task.alphabet.tokens],
            arpa=str(arpa),
            words=[word for word in task.lm.vocabulary.words if word not in MARKERS],
            emissions=str(emissions),
        )

    def run(self, beam: int, *, threads: int = 1) -> Run:
        return Run(
            **self._ask(
                alpha=self._options.alpha,
                beta=self._options.beta,
                unk_score_offset=self._options.unknown,
                beam_width=beam,
                beam_prune_logp=BEAM_PRUNE,
                token_min_logp=TOKEN_MIN,
                processes=threads,
            )
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def measure(task: Task, ours: Ours, peer: Pyctcdecode | None, options: Any) -> list[str]:
    """Measure every beam; return the lines of a table."""
    ours.run(2)  # compile, or read the compiled code; touch the memory
    lines = [
        "| beam | pyctcdecode: ms, WER | unheard: ms, WER | ratio | unheard, own settings |",
        "|---|---|---|---|---|",
    ]
    for beam in options.beams:
        peer_runs: list[Run] = []
        our_runs: list[Run] = []
        own_runs: list[Run] = []
        for _ in range(options.repeats):
            if peer is not None and beam in options.peer_beams:
                peer_runs.append(peer.run(beam))
            our_runs.append(ours.run(beam))
            own_runs.append(ours.run(beam, own_settings=True))
        cost, cell = _fastest(task, our_runs)
        _, own_cell = _fastest(task, own_runs)
        peer_cell, ratio = "-", "-"
        if peer_runs:
            peer_cost, peer_cell = _fastest(task, peer_runs)
            ratio = f"{peer_cost / cost:.0f}"
        lines.append(f"| {beam} | {peer_cell} | {cell} | {ratio} | {own_cell} |")
        print(lines[-1], flush=True)
    return lines


def _fastest(task: Task, runs: Sequence[Run]) -> tuple[float, str]:
    """Return the cost of one second of sound [ms], and it with the error rate as a cell."""
    cost = 1000 * min(run.processor_seconds for run in runs) / task.seconds
    return cost, f"{cost:.2f}, {task.error_rate(runs[0].texts):.4f}"


def on_two_cores(task: Task, ours: Ours, peer: Pyctcdecode | None, options: Any) -> list[str]:
    """Seconds of sound a second of the clock, with one and two threads or processes."""
    searches: list[tuple[str, Ours | Pyctcdecode]] = [("unheard, threads", ours)]
    if peer is not None:
        searches.append(("pyctcdecode, processes", peer))
    lines = ["| beam 100, seconds of sound a second | 1 | 2 |", "|---|---|---|"]
    for name, search in searches:
        speeds = []
        for threads in (1, 2):
            runs = [search.run(100, threads=threads) for _ in range(options.repeats)]
            speeds.append(task.seconds / min(run.clock_seconds for run in runs))
        lines.append(f"| {name} | {speeds[0]:.0f} | {speeds[1]:.0f} |")
        print(lines[-1], flush=True)
    return lines


FIRST_USE = """
import sys, time
import torch
from unheard.decoding.emissions import Emissions
from unheard.decoding.prefix_search import PrefixDecoder
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet
lm = NgramModel.load(sys.argv[1], units="word")
words = [w for w in lm.vocabulary.words if not w.startswith("<")]
alphabet = Alphabet.from_texts(words, normalizer=str)
log_probs = torch.zeros(9, len(alphabet)).log_softmax(-1)
decoder = PrefixDecoder(alphabet, lm=lm)
start = time.process_time()
decoder.decode(Emissions(log_probs=log_probs, frame_stride_samples=320,
    frame_offset_samples=200, num_samples=2880, sample_rate=16000))
print(time.process_time() - start)
"""


def first_use(lm: Path) -> str:
    """Time the first decode of a process, with an empty cache and with a full one."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        command = [sys.executable, "-c", FIRST_USE, str(lm)]
        seconds = [
            float(
                subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                ).stdout
            )
            for _ in range(2)
        ]
    return (
        f"First decode of a process: {seconds[0]:.1f} s with an empty cache (compilation), "
        f"{seconds[1]:.2f} s after that."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("lm", type=Path)
    parser.add_argument("--peer-python", help="of an environment with pyctcdecode")
    parser.add_argument("--utterances", type=int, default=30)
    parser.add_argument("--beams", type=int, nargs="+", default=[10, 50, 100, 500, 1500])
    parser.add_argument("--peer-beams", type=int, nargs="+", default=[10, 50, 100])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--alpha", type=float, default=0.9)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--unknown", type=float, default=-10.0, help="decimal, times alpha")
    parser.add_argument("--noise", type=float, default=2.4)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    task = make_task(options)
    ours = Ours(task, options)
    greedy = GreedyDecoder(task.alphabet).decode_many(task.emissions)
    with tempfile.TemporaryDirectory() as folder:
        peer = Pyctcdecode(task, options, Path(folder)) if options.peer_python else None
        lines = [
            "# Prefix search",
            "",
            f"`python -m benchmarks.prefix_search {options.text.name} {options.lm.name} "
            f"--utterances {options.utterances} --noise {options.noise}`: {task.seconds:.0f} s of "
            f"synthetic emissions, {len(task.lm.vocabulary):,} words, {task.lm.order}-gram, alpha "
            f"{options.alpha}, beta {options.beta}; cost of one second of sound in processor "
            f"time, one core. {platform.machine()}, {os.cpu_count()} cores; Python "
            f"{platform.python_version()}; numba {numba.__version__}; numpy {np.__version__}.",
            "",
            f"Greedy: WER {task.error_rate([readings[0].text for readings in greedy]):.4f}.",
            "",
            *measure(task, ours, peer, options),
            "",
            *on_two_cores(task, ours, peer, options),
            "",
            first_use(options.lm),
        ]
        if peer is not None:
            peer.close()
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
