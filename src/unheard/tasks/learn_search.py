"""The last stages of `learn`: a language model from text, its weights, and what they are worth."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.config import from_dict
from unheard.data.manifest import Utterance
from unheard.errors import ConfigError
from unheard.files import write_text_atomic
from unheard.tasks.evaluate import Evaluation, evaluate
from unheard.tasks.lm import train
from unheard.tasks.searching import SearchOptions
from unheard.tasks.tune import SETTINGS, tune
from unheard.text import normalize
from unheard.text.error_rate import PairedDifference, Rate, paired_bootstrap

LM_FILE = "lm.arpa.gz"
"""Of the language model that `learn` makes, in OUT/lm."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search with a language model or a lexicon is worth on the test set.

    Attributes:
        cer: character error rate with it.
        wer: word error rate with it.
        gain: with it minus without, on the same utterances.
        options: the words of the command line that ask for the same search.
    """

    cer: Rate
    wer: Rate
    gain: PairedDifference
    options: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "error_rate": {"cer": self.cer.to_dict(), "wer": self.wer.to_dict()},
            "difference": self.gain.to_dict(),
            "options": self.options,
        }

    @classmethod
    def read(cls, stored: dict[str, Any]) -> "SearchResult":
        """Read what `to_dict` returned."""
        return cls(
            cer=from_dict(Rate, stored["error_rate"]["cer"]),
            wer=from_dict(Rate, stored["error_rate"]["wer"]),
            gain=from_dict(PairedDifference, stored["difference"]),
            options=stored["options"],
        )


def check_search(text: Sequence[str | os.PathLike[str]], asked: SearchOptions) -> None:
    """Find what is wrong with the words that ask for a search, before hours of training.

    Raises:
        ConfigError: if a text and a language model are given, a setting is out of its range or not
            known, or a file is missing.
    """
    if text and asked.lm is not None:
        raise ConfigError(
            "learn makes a language model from --text, or takes one from --lm: expected one of "
            "the two, found both."
        )
    asked.config()
    for path in (*text, asked.lm, asked.lexicon):
        if isinstance(path, str | os.PathLike) and not Path(path).is_file():
            raise ConfigError(f"There is no file {os.fspath(path)}: expected text or a model.")


def make_search(
    folder: Path,
    stages: Callable[[str, Callable[[], object]], None],
    *,
    text: Sequence[str | os.PathLike[str]],
    asked: SearchOptions,
    learned: Sequence[Utterance],
    normalizer: str,
    seed: int,
    quiet: bool,
) -> SearchOptions | None:
    """Train a language model on text, and tune the search on the validation set.

    Args:
        folder: of the whole run; everything goes to its lm folder.
        stages: does a stage of the run, unless it is done.
        text: files with sentences; the transcripts that were learnt from are added to them.
        asked: the search that was asked for. A setting that it names is kept, and if it names
            weights, nothing is tuned.
        learned: utterances that were learnt from.
        normalizer: what transcripts went through.
        seed: of the tuning.
        quiet: print nothing.

    Returns:
        The search, or None if none was asked for.

    """
    if not text and asked.greedy:
        return None
    lm = asked.lm
    if text:
        made = folder / "lm" / LM_FILE
        stages("language model", lambda: _train(made, text, learned, normalizer))
        lm = made
    options = SearchOptions(
        lm=lm,
        lexicon=asked.lexicon,
        preset=asked.preset,
        beam=asked.beam,
        lm_weight=asked.lm_weight,
        word_bonus=asked.word_bonus,
    )
    weighted = (asked.preset, asked.lm_weight, asked.word_bonus) != (None, None, None)
    if weighted or (lm is None and asked.lexicon is None):
        return options
    tuned = folder / "lm" / "tuned"
    stages(
        "tune",
        lambda: tune(
            folder / "model",
            folder / "data" / "valid.jsonl",
            out=tuned,
            lm=options.lm,
            lexicon=options.lexicon,
            beam=options.beam,
            report_share=0.0,
            seed=seed,
            quiet=quiet,
        ),
    )
    return SearchOptions(lm=lm, lexicon=asked.lexicon, preset=str(tuned / SETTINGS))


def measure_search(folder: Path, options: SearchOptions, without: Evaluation) -> SearchResult:
    """Measure the error rates of a search on the test set, beside those without it."""
    found = evaluate(
        folder / "model",
        folder / "data" / "test.jsonl",
        out=folder / "evaluation-search",
        lm=options.lm,
        lexicon=options.lexicon,
        preset=options.preset,
        beam=options.beam,
        lm_weight=options.lm_weight,
        word_bonus=options.word_bonus,
    )
    given = {
        "--lm": options.lm,
        "--lexicon": options.lexicon,
        "--preset": options.preset,
        "--beam": options.beam,
        "--lm-weight": options.lm_weight,
        "--word-bonus": options.word_bonus,
    }
    return SearchResult(
        cer=found.errors.cer,
        wer=found.errors.wer,
        gain=paired_bootstrap(found.errors, without.errors),
        options=" ".join(f"{name} {value}" for name, value in given.items() if value is not None),
    )


def _train(
    path: Path,
    text: Sequence[str | os.PathLike[str]],
    learned: Sequence[Utterance],
    normalizer: str,
) -> None:
    """Train an n-gram model on text and on the transcripts that were learnt from."""
    normalise = normalize.get(normalizer)
    transcripts = path.parent / "transcripts.txt"
    lines = (normalise(utterance.text or "") for utterance in learned)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomic(transcripts, "".join(f"{line}\n" for line in lines if line))
    train([*text, transcripts], out=path, normalizer=normalizer)
