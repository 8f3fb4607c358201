"""The whole main job on a small synthetic corpus, with and without pre-training."""

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path

from unheard.data.synthetic import CorpusSize, synthesize_corpus
from unheard.tasks.learn import LearnResult, learn
from unheard.tasks.runs import NO_START
from unheard.tasks.transcribe import transcribe

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration measured.

    Attributes:
        recorded_minutes: sound learnt from, most of it without transcripts [minutes].
        transcribed_minutes: sound with transcripts [minutes].
        test_minutes: sound in held-out voices [minutes].
        start: the model that was begun with; "none" for one pre-trained here.
        learnt: error rates with and without pre-training, the model, the report.
        example: path of one held-out recording.
        reference: what is said there.
        transcript: what the recogniser wrote.
        minutes: the whole demonstration took [minutes]; less where stages were done before.
    """

    recorded_minutes: float
    transcribed_minutes: float
    test_minutes: float
    start: str
    learnt: LearnResult
    example: Path
    reference: str
    transcript: str
    minutes: float

    def table(self) -> str:
        """Lay the result out for a person."""
        ours = "with pre-training" if self.start == NO_START else f"from {self.start}"
        rows = (
            ("", "CER (95 % interval)", "WER (95 % interval)"),
            ("from scratch", str(self.learnt.scratch_cer), str(self.learnt.scratch_wer)),
            (ours, str(self.learnt.cer), str(self.learnt.wer)),
        )
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(
            (
                "",
                f"Swahili in synthetic voices (espeak-ng): {self.recorded_minutes:.0f} min of "
                f"recordings, {self.transcribed_minutes:.1f} min of them transcribed.",
                f"Error rates on {self.test_minutes:.1f} min in voices never heard in training; "
                "both were fine-tuned for as long.",
                "Real speech is harder: these figures say that the machinery works.",
                "",
                *lines,
                "",
                f"A held-out recording: {self.example}",
                f"  said     {self.reference}",
                f"  written  {self.transcript}",
                "",
                f"report  {self.learnt.report}",
                f"model   {self.learnt.model}",
                f"time    {self.minutes:.1f} min",
                "",
                f"Try it:  unheard transcribe {self.learnt.model} YOUR_RECORDINGS",
            )
        )


def demo(
    *,
    out: str | os.PathLike[str] = "demo",
    max_minutes: float = 6.5,
    start: str = NO_START,
    seed: int = 0,
    size: CorpusSize | None = None,
    quiet: bool = False,
) -> DemoResult:
    """Run the whole main job on a small synthetic corpus, in minutes.

    Synthesises recordings of Swahili in fifteen synthetic voices, of which three are kept for
    the test, and learns to recognise them twice from the same few transcripts: after
    pre-training on all recordings, or from a model that can listen already, and from scratch,
    fine-tuned for as long. Run again, it goes on where it was stopped.

    Args:
        out: folder for the corpus, the models and the report.
        max_minutes: time for learning, pre-training and both fine-tunings together [minutes].
        start: a pre-trained model to fine-tune, such as "unheard-mini", by the recipe of its size;
            "none" pre-trains a small one (recipe nano) on the recordings first.
        seed: of the sentences, the voices and the training.
        size: how much is spoken; the demonstration's own size by default.
        quiet: print nothing while it runs.

    Returns:
        The error rates with and without pre-training, and where everything is.

    Raises:
        MissingExtraError: if the speech engine of the extra "demo" is not installed.
    """
    started = time.monotonic()
    folder = Path(out)
    if not quiet:
        logger.info("Speaking Swahili in fifteen synthetic voices ...")
    corpus = synthesize_corpus(folder / "corpus", size=size, seed=seed)
    learnt = learn(
        corpus.recordings,
        transcripts=corpus.transcripts,
        test=corpus.test,
        out=folder / "learnt",
        start=start,
        recipe="nano" if start == NO_START else None,
        compare_scratch=True,
        max_minutes=max_minutes,
        language="sw",
        seed=seed,
        quiet=quiet,
    )
    name, reference = _first_row(corpus.test)
    example = corpus.test.parent / name
    return DemoResult(
        recorded_minutes=corpus.recorded_seconds / 60,
        transcribed_minutes=corpus.transcribed_seconds / 60,
        test_minutes=corpus.test_seconds / 60,
        start=start,
        learnt=learnt,
        example=example,
        reference=reference,
        transcript=transcribe(learnt.model, example).text,
        minutes=(time.monotonic() - started) / 60,
    )


def _first_row(table: Path) -> tuple[str, str]:
    """Return path and text of the first row of a table of the corpus."""
    path, _, text = table.read_text(encoding="utf-8").splitlines()[1].split("\t")
    return path, text
