"""Live recognition: is the final text that of the windows, and how late is the text?

    python -m benchmarks.streaming MODEL MANIFEST [--dtype auto] [--out PAGE]

MANIFEST lists recordings (JSON lines with "audio"). Three parts:

Text: each of the first recordings, and all of them joined, goes through `unheard.transcribe` in
windows, and through a stream in random pieces with partial texts on the way; the final texts, and
all words with their times, must be equal. In windows of 15 and of 4 seconds.

Accuracy, where the manifest has texts: the character error rate of all of them joined, by the
length of the windows.

Time: one live stream on one core, pieces of 0.1 s that come at the speed of sound. The clock is
simulated: a piece arrives when it would; the computation takes as long as it took, measured as
processor time, so that other work on the machine does not count. What arrives during a
computation waits, and is heard at once, as `unheard listen` does it. The latency of a partial text
is counted for every piece: from its arrival until the first partial text that includes it. The
load is processor seconds for a second of sound.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import unheard
from unheard.audio import io
from unheard.audio.signal import SAMPLE_RATE
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.hypothesis import Hypothesis
from unheard.inference.engine import Engine
from unheard.inference.pipeline import Source, hear
from unheard.inference.streaming import Listener
from unheard.inference.windows import WindowPlan, plan_windows
from unheard.text import normalize
from unheard.text.error_rate import char_errors

PIECE_SECONDS = 0.1
WINDOWS_SECONDS = (15.0, 4.0)


@dataclass
class Live:
    """What one simulated live stream showed."""

    latencies: list[float] = field(default_factory=list)
    final_ages: list[float] = field(default_factory=list)
    busy: float = 0.0
    seconds: float = 0.0
    partials: int = 0


def plan_of(engine: Engine, window_seconds: float) -> WindowPlan:
    return plan_windows(
        engine.encoder_config, sample_rate=SAMPLE_RATE, window_seconds=window_seconds
    )


def in_windows(
    engine: Engine, sound: NDArray[np.float32], window_seconds: float
) -> Hypothesis | None:
    """What the pipeline of `transcribe` writes in windows."""
    waveform = unheard.Waveform(samples=sound, sample_rate=SAMPLE_RATE)
    (heard,) = hear(
        engine,
        [Source(audio=waveform)],
        GreedyDecoder(engine.alphabet),
        whole_seconds=0.0,
        window_seconds=window_seconds,
    )
    return heard.readings[0] if heard.readings else None


def compare(
    engine: Engine, sounds: Sequence[NDArray[np.float32]], window_seconds: float, hop: float
) -> int:
    """Count the recordings whose stream ends with the text and the words of their windows."""
    generator = np.random.default_rng(0)
    equal = 0
    for sound in sounds:
        listener = Listener(
            engine, GreedyDecoder(engine.alphabet), plan_of(engine, window_seconds), hop_seconds=hop
        )
        start = 0
        while start < sound.shape[0]:
            size = int(generator.integers(0, 3 * SAMPLE_RATE))
            listener.feed(sound[start : start + size])
            start += size
        listener.finish()
        expected = in_windows(engine, sound, window_seconds)
        words = expected.words if expected else ()
        text = expected.text if expected else ""
        equal += (listener.text, listener.words) == (text, words)
    return equal


def live(engine: Engine, sound: NDArray[np.float32], window_seconds: float, hop: float) -> Live:
    """Simulate a live stream."""
    clock = time.process_time
    found = Live(seconds=sound.shape[0] / SAMPLE_RATE)
    listener = Listener(
        engine,
        GreedyDecoder(engine.alphabet),
        plan_of(engine, window_seconds),
        hop_seconds=hop,
        clock=clock,
    )
    size = round(PIECE_SECONDS * SAMPLE_RATE)
    pieces = [sound[start : start + size] for start in range(0, sound.shape[0], size)]
    arrivals = np.cumsum([piece.shape[0] for piece in pieces]) / SAMPLE_RATE
    now, taken = 0.0, 0
    waiting: list[float] = []
    while taken < len(pieces):
        now = max(now, float(arrivals[taken]))
        ready = int(np.searchsorted(arrivals, now, side="right"))
        waiting += arrivals[taken:ready].tolist()
        before, started = listener.stats, clock()
        update = listener.feed(np.concatenate(pieces[taken:ready]))
        took = clock() - started
        found.busy += took
        now, taken = now + took, ready
        if listener.stats.partials > before.partials:
            found.latencies += [now - arrived for arrived in waiting]
        if listener.stats.partials + listener.stats.partials_silent > (
            before.partials + before.partials_silent
        ):
            waiting.clear()
        for segment in update.segments:
            found.final_ages += [now - word.end_seconds for word in segment.words]
    started = clock()
    listener.finish()
    found.busy += clock() - started
    found.partials = listener.stats.partials
    return found


def error_rate(engine: Engine, said: str, heard: str) -> float:
    """Character error rate after the normaliser that the model was trained with."""
    name = engine.bundle.provenance.get("normalizer")
    normalise = normalize.get(name if isinstance(name, str) else "none-1")
    return char_errors(normalise(said), normalise(heard)).rate


def cell(values: Sequence[float], quantile: float) -> str:
    return f"{float(np.quantile(values, quantile)):.2f}" if values else "-"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--hop", type=float, default=0.5)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [json.loads(line) for line in options.manifest.read_text().splitlines()]
    sounds = [
        io.read(options.manifest.parent / row["audio"], sample_rate=SAMPLE_RATE).samples
        for row in rows[: options.files]
    ]
    joined = np.concatenate(
        [part for sound in sounds for part in (sound, np.zeros(SAMPLE_RATE // 2, np.float32))]
    )
    talk = joined[: round(options.minutes * 60 * SAMPLE_RATE)]
    engine = Engine(unheard.load_model(options.model), dtype=options.dtype)
    lines = ["## Final text", ""]
    lines += ["| windows | recordings with equal text and words | all joined |", "|---|---|---|"]
    wrong = 0
    for window_seconds in WINDOWS_SECONDS:
        equal = compare(engine, sounds, window_seconds, options.hop)
        whole = compare(engine, [joined], window_seconds, options.hop)
        wrong += len(sounds) - equal + 1 - whole
        length = f"{joined.shape[0] / SAMPLE_RATE / 60:.1f} min"
        lines.append(
            f"| {window_seconds:g} s | {equal} of {len(sounds)} | "
            f"{'equal' if whole else 'DIFFERENT'} ({length}) |"
        )
    if all(row.get("text") for row in rows[: options.files]):
        said = " ".join(row["text"] for row in rows[: options.files])
        lines += ["", "## Accuracy by the length of windows", ""]
        lines += ["| windows | character error rate, all joined |", "|---|---|"]
        for window_seconds in (30.0, 15.0, 8.0, 6.0, 5.0, 4.0, 3.5):
            reading = in_windows(engine, joined, window_seconds)
            rate = error_rate(engine, said, reading.text if reading else "")
            lines.append(f"| {window_seconds:g} s | {rate:.4f} |")
    lines += ["", "## Latency and load of one live stream on one core", ""]
    lines += [
        "| windows | partial p50 | partial p95 | partial texts a minute | load | load, all runs | "
        "age of words in final segments p50, p95 |",
        "|---|---|---|---|---|---|---|",
    ]
    live(engine, talk[: 20 * SAMPLE_RATE], 4.0, options.hop)  # warm
    for window_seconds in WINDOWS_SECONDS:
        runs = [live(engine, talk, window_seconds, options.hop) for _ in range(options.runs)]
        loads = sorted(run.busy / run.seconds for run in runs)
        middle = sorted(runs, key=lambda run: run.busy)[len(runs) // 2]
        lines.append(
            f"| {window_seconds:g} s | {cell(middle.latencies, 0.5)} s | "
            f"{cell(middle.latencies, 0.95)} s | {60 * middle.partials / middle.seconds:.0f} | "
            f"{middle.busy / middle.seconds:.3f} | {loads[0]:.3f} to {loads[-1]:.3f} | "
            f"{cell(middle.final_ages, 0.5)}, {cell(middle.final_ages, 0.95)} s |"
        )
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    command = (
        f"python -m benchmarks.streaming MODEL {options.manifest.name} --files {options.files} "
        f"--minutes {options.minutes:g} --hop {options.hop:g}"
    )
    head = [
        "# Live recognition",
        "",
        f"`{command}`, commit {commit}: {len(sounds)} recordings of "
        f"{sum(sound.shape[0] for sound in sounds) / SAMPLE_RATE / 60:.1f} min, of which "
        f"{talk.shape[0] / SAMPLE_RATE / 60:.1f} min were live; pieces of {PIECE_SECONDS} s, a "
        f"partial text every {options.hop} s, greedy; {len(engine.alphabet)} symbols, "
        f"{sum(p.numel() for p in engine.model.parameters()) / 1e6:.1f} million parameters, "
        f"{engine.dtype}. "
        f"{platform.machine()}, one core, one thread; Python {platform.python_version()}; torch "
        f"{torch.__version__}. The clock is simulated from measured times: see benchmarks/"
        "streaming.py.",
        "",
    ]
    page = "\n".join([*head, *lines, ""])
    print(page)
    if options.out is not None:
        options.out.write_text(page)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
