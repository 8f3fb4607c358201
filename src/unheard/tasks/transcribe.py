"""Recordings in, text with word times out: in Python and over folders."""

import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO, cast, overload

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unheard.decoding.hypothesis import Hypothesis, Word
from unheard.decoding.search import Decoder
from unheard.errors import AudioError, ConfigError
from unheard.inference.engine import Engine
from unheard.inference.inputs import AudioLike, ModelLike, as_bundle, as_source, identify
from unheard.inference.number_format import Dtype
from unheard.inference.pipeline import WHOLE_SECONDS, Heard, Source, hear
from unheard.inference.windows import CONTEXT_SECONDS, SEARCH_SECONDS, WINDOW_SECONDS
from unheard.interop.bundle import ModelBundle
from unheard.tasks.listing import Listed, list_recordings, parse_shard
from unheard.tasks.searching import LanguageModel, SearchOptions, readings_table
from unheard.tasks.transcripts_folder import DEAD_LETTERS, Format, TranscriptsFolder
from unheard.text import subtitles

__all__ = [
    "Transcript",
    "TranscribeSummary",
    "Word",
    "transcribe",
    "transcribe_files",
]

RESULTS_VERSION = 2
"""Raised when the same model and settings begin to give other transcripts."""

_PLAIN_SECONDS = 10.0
"""Time between two progress lines where there is no terminal [seconds]."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What was said in one recording.

    Attributes:
        text: in logical order for any script.
        words: with times and confidence, in order of time; empty when not asked for.
        confidence: 0 .. 1, see `unheard.decoding.hypothesis.Hypothesis`.
        duration_seconds: length of the recording, as decoded [seconds].
        language: language tag that the model says it writes, or None.
        warnings: what was odd about the recording (see `Waveform.warnings`).
        path: of the recording, or None for samples, bytes and file objects.
        readings: all that the search kept, the best first, with what their scores are made of;
            empty when not asked for.
    """

    text: str
    words: tuple[Word, ...]
    confidence: float
    duration_seconds: float
    language: str | None = None
    warnings: tuple[str, ...] = ()
    path: str | None = None
    readings: tuple[Hypothesis, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain data: times to a tenth of a millisecond, confidences to four digits.

        Scores are whole, so that their parts add up; "readings" is there when any were kept.
        """
        readings = [
            {
                "text": reading.text,
                "score": reading.score,
                "confidence": round(reading.confidence, 4),
                "parts": None if reading.parts is None else asdict(reading.parts),
            }
            for reading in self.readings
        ]
        return {
            "path": self.path,
            "text": self.text,
            "confidence": round(self.confidence, 4),
            "duration_seconds": round(self.duration_seconds, 4),
            "language": self.language,
            "warnings": list(self.warnings),
            **({"readings": readings} if readings else {}),
            "words": [
                {
                    "text": word.text,
                    "start_seconds": round(word.start_seconds, 4),
                    "end_seconds": round(word.end_seconds, 4),
                    "confidence": round(word.confidence, 4),
                }
                for word in self.words
            ],
        }


@dataclass(frozen=True, kw_only=True)
class TranscribeSummary:
    """What became of the inputs of one run: done + skipped + failed is their number.

    Attributes:
        done: transcribed in this run.
        skipped: had their transcript from an earlier run.
        failed: could not be transcribed, in this run or an earlier one.
        duplicates: paths left out because another one leads to the same file.
        audio_seconds: sound transcribed in this run [seconds].
        elapsed_seconds: time this run took [seconds].
        out: the output folder, or None.
    """

    done: int
    skipped: int
    failed: int
    duplicates: int
    audio_seconds: float
    elapsed_seconds: float
    out: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Say it in a line; nothing where the texts themselves went to the standard output."""
        if self.out is None:
            return ""
        parts = [f"{self.done} transcribed"]
        if self.skipped:
            parts.append(f"{self.skipped} done before")
        if self.failed:
            parts.append(f"{self.failed} failed (see {Path(self.out) / DEAD_LETTERS})")
        if self.duplicates:
            parts.append(f"{self.duplicates} duplicate paths left out")
        speed = ""
        if self.done and self.elapsed_seconds > 0:
            times = self.audio_seconds / self.elapsed_seconds
            speed = f"; {self.audio_seconds / 60:.1f} min of sound, {times:.1f} times real time"
        return f"{', '.join(parts)}{speed}. Transcripts are in {self.out}"


@overload
def transcribe(
    model: ModelLike,
    audio: AudioLike,
    *,
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
    nbest: int = 1,
    word_times: bool = True,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    window_seconds: float | None = None,
    workers: int | None = None,
) -> Transcript: ...
@overload
def transcribe(
    model: ModelLike,
    audio: Sequence[AudioLike],
    *,
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
    nbest: int = 1,
    word_times: bool = True,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    window_seconds: float | None = None,
    workers: int | None = None,
) -> list[Transcript]: ...
def transcribe(
    model: ModelLike,
    audio: AudioLike | Sequence[AudioLike],
    *,
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
    nbest: int = 1,
    word_times: bool = True,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    window_seconds: float | None = None,
    workers: int | None = None,
) -> Transcript | list[Transcript]:
    """Write down what is said in recordings.

    Recordings longer than 30 seconds run in windows, cut where it is quiet, in the same memory
    for any length. For folders, and where some recordings may be unreadable, see
    `transcribe_files`.

    Args:
        model: a loaded model, or what `load_model` takes.
        audio: one recording (path, bytes, binary file object, `Waveform`, or samples at 16 kHz as
            a float array or tensor (samples,)), or a list or tuple of them.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        lm: n-gram model to search with: a loaded one, an ARPA file (.arpa, .arpa.gz) or our own
            (.unheard-lm). With this or any of the next eleven, a beam search takes the place of
            greedy reading (docs/decoding.md).
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings of the search by name ("wav2vec2-librispeech-10m-4gram", "pyctcdecode",
            ...), or the search.json of `unheard tune`.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats]; a negative one gives fewer, longer words.
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order.
        rescore_weight: of its natural log-probability; 0.5 by default.
        fuse: Transformer language model that judges the words of all readings while the search
            goes on.
        fuse_weight: of its natural log-probability; 0.5 by default.
        nbest: readings of each recording to keep, in `Transcript.readings`.
        word_times: keep the words with their times and confidence.
        padding: how padding in a batch is treated, instead of what the model says; with "zeros"
            each recording runs alone.
        dtype: number format of the matrix products.
        batch_seconds: padded audio in one batch [seconds]; None chooses by device.
        window_seconds: longest window of recordings that are longer than it; if not given, 12 for
            those longer than 30.
        workers: threads that decode; None chooses by the machine.

    Returns:
        For one recording its `Transcript`; for a list a list in the same order.

    Raises:
        AudioError: if a recording cannot be read.
        ConfigError: if the model has no CTC head, an argument is none of the above, or the language
            model does not fit the model's alphabet.
    """
    options = SearchOptions(
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
        nbest=nbest,
    )
    engine = Engine(
        as_bundle(model, adapter=adapter),
        dtype=dtype,
        padding=padding,
        batch_seconds=batch_seconds,
    )
    several = isinstance(audio, list | tuple)
    found = _transcribe(
        engine,
        audio if several else [cast("AudioLike", audio)],
        options.decoder(engine.alphabet),
        word_times=word_times,
        keep_readings=nbest > 1,
        window_seconds=window_seconds,
        workers=workers,
    )
    return list(found) if several else next(found)


def transcribe_files(
    model: ModelLike,
    paths: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] | None = None,
    format: Format = "txt",
    adapter: str | None = None,
    lm: str | os.PathLike[str] | None = None,
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
    nbest: int = 1,
    scores: bool = False,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    batch_seconds: float | None = None,
    window_seconds: float | None = None,
    workers: int | None = None,
    device: str = "cpu",
    shard: str | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
    progress: bool = True,
    stdout: TextIO | None = None,
) -> TranscribeSummary:
    """Transcribe files and folders; one bad recording never stops the others.

    With `out`, every recording gets exactly one record there, however often the run is killed
    and started again: see `unheard.tasks.transcripts_folder`. A recording with a record is left
    alone by later runs unless its size or modification time has changed. Without `out`, texts go
    to the standard output in the order of the inputs, and failures to the standard error.

    Args:
        model: a loaded model, or what `load_model` takes; loaded only if there is work.
        paths: files (tried whatever their suffix) and folders (see
            `unheard.tasks.listing.list_recordings`).
        out: folder for transcripts.jsonl, dead_letters.jsonl and one file for each recording.
        format: "txt" one line; "srt" and "vtt" subtitles; "jsonl" records alone.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        lm: n-gram model to search with: a loaded one, an ARPA file (.arpa, .arpa.gz) or our own
            (.unheard-lm). With this or any of the next eleven, a beam search takes the place of
            greedy reading (docs/decoding.md).
        lexicon: file of the words that may be written; any text may be without one.
        preset: settings of the search by name ("wav2vec2-librispeech-10m-4gram", "pyctcdecode",
            ...), or the search.json of `unheard tune`.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats]; a negative one gives fewer, longer words.
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order.
        rescore_weight: of its natural log-probability; 0.5 by default.
        fuse: Transformer language model that judges the words of all readings while the search
            goes on.
        fuse_weight: of its natural log-probability; 0.5 by default.
        nbest: readings of each recording to keep, in the records.
        scores: keep what the scores of the readings are made of too; on the standard output, print
            them as a table.
        padding: how padding in a batch is treated, instead of what the model says.
        dtype: number format of the matrix products.
        batch_seconds: padded audio in one batch [seconds]; None chooses by device.
        window_seconds: longest window of recordings that are longer than it; if not given, 12 for
            those longer than 30.
        workers: threads that decode; None chooses by the machine.
        device: where to load the model, unless it is loaded.
        shard: "i/n" does the i-th of n parts; give each part an `out` of its own.
        overwrite: drop the records in `out` and begin anew.
        retry_failed: try recordings with a dead letter again.
        progress: show on the standard error how far it is.
        stdout: where texts go without `out`; None is the standard output.

    Returns:
        How many recordings were done, skipped, failed.

    Raises:
        ConfigError: if no recording was found, `out` is in use or was made with other settings,
            or the model has no CTC head.
        UnheardError: if `out` cannot be written.
    """
    started = time.monotonic()
    if format not in ("txt", "jsonl", "srt", "vtt"):
        raise ConfigError(f"format must be txt, jsonl, srt or vtt, got {format!r}.")
    listing = list_recordings(
        paths, exclude=out, shard=None if shard is None else parse_shard(shard)
    )
    listed = listing.recordings
    if not listed and shard is None:
        raise ConfigError(
            f"No recordings found in {', '.join(map(str, paths)) or 'no paths'}: expected files "
            "with a suffix of audio or video. A file named by itself is tried whatever its suffix."
        )
    if out is None and format in ("srt", "vtt") and len(listed) > 1:
        raise ConfigError(
            f"Subtitles of {len(listed)} recordings cannot share the standard output. Name a "
            "folder for them: --out DIR."
        )
    for path in listing.duplicates:
        logger.info("%s leads to a recording that is listed already", path)
    lazy = LazyEngine(
        model,
        SearchOptions(
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
            nbest=nbest,
        ),
        keep_readings=nbest > 1 or scores,
        adapter=adapter,
        device=device,
        padding=padding,
        dtype=dtype,
        batch_seconds=batch_seconds,
        window_seconds=window_seconds,
    )
    tally = _Tally()
    if out is None:
        sink = _StandardOutput(stdout or sys.stdout, format=format, is_one_file=_is_one_file(paths))
        with _Meter(len(listed), tally, shown=progress and sink.leaves_room) as meter:
            _run(lazy, listed, sink, meter, workers=workers)
        skipped = failed_before = 0
    else:
        with TranscriptsFolder(out, format=format, render=render_record) as folder:
            folder.open(lazy.settings(), overwrite=overwrite)
            plan = folder.plan(listed, retry_failed=retry_failed)
            skipped, failed_before = plan.done, plan.failed
            with _Meter(len(plan.pending), tally, shown=progress) as meter:
                _run(lazy, plan.pending, folder, meter, workers=workers)
    return TranscribeSummary(
        done=tally.done,
        skipped=skipped,
        failed=tally.failed + failed_before,
        duplicates=len(listing.duplicates),
        audio_seconds=tally.audio_seconds,
        elapsed_seconds=time.monotonic() - started,
        out=None if out is None else str(out),
    )


