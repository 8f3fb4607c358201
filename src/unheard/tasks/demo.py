"""The whole main job on a small synthetic corpus, with and without pre-training."""

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.data.synthetic import CorpusSize, synthesize_corpus
from unheard.tasks.learn import learn
from unheard.tasks.transcribe import transcribe
from unheard.text.error_rate import Rate

PRETRAIN_SHARE = 0.5
"""Of the time for learning: pre-training; the rest is shared by two equal fine-tunings."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demonstration measured.

    Attributes:
        recorded_minutes: sound learnt from without transcripts [minutes].
        transcribed_minutes: sound with transcripts [minutes].
        test_minutes: sound in held-out voices [minutes].
        pretrained_cer: character error rate with pre-training.
        pretrained_wer: word error rate with pre-training.
        scratch_cer: character error rate without, after the same fine-tuning.
        scratch_wer: word error rate without.
        example: path of one held-out recording.
        reference: what is said there.
        transcript: what the recogniser wrote.
        model: folder of the pre-trained and fine-tuned model.
        report: page of that run.
        scratch_report: page of the run without pre-training.
        minutes: the whole demonstration took [minutes]; less where stages were done before.
    """

    recorded_minutes: float
    transcribed_minutes: float
    test_minutes: float
    pretrained_cer: Rate
    pretrained_wer: Rate
    scratch_cer: Rate
    scratch_wer: Rate
    example: Path
    reference: str
    transcript: str
    model: Path
    report: Path
    scratch_report: Path
    minutes: float

    def table(self) -> str:
        """Lay the result out for a person."""
        rows = (
            ("", "CER (95 % interval)", "WER (95 % interval)"),
            ("from scratch", str(self.scratch_cer), str(self.scratch_wer)),
            ("with pre-training", str(self.pretrained_cer), str(self.pretrained_wer)),
        )
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(
            (
                "",
                f"Swahili, synthetic voices (espeak-ng): {self.recorded_minutes:.0f} min of "
                f"recordings, {self.transcribed_minutes:.1f} min of them transcribed;",
                f"error rates on {self.test_minutes:.1f} min in voices that were never heard in "
                "training. Real speech is harder.",
                "",
                *lines,
                "",
                f"A held-out recording: {self.example}",
                f"  said      {self.reference}",
                f"  written   {self.transcript}",
                "",
                f"Report:  {self.report}",
                f"Model:   {self.model}",
                f"Time:    {self.minutes:.1f} min",
                "",
                f"Try:     unheard transcribe {self.model} YOUR_RECORDINGS",
            )
        )


def demo(
    *,
    out: str | os.PathLike[str] = "demo",
    max_minutes: float = 6.5,
    seed: int = 0,
    size: CorpusSize | None = None,
) -> DemoResult:
    """Run the whole main job on a small synthetic corpus, in minutes.

    Synthesises recordings of Swahili in fifteen synthetic voices, of which three are kept for
    the test, and learns a recogniser twice from the same few transcripts: once after
    pre-training on all recordings, once from scratch with the same fine-tuning. Run again, it
    goes on where it was stopped.

    Args:
        out: folder for the corpus, the models and the reports.
        max_minutes: time for learning, both runs together [minutes].
        seed: of the sentences, the voices and the training.
        size: how much is spoken; the demonstration's own size by default.

    Returns:
        The error rates with and without pre-training, and where everything is.

    Raises:
        MissingExtraError: if the speech engine of the extra "demo" is not installed.
    """
    started = time.monotonic()
    folder = Path(out)
    logger.info("Synthesising a small corpus of Swahili (the voices are synthetic) ...")
    corpus = synthesize_corpus(folder / "corpus", size=size, seed=seed)
    finetune_minutes = max_minutes * (1 - PRETRAIN_SHARE) / 2
    common: dict[str, Any] = {
        "transcripts": corpus.transcripts,
        "test": corpus.test,
        "preset": "nano",
        "seed": seed,
    }
    logger.info("Learning with pre-training ...")
    pretrained = learn(
        corpus.recordings,
        out=folder / "with_pretraining",
        max_minutes=max_minutes * PRETRAIN_SHARE + finetune_minutes,
        **common,
    )
    logger.info("Learning from scratch, with the same fine-tuning ...")
    scratch = learn(
        corpus.recordings,
        out=folder / "from_scratch",
        max_minutes=finetune_minutes,
        scratch=True,
        **common,
    )
    example, reference = _first_row(corpus.test.read_text(encoding="utf-8").splitlines())
    path = corpus.test.parent / example
    return DemoResult(
        recorded_minutes=corpus.recorded_seconds / 60,
        transcribed_minutes=corpus.transcribed_seconds / 60,
        test_minutes=corpus.test_seconds / 60,
        pretrained_cer=pretrained.cer,
        pretrained_wer=pretrained.wer,
        scratch_cer=scratch.cer,
        scratch_wer=scratch.wer,
        example=path,
        reference=reference,
        transcript=transcribe(pretrained.model, path).text,
        model=pretrained.model,
        report=pretrained.report,
        scratch_report=scratch.report,
        minutes=(time.monotonic() - started) / 60,
    )


def _first_row(lines: Sequence[str]) -> tuple[str, str]:
    """Return path and text of the first row of a table of the corpus."""
    path, _, text = lines[1].split("\t")
    return path, text
