"""What a language model is worth: greedy, n-gram, lexicon and Transformer on the same recordings.

    python -m benchmarks.luganda_words DEV OUT --lm LM.arpa.gz --lexicon words.txt
        --transformer FOLDER --models "10 min=MODEL" "1 h=MODEL" ...
        [--trials 64] [--beam 100] [--write]

DEV is a manifest of transcribed recordings that neither the models nor the language models learnt
from. For each model, `unheard tune` finds the weights of each search on one half of them, and the
table has the rates on the other half, the same half for all. The Transformer (`unheard lm train
--kind transformer`) puts the 50 best readings of a search in order. Stopped and started again, it
goes on.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from unheard.tasks.tune import TuneResult, tune
from unheard.text.error_rate import ErrorReport

RESULTS = Path(__file__).parent / "results" / "luganda_words.md"


def main() -> None:
    """Tune and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dev", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--lm", type=Path, required=True)
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--transformer", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--beam", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    lines = [
        "| transcripts to learn from | decoder | WER (95 % interval) | CER (95 % interval) | "
        "WER beside greedy | weights |",
        "|---|---|---|---|---|---|",
    ]
    for named in options.models:
        name, _, model = named.partition("=")
        for kind, lexicon in (("n-gram", None), ("lexicon", options.lexicon)):
            found = tune(
                model,
                options.dev,
                lm=options.lm,
                lexicon=lexicon,
                rescore=options.transformer,
                beam=options.beam,
                trials=options.trials,
                threads=options.threads,
                out=options.out / f"{name.replace(' ', '-')}-{kind}",
                quiet=True,
            )
            lines += rows(name, kind, found, greedy=lexicon is None)
        print("\n".join(lines), flush=True)
    if options.write:
        table = "\n".join(lines)
        RESULTS.write_text(f"# What a language model is worth\n\n{table}\n", encoding="utf-8")


def rows(name: str, kind: str, found: TuneResult, *, greedy: bool) -> Iterator[str]:
    """Lines of the table for one model and search."""
    config, second = found.config, found.rescoring
    weights = f"LM {config.lm_weight:.2f}, word {config.word_bonus:+.2f}"
    if kind == "n-gram":
        weights += f", unknown {config.unknown_score:.1f}"
    if greedy:
        yield row(name, "greedy", found.greedy, found.greedy, "")
    yield row(name, kind, found.tuned, found.greedy, weights)
    if found.rescored is not None and second is not None:
        mixed = (
            f"Transformer {second.weight:.2f}, LM x {second.lm_scale:.2f}, "
            f"word {second.word_bonus:+.2f}"
        )
        yield row(name, f"{kind}, then Transformer", found.rescored, found.greedy, mixed)


def row(name: str, decoder: str, rates: ErrorReport, greedy: ErrorReport, weights: str) -> str:
    """One line."""
    change = "" if rates is greedy else f"{rates.wer.value / greedy.wer.value - 1:+.1%}"
    return f"| {name} | {decoder} | {rates.wer} | {rates.cer} | {change} | {weights} |"


if __name__ == "__main__":
    main()