def render_record(record: Mapping[str, Any], format: Format) -> str:
    """Make the text of a recording's own output from its record.

    Args:
        record: a line of transcripts.jsonl, or `Transcript.to_dict()`.
        format: "txt", "srt" or "vtt".
    """
    if format == "jsonl":
        return json.dumps(record, ensure_ascii=False) + "\n"
    if format == "txt":
        return f"{record['text']}\n"
    words = [Word(**word) for word in record["words"]]
    # Scripts without spaces have words of one symbol, joined by nothing.
    spaced = len(words) < 2 or " " in record["text"]
    segments = subtitles.readable(
        subtitles.segments_from_words(words, separator=" " if spaced else ""),
        until_seconds=record["duration_seconds"],
    )
    return subtitles.to_srt(segments) if format == "srt" else subtitles.to_vtt(segments)


def make_transcript(
    engine: Engine,
    heard: Heard,
    *,
    path: str | None,
    word_times: bool = True,
    keep_readings: bool = False,
) -> Transcript:
    """Make the transcript of one recording that could be read."""
    if not heard.readings:
        raise ConfigError("A recording that could not be read has no transcript.")
    hypothesis = heard.readings[0]
    language = engine.bundle.adapter or engine.bundle.provenance.get("language")
    return Transcript(
        text=hypothesis.text,
        words=hypothesis.words if word_times else (),
        confidence=hypothesis.confidence,
        duration_seconds=heard.duration_seconds,
        language=language if isinstance(language, str) else None,
        warnings=heard.warnings,
        path=path,
        readings=heard.readings if keep_readings else (),
    )


