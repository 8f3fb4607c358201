"""A recording and its text in, the time of every sentence, word and character out."""

import datetime
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TextIO, cast, get_args, overload

import numpy as np

from unheard.audio import io
from unheard.audio.signal import Waveform
from unheard.data.manifest import Utterance, printable, write_manifest
from unheard.decoding import align as aligner
from unheard.decoding import cutting
from unheard.decoding.align import SKIP_PENALTY, STAR_PENALTY, FrameScores
from unheard.decoding.cutting import CutLimits, Cuts
from unheard.decoding.runs import separator
from unheard.decoding.spans import (
    UNITS,
    Script,
    TimedText,
    Unit,
    prepare,
    read_times,
)
from unheard.errors import ConfigError, FormatError, shorten
from unheard.files import write_text_atomic
from unheard.inference.engine import Engine
from unheard.inference.inputs import AudioLike, ModelLike, as_bundle, as_source
from unheard.inference.number_format import Dtype
from unheard.inference.pipeline import WHOLE_SECONDS, read_source
from unheard.inference.windows import plan_windows, stream_log_probs
from unheard.text import normalize, subtitles
from unheard.text.alphabet import describe
from unheard.text.ctm import to_ctm
from unheard.text.eaf import to_eaf
from unheard.text.textgrid import to_textgrid

__all__ = ["AlignSummary", "Alignment", "align", "align_file"]

Format = Literal["json", "ctm", "textgrid", "srt", "vtt", "eaf"]
"""Form of an alignment on disk."""

NORMALIZER = "basic-1"
"""What texts go through when the model does not say what its transcripts went through."""
LONGEST_TEXT_BYTES = 64 << 20
"""A longer text file is refused [bytes]."""

_TIERS: dict[Unit, str] = {"sentence": "sentences", "word": "words", "char": "characters"}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Alignment(TimedText):
    """Where in a recording its text is spoken.

    Attributes:
        duration_seconds: length of the recording, as decoded [seconds].
        separator: what stands between two words of this script.
        unwritable: characters that the model has no symbol for; any sound may stand there.
        warnings: what was odd about the recording (see `Waveform.warnings`).
        path: of the recording, or None for samples, bytes and file objects.
    """

    duration_seconds: float
    separator: str
    unwritable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    path: str | None = None

    def to_dict(self, *, unit: Unit = "char") -> dict[str, Any]:
        """Return plain data: sentences, down to the unit asked for, and what did not match."""
        names = [_TIERS[one] for one in UNITS[1 : UNITS.index(unit) + 1]]
        return {
            "path": self.path,
            "duration_seconds": round(self.duration_seconds, 4),
            "score": round(self.score, 4),
            "warnings": list(self.warnings),
            "unwritable": list(self.unwritable),
            "sentences": [sentence.to_dict(parts=names) for sentence in self.sentences],
            "stars": [star.to_dict() for star in self.stars],
            "missing": [asdict(word) for word in self.missing],
        }


