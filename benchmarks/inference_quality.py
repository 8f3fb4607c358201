"""Error rates of one model by every way to run it, on the same recordings.

    python -m benchmarks.inference_quality MODEL MANIFEST

Ways: float32, bfloat16 and int8, whole utterances; the exported ONNX graphs, float32 and int8; and
with windows, of two kinds. *Short windows*: each utterance by itself in windows of at most 3
seconds, so that it has seams. *Joined*: utterances one after the other, a minute together, in one
piece and in the windows of long recordings, and the same live (`unheard.Stream`).

Each row has the character error rate with its bootstrap interval, and how far it is from its own
reference row (paired: the same utterances are drawn for both). Texts are read greedily.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import unheard
from unheard.audio import io
from unheard.audio.signal import Waveform
from unheard.data.manifest import audio_path
from unheard.decoding.greedy import GreedyDecoder
from unheard.inference.engine import Dtype, Engine
from unheard.inference.pipeline import Source, hear
from unheard.inference.windows import CONTEXT_SECONDS, WINDOW_SECONDS
from unheard.interop.bundle import ModelBundle
from unheard.tasks.evaluate import find_utterances
from unheard.text.error_rate import ErrorReport, score

SHORT = (3.0, 0.5)
"""Short windows and what is heard beyond their seams [seconds]."""
JOINED_SECONDS = 60.0
Sounds = Sequence[NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to run, and what the bar is.

    Attributes:
        name: what is printed.
        report: its errors.
        against: name of the row to compare with, or None.
        bar: most points of CER that it may be above that row, or None.
    """

    name: str
    report: ErrorReport
    against: str | None = None
    bar: float | None = None


def read(
    bundle: ModelBundle,
    sounds: Sounds,
    *,
    dtype: Dtype,
    windows: tuple[float, float] | None = None,
) -> list[str]:
    """Transcribe in one piece each; or in windows of a length, with a context [seconds]."""
    engine = Engine(bundle, dtype=dtype)
    window, context = windows or (WINDOW_SECONDS, CONTEXT_SECONDS)
    found = hear(
        engine,
        (Source(audio=Waveform(samples=sound)) for sound in sounds),
        GreedyDecoder(engine.alphabet),
        whole_seconds=0.0 if windows else 1e9,
        window_seconds=window,
        context_seconds=context,
    )
    texts = [""] * len(sounds)
    with closing(found) as results:
        for heard in results:
            texts[heard.index] = heard.readings[0].text
    return texts


def read_live(bundle: ModelBundle, sounds: Sounds, *, dtype: Dtype) -> list[str]:
    """Feed each sound to a stream, a tenth of a second at a time."""
    stream = unheard.Stream(bundle, dtype=dtype, hop_seconds=None)
    texts: list[str] = []
    for sound in sounds:
        one = stream.another()
        for start in range(0, sound.shape[0], 1600):
            one.feed(sound[start : start + 1600])
        texts.append(one.finish().text)
    return texts


def read_onnx(bundle: ModelBundle, sounds: Sounds) -> Iterator[tuple[str, list[str]]]:
    """Export, and run both graphs."""
    from unheard.inference.exported import ExportedModel

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "exported"
        unheard.export(bundle, out, int8=True)
        for name, file in (("ONNX float32", "model.onnx"), ("ONNX int8", "model.int8.onnx")):
            model = ExportedModel(out, file=file)
            yield name, [model.transcribe(Waveform(samples=sound)).text for sound in sounds]


def join(sounds: Sounds, texts: Sequence[str]) -> tuple[list[NDArray[np.float32]], list[str]]:
    """Put utterances one after the other, a minute together."""
    joined: list[NDArray[np.float32]] = []
    said: list[str] = []
    parts: list[NDArray[np.float32]] = []
    words: list[str] = []
    for place, (sound, text) in enumerate(zip(sounds, texts, strict=True)):
        parts.append(sound)
        words.append(text)
        full = sum(part.shape[0] for part in parts) >= JOINED_SECONDS * 16_000
        if full or place + 1 == len(sounds):
            joined.append(np.concatenate(parts))
            said.append(" ".join(words))
            parts, words = [], []
    return joined, said