def _transcribe(
    engine: Engine,
    audio: Iterable[AudioLike],
    decoder: Decoder,
    *,
    word_times: bool,
    keep_readings: bool,
    window_seconds: float | None,
    workers: int | None,
) -> Iterator[Transcript]:
    """Transcribe in the order given; the first recording that cannot be read ends it."""
    paths: dict[int, str | None] = {}

    def sources() -> Iterator[Source]:
        for index, one in enumerate(audio):
            paths[index] = os.fspath(one) if isinstance(one, str | os.PathLike) else None
            yield as_source(one)

    whole, window = window_lengths(window_seconds)
    heard_all = hear(
        engine,
        sources(),
        decoder,
        workers=workers,
        whole_seconds=whole,
        window_seconds=window,
    )
    with contextlib.closing(heard_all) as results:
        for heard in _in_order(results):
            if heard.error is not None:
                raise heard.error
            yield make_transcript(
                engine,
                heard,
                path=paths.pop(heard.index),
                word_times=word_times,
                keep_readings=keep_readings,
            )


def _in_order(results: Iterable[Heard]) -> Iterator[Heard]:
    """Give results in the order of their sources; holds back at most a pool of them."""
    waiting: dict[int, Heard] = {}
    turn = 0
    for heard in results:
        waiting[heard.index] = heard
        while turn in waiting:
            yield waiting.pop(turn)
            turn += 1


