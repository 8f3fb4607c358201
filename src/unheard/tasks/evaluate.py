"""Error rates of a model on transcribed recordings, with intervals."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unheard import files
from unheard.data.corpora import scan_source
from unheard.data.manifest import (
    Utterance,
    audio_path,
    iter_lines,
    parse_json_line,
    read_manifest,
)
from unheard.decoding.search import Decoder
from unheard.errors import AudioError, ConfigError, ManifestError
from unheard.inference.engine import Engine
from unheard.inference.inputs import ModelLike, as_bundle, identify
from unheard.inference.number_format import Dtype
from unheard.inference.pipeline import Source, hear
from unheard.tasks.searching import LanguageModel, SearchOptions
from unheard.tasks.transcribe import Transcript, make_transcript
from unheard.text.error_rate import ErrorReport, Resample, score

RESULT = "result.json"
UTTERANCES = "utterances.jsonl"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FailedUtterance:
    """An utterance that could not be read.

    Attributes:
        id: as in the manifest.
        audio: its recording, as in the manifest.
        reason: short code, see `AudioError`.
        detail: the message.
    """

    id: str
    audio: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well a model writes a set of utterances.

    Attributes:
        errors: word and character error rates with their intervals, by speaker, by utterance.
        transcripts: what the model wrote, one for each utterance of `errors`, before
            normalisation.
        failed_utterances: those that could not be read; they are not in the rates.
        num_without_text: utterances left out because no reference is known.
        audio_seconds: sound transcribed [seconds].
        elapsed_seconds: time it took [seconds].
        manifest: where the utterances came from, or None.
        model: fingerprint of the model.
        normalizer: name of the normaliser that both sides went through, or None.
        adapter: language that the model wrote, if it has an adapter for each; or None.
        search: what decided the texts besides the model (`SearchOptions.identity`).
        out: the output folder, or None.
    """

    errors: ErrorReport
    transcripts: tuple[Transcript, ...]
    failed_utterances: tuple[FailedUtterance, ...]
    num_without_text: int
    audio_seconds: float
    elapsed_seconds: float
    manifest: str | None
    model: str
    normalizer: str | None
    adapter: str | None = None
    search: dict[str, Any]
    out: str | None

    @property
    def wer(self) -> float:
        """Word error rate, as a fraction."""
        return self.errors.wer.value

    @property
    def cer(self) -> float:
        """Character error rate, as a fraction."""
        return self.errors.cer.value

    @property
    def failed(self) -> int:
        """How many utterances could not be read."""
        return len(self.failed_utterances)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, without a row for each utterance."""
        return {
            "error_rate": self.errors.to_dict(),
            "manifest": self.manifest,
            "normalizer": self.normalizer,
            "model": self.model,
            "adapter": self.adapter,
            **self.search,
            "audio_seconds": self.audio_seconds,
            "elapsed_seconds": self.elapsed_seconds,
            "num_without_text": self.num_without_text,
            "failed": [vars(one) for one in self.failed_utterances],
            "out": self.out,
        }

    def table(self) -> str:
        """Say it in a few lines."""
        counts = self.errors.wer.counts
        lines = [
            f"CER  {self.errors.cer}",
            f"WER  {self.errors.wer}",
            f"{len(self.errors.utterances)} utterances, {counts.reference_length} words, "
            f"{self.audio_seconds / 60:.1f} min; 95 % intervals by bootstrap over "
            f"{self.errors.resample}; normaliser {self.normalizer or 'none'}",
        ]
        if self.failed:
            first = self.failed_utterances[0]
            lines.append(
                f"{self.failed} utterances could not be read, such as {first.id}: {first.detail}"
            )
        if self.num_without_text:
            lines.append(f"{self.num_without_text} utterances have no text and were left out")
        lines.extend(self.errors.warnings)
        return "\n".join(lines)


def evaluate(
    model: ModelLike,
    manifest: str | os.PathLike[str] | Sequence[Utterance],
    *,
    out: str | os.PathLike[str] | None = None,
    adapter: str | None = None,
    lm: LanguageModel | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    beam: int | None = None,
    lm_weight: float | None = None,
    word_bonus: float | None = None,
    hot_words: str | None = None,
    rescore: str | os.PathLike[str] | None = None,
    rescore_weight: float | None = None,
    fuse: str | os.PathLike[str] | None = None,
    fuse_weight: float | None = None,
    normalizer: str | None = None,
    resample: Resample = "utterances",
    resamples: int = 1000,
    seed: int = 0,
    audio_root: str | os.PathLike[str] | None = None,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> Evaluation:
    """Transcribe utterances and compare with what was said.

    Args:
        model: a loaded model, or what `load_model` takes.
        manifest: a manifest, any folder or table that `scan` reads, or utterances.
        out: folder for result.json (`Evaluation.to_dict`) and utterances.jsonl (a row for each
            utterance).
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        lm: n-gram model to search with: a loaded one, an ARPA file (.arpa, .arpa.gz) or our own
            (.unheard-lm). With this or any of the next ten, a beam search takes the place of
            greedy reading (docs/decoding.md).
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings of the search by name, or the search.json of `unheard tune`.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats].
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order.
        rescore_weight: of its natural log-probability; 0.5 by default.
        fuse: Transformer language model that judges the words of all readings while the search
            goes on.
        fuse_weight: of its natural log-probability; 0.5 by default.
        normalizer: name of the normaliser for both sides; None takes the one that the model was
            fine-tuned with, or none if it does not say.
        resample: what the intervals draw: "utterances" or whole "speakers".
        resamples: bootstrap draws.
        seed: of the bootstrap.
        audio_root: what relative paths of recordings start from, instead of the manifest's folder.
        padding: how padding in a batch is treated, instead of what the model says.
        dtype: number format of the matrix products.
        batch_seconds: padded audio in one batch [seconds]; None chooses by device.
        workers: threads that decode; None chooses by the machine.
        device: where to load the model, unless it is loaded.

    Returns:
        Rates, intervals, and what the model wrote. Utterances that cannot be read are listed as
        failed and are not in the rates.

    Raises:
        ManifestError: if the manifest is damaged.
        ConfigError: if no utterance with a text can be read, or a setting is out of range.
    """
    started = time.monotonic()
    utterances, folder, name = find_utterances(manifest, audio_root)
    scored = [utterance for utterance in utterances if utterance.text is not None]
    if not scored:
        raise ConfigError(
            f"Cannot measure error rates on {name or 'the utterances'}: expected utterances with "
            f"a text, found {len(utterances)} without."
        )
    fingerprint = identify(model)
    bundle = as_bundle(model, adapter=adapter, device=device)
    engine = Engine(bundle, dtype=dtype, padding=padding, batch_seconds=batch_seconds)
    if normalizer is None:
        trained_with = bundle.provenance.get("normalizer")
        normalizer = trained_with if isinstance(trained_with, str) else None
    search = SearchOptions(
        lm=lm,
        lexicon=lexicon,
        preset=preset,
        beam=beam,
        lm_weight=lm_weight,
        word_bonus=word_bonus,
        hot_words=hot_words,
        rescore=rescore,
        rescore_weight=rescore_weight,
        fuse=fuse,
        fuse_weight=fuse_weight,
    )
    decoder = search.decoder(engine.alphabet)
    transcripts, failed = _transcribe(engine, scored, folder, decoder, workers=workers)
    kept = [index for index in range(len(scored)) if index in transcripts]
    if not kept:
        raise ConfigError(
            f"None of the {len(scored)} utterances could be read; the first: {failed[0].detail}"
        )
    errors = score(
        [scored[index].text or "" for index in kept],
        [transcripts[index].text for index in kept],
        speakers=[scored[index].speaker for index in kept],
        ids=[scored[index].id for index in kept],
        normalizer=normalizer,
        resamples=resamples,
        seed=seed,
        resample=resample,
    )
    evaluation = Evaluation(
        errors=errors,
        transcripts=tuple(transcripts[index] for index in kept),
        failed_utterances=tuple(failed),
        num_without_text=len(utterances) - len(scored),
        audio_seconds=sum(transcripts[index].duration_seconds for index in kept),
        elapsed_seconds=time.monotonic() - started,
        manifest=name,
        model=fingerprint,
        normalizer=normalizer,
        adapter=bundle.adapter,
        search=search.identity(),
        out=None if out is None else str(out),
    )
    if out is not None:
        _write(Path(out), evaluation, [scored[index] for index in kept])
    return evaluation


def find_utterances(
    manifest: str | os.PathLike[str] | Sequence[Utterance],
    audio_root: str | os.PathLike[str] | None,
) -> tuple[list[Utterance], Path, str | None]:
    """Read utterances to measure with.

    Returns:
        The utterances, the folder of their recordings, and where they came from.

    Raises:
        ManifestError: if the manifest is damaged.
    """
    if not isinstance(manifest, str | os.PathLike):
        return list(manifest), Path(audio_root or "."), None
    name = os.fspath(manifest)
    if _is_manifest(Path(name)):
        return read_manifest(name), Path(audio_root or Path(name).parent), name
    roots = () if audio_root is None else (audio_root,)
    found = scan_source(name, roots=roots)
    for skip in found.skipped:
        logger.warning("%s: %s: %s", skip.path, skip.reason, skip.detail)
    return list(found.utterances), found.root, name


def _is_manifest(path: Path) -> bool:
    """Whether a path is one of our manifests, rather than a folder or somebody's table."""
    if not path.is_file() or path.suffix != ".jsonl":
        return False
    for _, line in iter_lines(path):
        try:
            row = parse_json_line(line)
        except ManifestError:
            return True
        if row is not None:
            return "num_samples" in row
    return True


