"""A microphone, a file or a pipe in, text on the screen as it is spoken out."""

import json as json_format
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self, TextIO, get_args

import numpy as np
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.text import Text

from unheard.audio.signal import SAMPLE_RATE
from unheard.errors import ConfigError
from unheard.inference.inputs import ModelLike
from unheard.inference.number_format import Dtype
from unheard.inference.streaming import HOP_SECONDS, StreamSegment, StreamUpdate
from unheard.inference.windows import CONTEXT_SECONDS, WINDOW_SECONDS
from unheard.tasks.live_source import LiveSource, Piece, check_source, open_source
from unheard.tasks.stream import Stream
from unheard.tasks.transcribe import Transcript
from unheard.text import subtitles

Format = Literal["txt", "jsonl", "srt", "vtt"]
"""Form of what is written while it is spoken."""

BEHIND_SECONDS = 2.0
"""Sound that waits, from which on it is said that the machine is too slow [seconds]."""
_LATENCIES = 100_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ListenSummary:
    """What came of listening.

    Attributes:
        audio_seconds: sound heard.
        elapsed_seconds: from its first sample to the end of the text.
        words: written.
        partials: partial texts that were computed.
        partial_p50_seconds: from the arrival of sound to the first text with it, in the middle;
            None without partial texts.
        partial_p95_seconds: the same, for 95 of 100.
        final_seconds: sound is final when so much more has come, at the latest.
        load: seconds of computation for a second of sound.
        longest_wait_seconds: most sound that waited to be heard, at any time.
        dropped: times that the microphone's own buffer was full and sound was lost.
        out: file that was written.
    """

    audio_seconds: float
    elapsed_seconds: float
    words: int
    partials: int
    partial_p50_seconds: float | None
    partial_p95_seconds: float | None
    final_seconds: float
    load: float
    longest_wait_seconds: float
    dropped: int
    out: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return asdict(self)

    def table(self) -> str:
        """Say it in a few lines."""
        lines = [
            f"{self.audio_seconds:.1f} s of sound, {self.words} words, load {self.load:.2f} "
            "(seconds of computation a second of sound)"
        ]
        if self.partial_p50_seconds is not None and self.partial_p95_seconds is not None:
            lines.append(
                f"from sound to partial text: {self.partial_p50_seconds:.2f} s (p50), "
                f"{self.partial_p95_seconds:.2f} s (p95), {self.partials} partial texts"
            )
        lines.append(f"from sound to final text: {self.final_seconds:.1f} s of sound at most")
        lines.append(f"longest wait of sound: {self.longest_wait_seconds:.2f} s")
        return "\n".join(lines)


def listen(
    model: ModelLike,
    *,
    file: str | os.PathLike[str] | None = None,
    fast: bool = False,
    sample_rate: int = SAMPLE_RATE,
    microphone: str | None = None,
    out: str | os.PathLike[str] | None = None,
    format: Format | None = None,
    overwrite: bool = False,
    adapter: str | None = None,
    lm: str | os.PathLike[str] | None = None,
    lexicon: str | os.PathLike[str] | None = None,
    preset: str | None = None,
    beam: int | None = None,
    lm_weight: float | None = None,
    word_bonus: float | None = None,
    hot_words: str | None = None,
    padding: Literal["masked", "zeros"] | None = None,
    dtype: Dtype = "auto",
    device: str = "cpu",
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
    hop_seconds: float = HOP_SECONDS,
    stats: bool = False,
    json: bool = False,
    stdout: TextIO | None = None,
) -> ListenSummary:
    """Write down what is said while it is said: from a microphone, a file or a pipe.

    On a terminal the last line shows what is being said, what may still change in a fainter
    colour; what is final moves above it. Elsewhere each final segment is a line. Ctrl-C ends it
    with the whole text: nothing is lost. A microphone needs: pip install "unheard[microphone]".

    Args:
        model: a loaded model, or what `load_model` takes.
        file: recording to hear at the speed of sound; "-" (or a bare - after the model) is the
            standard input: a WAV, or raw 16-bit mono samples, little-endian.
        fast: hear the file as fast as the machine can.
        sample_rate: of raw samples [Hz].
        microphone: its name or number, of those that the system lists; the usual one if not given.
        out: file to write the final segments to as they come.
        format: of the file: txt (a line for each), jsonl (with words and times), srt or vtt; by
            its suffix if not given.
        overwrite: replace the file if there is one.
        adapter: for a model with an adapter for each language, the language, such as "kmr".
        lm: n-gram model to search with; this and the next six as in `unheard transcribe`.
        lexicon: file of the words that may be written.
        preset: settings of the search by name.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: added for each word [nats].
        hot_words: words or phrases to listen for: "Kampala,Nakawa=5".
        padding: instead of the one in the model's input spec.
        dtype: of the matrix products.
        device: where to load the model, unless it is loaded.
        window_seconds: longest window: what was said this long ago is final. Shorter ones are
            final sooner, and the network hears less around each moment.
        context_seconds: sound heard beyond the seam of two windows where that is no pause.
        hop_seconds: sound between two partial texts.
        stats: say on the standard error at the end how late the text was, and what it cost.
        json: write a JSON object for each change on the standard output, and one with the whole
            at the end.
        stdout: where the text goes; None is the standard output.

    Returns:
        How late the text was, and what it cost.

    Raises:
        AudioError: if there is no such file or microphone.
        ConfigError: if the model has no CTC head, an argument is out of its range, or the file to
            write exists.
        MissingExtraError: if a microphone is to be heard and "unheard[microphone]" is missing.
    """
    target = None if out is None else _SegmentFile(out, format=format, overwrite=overwrite)
    if fast and file is None:
        raise ConfigError(
            "A microphone comes at the speed of sound: expected a file with fast. Name it: "
            "--file talk.wav --fast."
        )
    check_source(file)
    shown = stdout or sys.stdout
    # Partial texts that nobody sees are not computed.
    is_watched = json or stats or shown.isatty()
    stream = Stream(
        model,
        adapter=adapter,
        lm=lm,
        lexicon=lexicon,
        preset=preset,
        beam=beam,
        lm_weight=lm_weight,
        word_bonus=word_bonus,
        hot_words=hot_words,
        padding=padding,
        dtype=dtype,
        device=device,
        window_seconds=window_seconds,
        context_seconds=context_seconds,
        hop_seconds=hop_seconds if is_watched else None,
    )
    _warm_up(stream)
    screen = _screen(shown, as_json=json)
    with (
        _stopping() as stop,
        open_source(file, sample_rate, microphone, fast, stop) as source,
        screen,
        target or _Nowhere() as written,
    ):
        session = _Session(stream, source, lambda update: _tell(update, screen, written))
        screen.end(session.run(stop))
    summary = session.summary(out=None if out is None else str(out))
    if stats:
        print(summary.table(), file=sys.stderr)
    return summary


