"""A Transformer in the beam beside one that puts readings in order, and beside an n-gram alone.

    python -m benchmarks.fusion DEV MODEL OUT --lm LM.arpa.gz --lexicon words.txt
        --transformer FOLDER [--trials 32] [--beam 100] [--rounds 3] [--write]

`unheard tune` finds the weights of each decoder on one half of DEV, transcribed recordings that
nothing was trained on (a manifest, or what `unheard scan` reads); rates are of the other half.
The second table searches all of DEV with the weights of the Transformer in the beam: how much
better the best reading scores than the best of 50 readings that are put in order with the same
weights, by how often the Transformer is asked. Times are medians of rounds in which the decoders
take turns.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import cast

import numpy as np
import torch

import unheard
from unheard.data.manifest import audio_path
from unheard.decoding.emissions import Emissions
from unheard.decoding.fusion import FusedDecoder
from unheard.decoding.hypothesis import Hypothesis
from unheard.decoding.rescore import RescoreConfig
from unheard.decoding.rescoring import RescoringDecoder
from unheard.decoding.search import Decoder, SearchDecoder
from unheard.inference.neural_reader import NeuralReader
from unheard.tasks.evaluate import find_utterances
from unheard.tasks.searching import RESCORED, SearchOptions
from unheard.tasks.tune import tune
from unheard.text.error_rate import ErrorReport

RESULTS = Path(__file__).parent / "results" / "fusion.md"
BLOCKS = (4, 16, 64)


def main() -> None:
    """Tune, measure, print and, if asked, write."""
    parser = argparse.ArgumentParser(description="Measure a Transformer in the beam.")
    parser.add_argument("dev", type=Path)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--transformer", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = unheard.load_model(given.model)
    if model.alphabet is None:
        raise SystemExit(f"{given.model} writes no text: expected a fine-tuned model.")
    utterances, folder, _ = find_utterances(given.dev, None)
    heard = [unheard.emissions(model, audio_path(one, folder)) for one in utterances]
    seconds = sum(one.num_samples / one.sample_rate for one in heard)
    first = [
        "| search | decoder | WER (95 % interval) | CER (95 % interval) | weights | cost of a "
        "second of sound | |",
        "|---|---|---|---|---|---|---|",
    ]
    second = [
        "| search | asked after | keeps alike | score beside 50 in order | |",
        "|---|---|---|---|---|",
    ]
    for kind, lexicon in (("any text", None), ("lexicon", given.lexicon)):
        rates, decoders, weights = tuned(given, kind, lexicon, model.alphabet)
        cost = costs(decoders, heard, given.rounds)
        for name, decoder_rates in rates.items():
            first.append(
                f"| {kind} | {name} | {decoder_rates.wer} | {decoder_rates.cer} | {weights[name]} "
                f"| {1000 * cost[name] / seconds:.1f} ms | {cost[name] / cost['n-gram']:.1f} x |"
            )
        print("\n".join(first[-3:]), flush=True)
        rows = list(blocks(decoders, heard))
        second += [f"| {kind} | {row} |" for row in rows]
        print("\n".join(second[-len(rows) :]), flush=True)
    command = "python -m benchmarks.fusion " + " ".join(Path(word).name for word in sys.argv[1:])
    text = (
        f"# A Transformer in the beam\n\n    {command}\n\n"
        f"Commit {commit()}, {platform.processor() or platform.machine()}, one thread, torch "
        f"{torch.__version__}, numpy {np.__version__}; {len(heard)} recordings, {seconds:.0f} s, "
        f"beam {given.beam}, {given.trials} trials for each search.\n\n"
        + "\n".join(first)
        + "\n\nWith the weights of the Transformer in the beam, all recordings:\n\n"
        + "\n".join(second)
        + "\n"
    )
    if given.write:
        RESULTS.write_text(text, encoding="utf-8")
    print(text)


def tuned(
    given: argparse.Namespace, kind: str, lexicon: Path | None, alphabet: unheard.Alphabet
) -> tuple[dict[str, ErrorReport], dict[str, Decoder], dict[str, str]]:
    """Find weights; returns rates, decoders and weights by name."""
    place = given.out / kind.replace(" ", "-")
    common = {"lm": given.lm, "lexicon": lexicon}
    same = {**common, "trials": given.trials, "threads": 1, "quiet": True}
    plain = tune(
        given.model,
        given.dev,
        out=place / "rescore",
        beam=given.beam,
        rescore=given.transformer,
        **same,
    )
    fused = tune(
        given.model,
        given.dev,
        out=place / "fuse",
        preset=str(plain.settings),  # where it begins
        fuse=given.transformer,
        **same,
    )
    mix, own = plain.rescoring, fused.config
    if mix is None or plain.rescored is None:
        raise SystemExit("no weights of rescoring were found")
    rates = {
        "n-gram": plain.tuned,
        "then Transformer": plain.rescored,
        "with Transformer": fused.tuned,
    }
    settings = {"n-gram": str(plain.settings), "with Transformer": str(fused.settings)}
    decoders = {
        "n-gram": SearchOptions(**common, preset=settings["n-gram"]),
        "then Transformer": SearchOptions(
            **common, preset=settings["n-gram"], rescore=given.transformer
        ),
        "with Transformer": SearchOptions(
            **common, preset=settings["with Transformer"], fuse=given.transformer
        ),
    }
    return (
        rates,
        {name: options.decoder(alphabet) for name, options in decoders.items()},
        {
            "n-gram": f"LM {plain.config.lm_weight:.2f}, word {plain.config.word_bonus:+.2f}",
            "then Transformer": f"Transformer {mix.weight:.2f}, LM x {mix.lm_scale:.2f}, word "
            f"{mix.word_bonus:+.2f}",
            "with Transformer": f"Transformer {own.fuse_weight:.2f}, LM {own.lm_weight:.2f}, word "
            f"{own.word_bonus:+.2f}",
        },
    )


def costs(
    decoders: Mapping[str, Decoder], heard: Sequence[Emissions], rounds: int
) -> dict[str, float]:
    """Median seconds that each decoder takes, in turns, after one recording to warm up."""
    taken: dict[str, list[float]] = {name: [] for name in decoders}
    for decoder in decoders.values():
        decoder.decode(heard[0])
    for _ in range(rounds):
        for name, decoder in decoders.items():
            taken[name].append(search(decoder, heard)[1])
    return {name: median(times) for name, times in taken.items()}


def blocks(decoders: Mapping[str, Decoder], heard: Sequence[Emissions]) -> Iterator[str]:
    """Rows of the second table."""
    fused = cast("FusedDecoder", decoders["with Transformer"])
    rescoring = cast("RescoringDecoder", decoders["then Transformer"])
    own = fused.config
    # What stands in for the Transformer in the beam is what is replaced here.
    total = own.lm_weight + own.fuse_weight
    ordered = RescoringDecoder(
        cast("SearchDecoder", rescoring.decoder).with_config(
            replace(own, lm_weight=total, nbest=RESCORED, fuse_weight=0.0)
        ),
        rescoring.scorer,
        config=RescoreConfig(weight=own.fuse_weight, lm_scale=own.lm_weight / total),
        nbest=1,
    )
    found, seconds = search(ordered, heard)
    least = scores(found)
    for frames in BLOCKS:
        for alike in (1, own.beam):
            decoder = fused.with_config(replace(own, fuse_frames=frames, alike=alike))
            found, taken = search(decoder, heard)
            kept = "all" if alike == own.beam else alike
            gain = np.mean(scores(found) - least)
            yield f"{frames} frames | {kept} | {gain:+.2f} | {taken / seconds:.1f} x"


def search(decoder: Decoder, heard: Sequence[Emissions]) -> tuple[list[list[Hypothesis]], float]:
    """Decode all recordings, as a decoder that has read nothing before."""
    if isinstance(decoder, FusedDecoder):
        cast("NeuralReader", decoder.scorer).forget()
    started = time.perf_counter()
    found = decoder.decode_many(heard, threads=1)
    return found, time.perf_counter() - started


def scores(found: Sequence[Sequence[Hypothesis]]) -> np.ndarray:
    """Score of the best reading of each recording."""
    return np.array([readings[0].score for readings in found])


def commit() -> str:
    """Name the version that is measured."""
    asked = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
