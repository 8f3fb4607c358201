"""A Transformer language model beside n-grams: how well each foretells sentences it has not seen.

    python -m benchmarks.language_model TEXT [--held-out 220] [--max-steps N] [--units piece]

TEXT has a sentence on each line. Some of the different sentences are held out from all models,
which learn from the rest with the settings of `unheard lm train`. Models of different units are
compared by bits per character; n-grams of words are left out, as what they give to an unknown
word does not say how it is spelt. The last row mixes the probabilities that the Transformer and the
n-gram of pieces give to each sentence, with a share found on the first half of the held-out
sentences and measured on the second.

Prints a table in Markdown. Set OMP_NUM_THREADS=1 for the time of one core.
"""

import argparse
import math
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unheard.inference.neural_model import NeuralModel
from unheard.lm.ngram import NgramModel
from unheard.lm.scorer import UnitScorer
from unheard.tasks.language_model import part
from unheard.tasks.lm import measure, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("--held-out", type=int, default=220)
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--units", default="piece", choices=["piece", "character"])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    texts = [line.strip() for line in options.text.read_text("utf-8").splitlines()]
    _, drawn = part(texts, None, seed=options.seed)
    held_out = drawn[: options.held_out]
    known = {*held_out}
    learned = [text for text in texts if text and text not in known]
    print(f"{len(learned)} sentences to learn from, {len(held_out)} held out\n")
    print("| model | seconds | perplexity of a word | bits per character | sentences a second |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "learned.txt").write_text("\n".join(learned), "utf-8")
        (folder / "held.txt").write_text("\n".join(held_out), "utf-8")
        models: dict[str, UnitScorer] = {}
        for units, order in (("piece", 5), ("character", 8)):
            out = folder / f"{units}.unheard-lm"
            began = time.perf_counter()
            train([folder / "learned.txt"], out=out, order=order, units=units)
            seconds = time.perf_counter() - began
            models[f"{order}-gram of {units}s"] = model = NgramModel.load(out)
            show(f"{order}-gram of {units}s", model, held_out, seconds)
        began = time.perf_counter()
        made = train(
            [folder / "learned.txt"],
            out=folder / "lm",
            kind="transformer",
            units=options.units,
            valid=[folder / "held.txt"],
            max_steps=options.max_steps,
            seed=options.seed,
            device="cpu",
        )
        seconds = time.perf_counter() - began
        neural = NeuralModel.load(folder / "lm")
        show(f"Transformer of {options.units}s", neural, held_out, seconds)
        show_mixture(models["5-gram of pieces"], neural, held_out)
        print(f"\n{made}")


def show(name: str, model: UnitScorer, texts: list[str], seconds: float) -> None:
    """Print the row of one model."""
    began = time.perf_counter()
    found = measure(model, texts)
    rate = len(texts) / (time.perf_counter() - began)
    print(
        f"| {name} | {seconds:.1f} | {found.word_perplexity:,.0f} | "
        f"{found.bits_per_character:.3f} | {rate:,.0f} |",
        flush=True,
    )


def show_mixture(one: UnitScorer, other: UnitScorer, texts: list[str]) -> None:
    """Print the row of a mixture of two models' probabilities of sentences."""
    scores = np.stack([one.score_sentences(texts), other.score_sentences(texts)])
    half = len(texts) // 2
    shares = np.linspace(0.01, 0.99, 99)
    best = max(shares, key=lambda share: float(mixed(scores[:, :half], share).sum()))
    log_prob = float(mixed(scores[:, half:], best).sum())
    words = sum(len(text.split()) + 1 for text in texts[half:])
    characters = sum(len(text) + 1 for text in texts[half:])
    alone = [-float(row[half:].sum()) / math.log(2) / characters for row in scores]
    print(
        f"| both, {best:.2f} of the Transformer; second half only | | "
        f"{math.exp(-log_prob / words):,.0f} | {-log_prob / math.log(2) / characters:.3f} "
        f"(alone {alone[0]:.3f} and {alone[1]:.3f}) | |"
    )


def mixed(scores: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    """Log of the mixture of two probabilities, for each sentence."""
    return np.logaddexp(math.log(1 - share) + scores[0], math.log(share) + scores[1])


if __name__ == "__main__":
    main()