def window_lengths(window_seconds: float | None) -> tuple[float, float]:
    """Longest recording to hear whole, and longest window of others, as asked for or as usual."""
    if window_seconds is None:
        return WHOLE_SECONDS, WINDOW_SECONDS
    return window_seconds, window_seconds


class LazyEngine:
    """Knows what a model is without loading it, and loads it when it is needed."""

    def __init__(
        self,
        model: ModelLike,
        search: SearchOptions,
        *,
        keep_readings: bool,
        adapter: str | None,
        device: str,
        padding: Literal["masked", "zeros"] | None,
        dtype: Dtype,
        batch_seconds: float | None,
        window_seconds: float | None = None,
    ) -> None:
        self.whole_seconds, self.window_seconds = window_lengths(window_seconds)
        self.search = search
        self.keep_readings = keep_readings
        self._model = model
        self._adapter = adapter
        self._device = device
        self._padding: Literal["masked", "zeros"] | None = padding
        self._dtype: Dtype = dtype
        self._batch_seconds = batch_seconds
        self._bundle: ModelBundle | None = None

    def settings(self) -> dict[str, Any]:
        """All that decides a transcript; the batch size does not."""
        return {
            "model": identify(self._model),
            **({} if self._adapter is None else {"adapter": self._adapter}),
            **self.search.identity(),
            **({"readings": True} if self.keep_readings else {}),
            "padding": self._padding or "model",
            "dtype": self._dtype,
            "whole_seconds": self.whole_seconds,
            "window_seconds": self.window_seconds,
            "context_seconds": CONTEXT_SECONDS,
            "search_seconds": SEARCH_SECONDS,
            "results_version": RESULTS_VERSION,
        }

    def get(self) -> Engine:
        """Load the model."""
        return Engine(
            self._load(),
            dtype=self._dtype,
            padding=self._padding,
            batch_seconds=self._batch_seconds,
        )

    def _load(self) -> ModelBundle:
        if self._bundle is None:
            self._bundle = as_bundle(self._model, adapter=self._adapter, device=self._device)
        return self._bundle