def _transcribe(
    engine: Engine,
    utterances: Sequence[Utterance],
    folder: Path,
    decoder: Decoder,
    *,
    workers: int | None,
) -> tuple[dict[int, Transcript], list[FailedUtterance]]:
    """Transcribe utterances; returns transcripts by place, and those that could not be read."""
    sources = (
        Source(
            audio=audio_path(utterance, folder),
            start_seconds=utterance.start / utterance.sample_rate,
            max_seconds=utterance.duration_seconds,
        )
        for utterance in utterances
    )
    transcripts: dict[int, Transcript] = {}
    errors: dict[int, AudioError] = {}
    with closing(hear(engine, sources, decoder, workers=workers)) as results:
        for heard in results:
            if heard.error is not None:
                errors[heard.index] = heard.error
                continue
            path = str(audio_path(utterances[heard.index], folder))
            transcripts[heard.index] = make_transcript(engine, heard, path=path)
    failed = [
        FailedUtterance(
            id=utterances[index].id,
            audio=utterances[index].audio,
            reason=error.reason,
            detail=str(error),
        )
        for index, error in sorted(errors.items())
    ]
    return transcripts, failed


def _write(out: Path, evaluation: Evaluation, utterances: Sequence[Utterance]) -> None:
    """Write the result and a row for each utterance."""
    rows = [
        {
            "id": utterance.id,
            "audio": utterance.audio,
            "start": utterance.start,
            "num_samples": utterance.num_samples,
            "sample_rate": utterance.sample_rate,
            "speaker": utterance.speaker,
            "reference": errors.reference,
            "hypothesis": errors.hypothesis,
            "char_errors": errors.characters.errors,
            "char_total": errors.characters.reference_length,
            "word_errors": errors.words.errors,
            "word_total": errors.words.reference_length,
            "cer": errors.characters.rate,
            "wer": errors.words.rate,
            "confidence": transcript.confidence,
            "warnings": list(transcript.warnings),
        }
        for utterance, errors, transcript in zip(
            utterances, evaluation.errors.utterances, evaluation.transcripts, strict=True
        )
    ]
    files.write_jsonl_atomic(out / UTTERANCES, rows)
    # Written last: where it is, the evaluation is whole.
    files.write_json_atomic(out / RESULT, evaluation.to_dict())