@dataclass(frozen=True, kw_only=True)
class AlignSummary:
    """What became of a text and its recording.

    Attributes:
        words: of the text.
        aligned: words that have a place.
        missing: words that have none.
        confidence: median of those of the aligned words.
        star_seconds: sound that a star stands for [seconds].
        duration_seconds: length of the recording [seconds].
        out: file with the alignment, or None.
        manifest: manifest of utterances, or None.
        utterances: in it.
        utterance_seconds: sound in them [seconds].
        words_kept: words in them.
        words_unsure: aligned words left out of it because they are not likely enough.
        words_short: aligned words left out of it because their stretch is too short.
        elapsed_seconds: time this took [seconds].
    """

    words: int
    aligned: int
    missing: int
    confidence: float
    star_seconds: float
    duration_seconds: float
    out: str | None = None
    manifest: str | None = None
    utterances: int = 0
    utterance_seconds: float = 0.0
    words_kept: int = 0
    words_unsure: int = 0
    words_short: int = 0
    elapsed_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Say it in a few lines; nothing where the alignment went to the standard output."""
        lines: list[str] = []
        if self.out is not None or self.manifest is not None:
            lines.append(
                f"{self.aligned} of {self.words} words have their place in "
                f"{self.duration_seconds / 60:.1f} min of sound; median confidence "
                f"{self.confidence:.2f}"
            )
        if self.star_seconds and lines:
            lines.append(f"{self.star_seconds:.1f} s of sound are not in the text")
        if self.out is not None:
            lines.append(f"The alignment is in {self.out}")
        if self.manifest is not None:
            lines.append(
                f"{self.utterances} utterances, {self.utterance_seconds / 60:.1f} min with "
                f"{self.words_kept} words, are in {self.manifest}; left out: {self.missing} "
                f"words without a place, {self.words_unsure} unlikely ones, {self.words_short} in "
                "stretches too short"
            )
        return "\n".join(lines)


@overload
def align(
    model: ModelLike,
    audio: AudioLike,
    text: str,
    *,
    rough: bool = False,
    normalizer: str | None = None,
    adapter: str | None = None,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
) -> Alignment: ...
@overload
def align(
    model: ModelLike,
    audio: Sequence[AudioLike],
    text: Sequence[str],
    *,
    rough: bool = False,
    normalizer: str | None = None,
    adapter: str | None = None,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
) -> list[Alignment]: ...
def align(
    model: ModelLike,
    audio: AudioLike | Sequence[AudioLike],
    text: str | Sequence[str],
    *,
    rough: bool = False,
    normalizer: str | None = None,
    adapter: str | None = None,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
) -> Alignment | list[Alignment]:
    """Find where in a recording each word of its text is spoken.

    Exact, for recordings of hours (docs/alignment.md states time and memory). The text may be in
    any script that the model writes, with its punctuation and capitals; what the model cannot
    write, such as digits, may be any sound. A word "*" of the text stands for any sound, or none.

    Args:
        model: a loaded model, or what `load_model` takes.
        audio: one recording (see `unheard.transcribe`), or a list or tuple of them.
        text: what is said there; for a list, one for each recording.
        rough: the text only roughly says what is spoken: there may be more sound between any two
            words, and words may be missing from the recording.
        normalizer: name of the normaliser for the text; None takes the one that the model was
            fine-tuned with, or "basic-1" if it does not say.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        star_penalty: what a frame of sound without text costs [nats].
        skip_penalty: what leaving out one symbol of the text costs [nats].
        padding: how padding in a batch is treated, instead of what the model says.
        dtype: number format of the matrix products.
        device: where to load the model, unless it is loaded.

    Returns:
        For one recording its `Alignment`; for a list a list in the same order.

    Raises:
        AudioError: if a recording cannot be read.
        AlignmentError: if a text has no word, or cannot be laid over its recording.
        ConfigError: if the model has no CTC head or alphabet, there are not as many texts as
            recordings, or an argument is none of the above.
    """
    bundle = as_bundle(model, adapter=adapter, device=device)
    engine = Engine(bundle, padding=padding, dtype=dtype)
    if normalizer is None:
        trained_with = bundle.provenance.get("normalizer")
        normalizer = trained_with if isinstance(trained_with, str) else NORMALIZER
    function = normalize.get(normalizer)
    many = isinstance(audio, list | tuple)
    recordings = audio if many else [audio]
    texts = [text] if isinstance(text, str) else list(text)
    if many == isinstance(text, str) or len(recordings) != len(texts):
        raise ConfigError(
            f"each recording needs its text: expected one text for one recording or lists of one "
            f"length, found {len(recordings)} recordings and {len(texts)} texts."
        )
    results = [
        _align_one(
            engine,
            cast("AudioLike", recording),
            prepare(one, engine.alphabet, normalizer=function, rough=rough),
            star_penalty=star_penalty,
            skip_penalty=skip_penalty,
        )
        for recording, one in zip(recordings, texts, strict=True)
    ]
    return results if many else results[0]


def align_file(
    model: ModelLike,
    audio: str | os.PathLike[str],
    text: str | os.PathLike[str],
    *,
    format: Format = "json",
    unit: Unit | None = None,
    out: str | os.PathLike[str] | None = None,
    rough: bool = False,
    cut: str | os.PathLike[str] | None = None,
    min_confidence: float = CutLimits.min_confidence,
    min_seconds: float = CutLimits.min_seconds,
    max_seconds: float = CutLimits.max_seconds,
    normalizer: str | None = None,
    adapter: str | None = None,
    star_penalty: float = STAR_PENALTY,
    skip_penalty: float = SKIP_PENALTY,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
    stdout: TextIO | None = None,
) -> AlignSummary:
    """Find where in a recording each word of its text is spoken, or cut it into utterances.

    Exact, for recordings of hours. A word "*" of the text stands for any sound, or none; what the
    model cannot write, such as digits, may be any sound too.

    With --cut, the text may be rough: sound without text and text without sound are left out, and
    what is left becomes a manifest of utterances to train on.

    Args:
        model: a loaded model, or what `load_model` takes.
        audio: the recording.
        text: file with what is said, in UTF-8: a sentence on each line, or running text.
        format: "json" everything, "ctm" words for scoring tools, "textgrid" for Praat, "eaf" for
            ELAN, "srt" and "vtt" subtitles.
        unit: what gets times: "sentence", "word" or "char". Files with several tiers have those
            above it too. By default subtitles of readable length for srt and vtt, else words.
        out: file to write; without it (and without cut) the standard output.
        rough: the text only roughly says what is spoken: there may be more sound between any two
            words, and words may be missing from the recording.
        cut: manifest (.jsonl) of utterances to write; what does not match is left out.
        min_confidence: least confidence of a word in an utterance, 0 to 1.
        min_seconds: shortest utterance [seconds].
        max_seconds: longest utterance [seconds].
        normalizer: name of the normaliser for the text; None takes the one that the model was
            fine-tuned with, or "basic-1" if it does not say.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        star_penalty: what a frame of sound without text costs [nats].
        skip_penalty: what leaving out one symbol of the text costs [nats].
        padding: how padding in a batch is treated, instead of what the model says.
        dtype: number format of the matrix products.
        device: where to load the model, unless it is loaded.
        stdout: where the alignment goes without `out`; None is the standard output.

    Returns:
        What became of the words.

    Raises:
        AudioError: if the recording cannot be read.
        AlignmentError: if the text has no word, or cannot be laid over the recording.
        ConfigError: if the model has no CTC head or alphabet, or an argument is none of the above.
        FormatError: if the text is not UTF-8.
        OSError: if a file cannot be read or written.
    """
    started = time.monotonic()
    if format not in get_args(Format):
        raise ConfigError(
            f'no such format: expected one of {", ".join(get_args(Format))}, found "{format}".'
        )
    if unit is not None and unit not in UNITS:
        raise ConfigError(f'no such unit: expected one of {", ".join(UNITS)}, found "{unit}".')
    limits = CutLimits(
        min_confidence=min_confidence, min_seconds=min_seconds, max_seconds=max_seconds
    )
    alignment = align(
        model,
        audio,
        read_text(text),
        rough=rough or cut is not None,
        normalizer=normalizer,
        adapter=adapter,
        star_penalty=star_penalty,
        skip_penalty=skip_penalty,
        padding=padding,
        dtype=dtype,
        device=device,
    )
    if alignment.unwritable:
        logger.warning(
            "the model has no symbol for %s: any sound may stand there",
            shorten(map(describe, alignment.unwritable)),
        )
    if out is not None or cut is None:
        rendered = render(alignment, format, unit=unit)
        if out is None:
            (stdout or sys.stdout).write(rendered)
        else:
            write_text_atomic(out, rendered)
    cuts = None if cut is None else write_cuts(alignment, cut, limits=limits)
    confidences = [word.confidence for word in alignment.words]
    return AlignSummary(
        words=len(alignment.indices) + len(alignment.missing),
        aligned=len(alignment.indices),
        missing=len(alignment.missing),
        confidence=float(np.median(confidences)) if confidences else 0.0,
        star_seconds=sum(star.end_seconds - star.start_seconds for star in alignment.stars),
        duration_seconds=alignment.duration_seconds,
        out=None if out is None else str(out),
        manifest=None if cut is None else str(cut),
        utterances=0 if cuts is None else len(cuts.pieces),
        utterance_seconds=0.0 if cuts is None else cuts.kept_seconds,
        words_kept=0 if cuts is None else cuts.words_kept,
        words_unsure=0 if cuts is None else cuts.words_unsure,
        words_short=0 if cuts is None else cuts.words_short,
        elapsed_seconds=time.monotonic() - started,
    )


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a text in UTF-8, with or without a byte order mark.

    Raises:
        FormatError: if it is not UTF-8 or longer than 64 MiB.
        OSError: if it cannot be read.
    """
    with Path(path).open("rb") as file:
        data = file.read(LONGEST_TEXT_BYTES + 1)
    if len(data) > LONGEST_TEXT_BYTES:
        raise FormatError(
            f"{path} is longer than {LONGEST_TEXT_BYTES >> 20} MiB: expected the text of one "
            "recording."
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(
            f"{path} is not a text in UTF-8 (byte {error.start + 1}). Store it as UTF-8."
        ) from error


def render(alignment: Alignment, format: Format, *, unit: Unit | None = None) -> str:
    """Write an alignment in one of the formats.

    Args:
        alignment: of a recording.
        format: see `align_file`.
        unit: see `align_file`.
    """
    if format == "json":
        data = alignment.to_dict(unit=unit or "word")
        return json.dumps(_encodable(data), ensure_ascii=False, indent=2) + "\n"
    name = alignment.path or "recording"
    if format == "ctm":
        spans = alignment.spans(unit or "word")
        return to_ctm(spans, recording=printable(Path(name).stem))
    if format in ("srt", "vtt"):
        segments = _segments(alignment, unit)
        return subtitles.to_srt(segments) if format == "srt" else subtitles.to_vtt(segments)
    units = UNITS[: UNITS.index(unit or "word") + 1]
    tiers = {_TIERS[one]: alignment.spans(one) for one in units}
    if format == "textgrid":
        if alignment.stars:
            tiers["stars"] = alignment.stars
        return to_textgrid(tiers, duration_seconds=alignment.duration_seconds)
    return to_eaf(
        tiers,
        recording=Path(name).absolute(),
        date=datetime.datetime.now(datetime.UTC),
    )


def write_cuts(
    alignment: Alignment, manifest: str | os.PathLike[str], *, limits: CutLimits
) -> Cuts:
    """Cut an aligned recording into utterances and write their manifest.

    The recording stays as it is: an utterance names its first sample and its length.

    Raises:
        ConfigError: if the recording is not a file.
        ManifestError, OSError: if the manifest cannot be written.
    """
    if alignment.path is None:
        raise ConfigError("only a recording in a file can be cut into a manifest of utterances.")
    cuts = cutting.cut(
        alignment,
        duration_seconds=alignment.duration_seconds,
        separator=alignment.separator,
        limits=limits,
    )
    rate = io.probe(alignment.path).sample_rate
    path = Path(alignment.path).resolve()
    folder = Path(manifest).resolve().parent
    audio = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)

    def utterances() -> Iterable[Utterance]:
        for piece in cuts.pieces:
            start = round(piece.start_seconds * rate)
            yield Utterance(
                id=f"{path.stem}-{round(piece.start_seconds * 1000):08d}",
                audio=audio,
                start=start,
                num_samples=int(piece.end_seconds * rate) - start,
                sample_rate=rate,
                text=piece.text,
                extra={
                    "confidence": round(piece.confidence, 4),
                    "first_word": piece.first_word,
                    "words": piece.words,
                },
            )

    write_manifest(manifest, utterances())
    return cuts