@dataclass
class _Tally:
    """Counts of a run so far."""

    done: int = 0
    failed: int = 0
    audio_seconds: float = 0.0


def _run(
    lazy: LazyEngine,
    listed: Sequence[Listed],
    sink: "TranscriptsFolder | _StandardOutput",
    meter: "_Meter",
    *,
    workers: int | None,
) -> None:
    """Transcribe recordings into a sink."""
    if not listed:
        return
    readable = [one for one in listed if one.error is None]
    for one in listed:
        if one.error is not None:
            sink.write_dead_letter(one, one.error)
            meter.failed(one, one.error)
    engine = lazy.get()
    decoder = lazy.search.decoder(engine.alphabet)
    sources = (Source(audio=one.path) for one in readable)
    heard_all = hear(
        engine,
        sources,
        decoder,
        workers=workers,
        whole_seconds=lazy.whole_seconds,
        window_seconds=lazy.window_seconds,
    )
    with contextlib.closing(heard_all) as results:
        for heard in _in_order(results) if sink.keeps_order else results:
            one = readable[heard.index]
            if heard.error is not None:
                sink.write_dead_letter(one, heard.error)
                meter.failed(one, heard.error)
                continue
            transcript = make_transcript(
                engine, heard, path=one.path, keep_readings=lazy.keep_readings
            )
            sink.write_transcript(one, transcript.to_dict())
            meter.done(transcript.duration_seconds)


class _StandardOutput:
    """Prints transcripts in the order of the inputs, and failures beside them."""

    keeps_order = True

    def __init__(self, stream: TextIO, *, format: Format, is_one_file: bool) -> None:
        self._stream = stream
        self._format: Format = format
        self._is_one_file = is_one_file
        # Between a bar and texts on one terminal, the texts win.
        self.leaves_room = not stream.isatty()

    def write_transcript(self, one: Listed, row: Mapping[str, Any]) -> None:
        """Print one transcript: alone for a single file, after its name for several.

        Where readings were asked for, print all of them as a table.
        """
        text = render_record({"status": "done", **row}, self._format)
        if self._format == "txt" and "readings" in row:
            text = readings_table(_printable(one.path), row["readings"])
        elif self._format == "txt" and not self._is_one_file:
            text = f"{_printable(one.path)}\t{text}"
        self._stream.write(text)
        self._stream.flush()

    def write_dead_letter(self, one: Listed, error: AudioError) -> None:
        """Say on the standard error what could not be transcribed."""
        print(f"{_printable(one.path)}: {error.reason}: {error}", file=sys.stderr)


class _Meter:
    """Shows how far a run is: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, tally: _Tally, *, shown: bool) -> None:
        self._total = total
        self._tally = tally
        self._started = time.monotonic()
        self._last_line = self._started
        self._shown = shown
        self._bar: Progress | None = None
        if shown and total and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("transcribing"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task("", total=self._total, speed="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def done(self, audio_seconds: float) -> None:
        """Count a transcript."""
        self._tally.done += 1
        self._tally.audio_seconds += audio_seconds
        self._show()

    def failed(self, one: Listed, error: AudioError) -> None:
        """Count a recording that could not be transcribed."""
        self._tally.failed += 1
        logger.debug("%s: %s: %s", _printable(one.path), error.reason, error)
        self._show()

    def _show(self) -> None:
        """Show the counts."""
        now = time.monotonic()
        ended = self._tally.done + self._tally.failed
        times = self._tally.audio_seconds / max(now - self._started, 1e-9)
        failed = f", {self._tally.failed} failed" if self._tally.failed else ""
        if self._bar is not None:
            speed = f"{times:.1f}x real time{failed}"
            self._bar.update(self._task, completed=ended, speed=speed)
        elif self._shown and now - self._last_line >= _PLAIN_SECONDS:
            self._last_line = now
            print(
                f"transcribing: {ended} of {self._total} recordings{failed}, "
                f"{times:.1f} times real time",
                file=sys.stderr,
            )


def _is_one_file(paths: Sequence[str | os.PathLike[str]]) -> bool:
    """Whether a run is about one file that was named."""
    return len(paths) == 1 and not Path(paths[0]).is_dir()


def _printable(path: str) -> str:
    """Put any path on one line."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