def _tell(update: StreamUpdate, screen: "_Screen", written: "_SegmentFile | _Nowhere") -> None:
    """Show what is new, after what is final is safe."""
    for segment in update.segments:
        written.write(segment)
    if update.changed:
        screen.show(update)


def _warm_up(stream: Stream) -> None:
    """Run everything once, so that the first words do not wait for it."""
    trial = stream.another()
    trial.feed(np.zeros(2 * SAMPLE_RATE, np.float32), sample_rate=SAMPLE_RATE)
    trial.partial()
    trial.finish()


class _Session:
    """Feeds a stream with what comes, and watches how late it is."""

    def __init__(
        self, stream: Stream, source: "LiveSource", tell: Callable[[StreamUpdate], None]
    ) -> None:
        self._stream = stream
        self._source = source
        self._tell = tell
        self._waiting: list[float] = []  # arrivals of the pieces that no text has
        self._latencies: deque[float] = deque(maxlen=_LATENCIES)
        self._longest_wait = 0.0
        self._warned_at = BEHIND_SECONDS
        self._words = 0
        self._elapsed = 0.0

    def run(self, stop: threading.Event) -> Transcript:
        """Hear all that comes until it ends or is to stop."""
        started = time.monotonic()
        while not stop.is_set():
            pieces = self._source.take()
            if pieces is None:
                break
            if pieces:
                self._hear(pieces)
        for pieces in self._source.rest():
            self._hear(pieces)
        transcript = self._stream.finish()
        self._tell(self._stream.update)
        if not transcript.duration_seconds:
            logger.warning("no sound came, so nothing was written")
        elif transcript.warnings:
            logger.warning("the sound was odd: %s", ", ".join(transcript.warnings))
        self._words = len(transcript.words)
        self._elapsed = time.monotonic() - started
        return transcript

    def _hear(self, pieces: "list[Piece]") -> None:
        """Feed all that waits at once: the more waits, the fewer partial texts there are."""
        self._watch(pieces)
        before = self._stream.stats
        self._waiting += [piece.arrived for piece in pieces]
        sound = np.concatenate([piece.samples for piece in pieces])
        self._tell(self._stream.feed(sound, sample_rate=self._source.sample_rate))
        after = self._stream.stats
        if after.partials > before.partials:
            now = time.monotonic()
            self._latencies.extend(now - arrived for arrived in self._waiting)
        if after.partials > before.partials or after.partials_silent > before.partials_silent:
            self._waiting.clear()

    def _watch(self, pieces: "list[Piece]") -> None:
        """Say so if the machine is too slow for what comes, or sound was lost."""
        lost = self._source.dropped_since()
        if lost:
            logger.warning(
                "the microphone's buffer ran over %d times: some sound was lost. Close other "
                "programs, or take a smaller model.",
                lost,
            )
        if not self._source.is_live:
            return
        waits = time.monotonic() - pieces[0].arrived
        self._longest_wait = max(self._longest_wait, waits)
        if waits >= self._warned_at:
            while waits >= self._warned_at:
                self._warned_at *= 2
            logger.warning(
                "this machine is too slow: %.1f s of sound wait to be heard. Partial texts now "
                "come every %.1f s; nothing is lost, it comes later. A smaller model, shorter "
                "windows or a longer hop help.",
                waits,
                max(self._stream.stats.hop_seconds, waits),
            )
        elif waits < BEHIND_SECONDS / 4 and self._warned_at > BEHIND_SECONDS:
            self._warned_at = BEHIND_SECONDS
            logger.warning("the text has caught up with the sound")

    def summary(self, *, out: str | None) -> ListenSummary:
        """Say how late the text was, and what it cost."""
        stats = self._stream.stats
        late = np.array(self._latencies) if self._latencies else None
        return ListenSummary(
            audio_seconds=stats.audio_seconds,
            elapsed_seconds=self._elapsed,
            words=self._words,
            partials=stats.partials,
            partial_p50_seconds=None if late is None else float(np.quantile(late, 0.5)),
            partial_p95_seconds=None if late is None else float(np.quantile(late, 0.95)),
            final_seconds=self._stream.latency.final_seconds,
            load=stats.load,
            longest_wait_seconds=self._longest_wait,
            dropped=self._source.dropped,
            out=out,
        )


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C, or SIGTERM, into a wish to end; a second one stops at once."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        del frame
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        signal.signal(number, ask)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Screen:
    """Final segments, a line each."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, update: StreamUpdate) -> None:
        """Show what is new."""
        for segment in update.segments:
            self._print(segment.text)

    def end(self, transcript: Transcript) -> None:
        """Show the end."""

    def _print(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class _JsonLines(_Screen):
    """Every change as an object, and the whole as one."""

    def show(self, update: StreamUpdate) -> None:
        """Write what is new."""
        self._print(json_format.dumps(update.to_dict(), ensure_ascii=False))

    def end(self, transcript: Transcript) -> None:
        """Write the whole."""
        self._print(json_format.dumps({"transcript": transcript.to_dict()}, ensure_ascii=False))


class _Terminal(_Screen):
    """What is final above, what is being said in the last line."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, update: StreamUpdate) -> None:
        """Show what is new."""
        for segment in update.segments:
            self._console.print(Text(segment.text))
        line = last_cells(update.stable_text, update.partial_text, width=self._console.width - 1)
        self._live.update(line, refresh=True)