def _align_one(
    engine: Engine, audio: AudioLike, script: Script, *, star_penalty: float, skip_penalty: float
) -> Alignment:
    """Align one recording with its text."""
    token_ids = aligner.distinct_tokens(script.target)
    found = read_source(as_source(audio), engine, WHOLE_SECONDS)
    blank_id = engine.alphabet.blank_id
    plan = plan_windows(engine.encoder_config, sample_rate=engine.spec.sample_rate)
    if isinstance(found, Waveform):
        num_samples, warnings = found.samples.shape[0], found.warnings
        if found.duration_seconds <= WHOLE_SECONDS:
            parts = engine.log_probs([found.samples])
        else:
            parts = stream_log_probs(engine, [found.samples], plan)
        values = [aligner.select_columns(part, token_ids, blank_id=blank_id) for part in parts]
    else:
        # Only the columns of this text are kept of each window, however many symbols there are.
        with io.stream(found.audio, sample_rate=engine.spec.sample_rate) as stream:
            parts = stream_log_probs(engine, stream, plan)
            values = [aligner.select_columns(part, token_ids, blank_id=blank_id) for part in parts]
        num_samples, warnings = stream.num_samples, stream.warnings
    empty = np.zeros((0, len(token_ids) + 2), np.float32)
    scores = FrameScores(
        values=np.concatenate(values) if values else empty,
        token_ids=token_ids,
        timing=engine.timing,
        num_samples=num_samples,
    )
    path = aligner.align(
        scores, script.target, star_penalty=star_penalty, skip_penalty=skip_penalty
    )
    timed = read_times(path, script)
    return Alignment(
        sentences=timed.sentences,
        stars=timed.stars,
        missing=timed.missing,
        indices=timed.indices,
        score=timed.score,
        duration_seconds=num_samples / engine.spec.sample_rate,
        separator=separator(engine.alphabet),
        unwritable=script.unwritable,
        warnings=warnings,
        path=os.fspath(audio) if isinstance(audio, str | os.PathLike) else None,
    )


def _segments(alignment: Alignment, unit: Unit | None) -> list[subtitles.Segment]:
    """Make subtitles: of readable length within each sentence, or one a span of a unit."""
    if unit is not None:
        return [
            subtitles.Segment(
                text=span.text, start_seconds=span.start_seconds, end_seconds=span.end_seconds
            )
            for span in alignment.spans(unit)
        ]
    segments = [
        segment
        for sentence in alignment.sentences
        for segment in subtitles.segments_from_words(sentence.parts, separator=alignment.separator)
    ]
    return subtitles.readable(segments, until_seconds=alignment.duration_seconds)


def _encodable(value: Any) -> Any:
    """Replace what UTF-8 has no form for, such as file names that are not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(item) for key, item in value.items()}
    return [_encodable(item) for item in value] if isinstance(value, list) else value