def difference(row: ErrorReport, other: ErrorReport) -> tuple[float, float, float]:
    """CER of a row less that of another, with a paired bootstrap interval [points]."""
    errors = np.array([one.characters.errors for one in row.utterances], float)
    before = np.array([one.characters.errors for one in other.utterances], float)
    length = np.array([one.characters.reference_length for one in row.utterances], float)
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, len(length), (2000, len(length)))
    draws = 100 * (errors - before)[drawn].sum(axis=1) / length[drawn].sum(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return 100 * float((errors - before).sum() / length.sum()), float(low), float(high)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--audio-root", type=Path)
    parser.add_argument("--limit", type=int, help="only so many utterances")
    parser.add_argument(
        "--without", nargs="*", default=[], help="rows to leave out, by their start"
    )
    arguments = parser.parse_args()
    bundle = unheard.load_model(arguments.model)
    normalizer = bundle.provenance.get("normalizer")
    normalizer = normalizer if isinstance(normalizer, str) else None
    utterances, folder, _ = find_utterances(arguments.manifest, arguments.audio_root)
    kept = [one for one in utterances if one.text is not None][: arguments.limit]
    texts = [one.text or "" for one in kept]
    sounds = [
        io.read(
            audio_path(one, folder),
            start_seconds=one.start / one.sample_rate,
            max_seconds=one.duration_seconds,
        ).samples
        for one in kept
    ]
    joined, joined_texts = join(sounds, texts)
    rows: dict[str, Row] = {}

    def add(
        name: str,
        write: Callable[[], list[str]],
        *,
        against: str | None = None,
        bar: float | None = None,
        references: Sequence[str] = texts,
    ) -> None:
        if any(name.startswith(start) for start in arguments.without):
            return
        report = score(references, write(), normalizer=normalizer)
        rows[name] = row = Row(name=name, report=report, against=against, bar=bar)
        print(line(row, rows), flush=True)

    whole = "float32, whole utterances"
    add(whole, lambda: read(bundle, sounds, dtype="float32"))
    add("bfloat16", lambda: read(bundle, sounds, dtype="bfloat16"), against=whole, bar=0.1)
    add("int8", lambda: read(bundle, sounds, dtype="int8"), against=whole, bar=0.3)
    if "ONNX" not in arguments.without:
        for name, heard in read_onnx(bundle, sounds):
            bar = 0.1 if name.endswith("float32") else 0.3
            add(name, lambda heard=heard: heard, against=whole, bar=bar)
    add(
        "short windows (3 s), float32",
        lambda: read(bundle, sounds, dtype="float32", windows=SHORT),
        against=whole,
    )
    piece = "joined, one piece, float32"
    add(piece, lambda: read(bundle, joined, dtype="float32"), references=joined_texts)
    windows = "joined, windows, float32"
    usual = (WINDOW_SECONDS, CONTEXT_SECONDS)
    add(
        windows,
        lambda: read(bundle, joined, dtype="float32", windows=usual),
        against=piece,
        bar=0.2,
        references=joined_texts,
    )
    add(
        "joined, live, float32",
        lambda: read_live(bundle, joined, dtype="float32"),
        against=windows,
        bar=0.0,
        references=joined_texts,
    )
    seconds = sum(sound.shape[0] for sound in sounds) / 16_000
    facts = {
        "utterances": len(kept),
        "audio_seconds": round(seconds),
        "characters": rows[whole].report.cer.counts.reference_length,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    print(json.dumps(facts))
    return 1 if any(missed(row, rows) for row in rows.values()) else 0


def missed(row: Row, rows: dict[str, Row]) -> bool:
    """Whether a row is further above its reference than its bar."""
    if row.against is None or row.bar is None or row.against not in rows:
        return False
    return difference(row.report, rows[row.against].report)[0] > row.bar + 1e-9


def line(row: Row, rows: dict[str, Row]) -> str:
    """Write a row of the table."""
    cer = row.report.cer
    text = f"{row.name:<32} {100 * cer.value:6.2f}  ({100 * cer.low:.2f} .. {100 * cer.high:.2f})"
    if row.against is not None and row.against in rows:
        change, low, high = difference(row.report, rows[row.against].report)
        text += f"  {change:+.2f} ({low:+.2f} .. {high:+.2f}) to {row.against!r}"
        if row.bar is not None:
            text += f"; bar +{row.bar}{' MISSED' if missed(row, rows) else ''}"
    return text


if __name__ == "__main__":
    sys.exit(main())