def last_cells(stable: str, partial: str, *, width: int) -> Text:
    """Lay out one line of what is being said, its end if it is too long.

    Args:
        stable: what does not change.
        partial: what may change, shown fainter.
        width: of the line [cells].
    """
    space = " " if stable and partial else ""
    whole = stable + space + partial
    start = 0
    if cell_len(whole) > width:
        # From the end, as many characters as fit beside the mark for what is left out.
        start, cells = len(whole), 1
        while start and cells + cell_len(whole[start - 1]) <= width:
            start -= 1
            cells += cell_len(whole[start])
    behind = len(stable) + len(space)
    line = Text("…" if start else "", no_wrap=True, end="")
    line.append(whole[start : max(behind, start)])
    line.append(whole[max(behind, start) :], style="dim")
    return line


def _screen(stream: TextIO, *, as_json: bool) -> _Screen:
    """Choose how to show what is said."""
    if as_json:
        return _JsonLines(stream)
    return _Terminal(stream) if stream.isatty() else _Screen(stream)


class _Nowhere:
    """Where final segments go when no file was named."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def write(self, segment: StreamSegment) -> None:
        """Let it go."""


class _SegmentFile:
    """A file of final segments; each is on the disk before it is shown."""

    def __init__(
        self, path: str | os.PathLike[str], *, format: Format | None, overwrite: bool
    ) -> None:
        self._path = Path(path)
        suffix = self._path.suffix.lower().lstrip(".")
        self._format = format or suffix
        if self._format not in get_args(Format):
            raise ConfigError(
                f"The form of {os.fspath(path)!r} is not known: expected a suffix of .txt, .jsonl, "
                f".srt or .vtt, or --format, found {self._path.suffix or 'no suffix'!r}."
            )
        if self._path.exists() and self._path.stat().st_size and not overwrite:
            raise ConfigError(
                f"{os.fspath(path)!r} exists and would be replaced. Name another file, or say "
                "--overwrite."
            )
        self._cues = 0

    def __enter__(self) -> Self:
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        if self._format == "vtt":
            self._put("WEBVTT\n")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, segment: StreamSegment) -> None:
        """Add a segment."""
        if self._format == "txt":
            self._put(f"{segment.text}\n")
            return
        if self._format == "jsonl":
            self._put(json_format.dumps(segment.to_dict(), ensure_ascii=False) + "\n")
            return
        spaced = len(segment.words) < 2 or " " in segment.text
        for cue in subtitles.segments_from_words(segment.words, separator=" " if spaced else ""):
            if self._format == "vtt":
                text = subtitles.to_vtt([cue]).removeprefix("WEBVTT\n")
            else:
                text = subtitles.to_srt([cue]).removeprefix("1\n")
                between = "\n" if self._cues else ""
                text = f"{between}{self._cues + 1}\n{text}" if text else ""
            self._cues += bool(text)
            self._put(text)

    def _put(self, text: str) -> None:
        """Write, and wait until it is on the disk."""
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())
