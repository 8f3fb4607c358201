"""A long recording of known words, begun at random places: is a word lost or doubled at a seam?

    python -m benchmarks.cut_offsets FOLDER --minutes 20

A small recogniser learns one synthetic voice (espeak-ng, Swahili) from utterances of one to three
sentences with pauses of 0 to 0.6 seconds between them, so that it reads that voice well. The long
recording is made the same way of sentences that it has not heard. Which words are said, and when,
is known from the speech engine.

The recording is begun at random samples, and what follows is transcribed as any long recording is.
Every start moves all windows and the frame grid. Against it stands the *reference pass*: the same
start read in one piece, without windows. Words are compared by least edits, word by word, behind
the first 0.3 seconds (a word that the start itself cuts proves nothing):

    lost      in the reference pass, and with no counterpart in the windows
    added     in the windows, and with no counterpart in the reference pass: a doubled word is one
    misread   written otherwise

and *at a seam* are those that begin at most a second before, or half a second after, a place where
two windows meet (`words_at_seam` is how many there are). A small network writes some words
otherwise whenever it hears less or more around them; what a seam does beyond that is the rate of
errors at seams against the rate elsewhere. All is also counted against the words that were said,
for the windows and for the reference pass alike. To show what seams can do, the same is done with
windows that are cut blindly (nowhere searched for quiet, nothing heard beyond the seam), at the
first 100 starts.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

import unheard
from unheard.audio import io
from unheard.audio.synthesis import SpokenWord, Synthesizer, Voice
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.hypothesis import Word
from unheard.inference.engine import Engine
from unheard.inference.windows import cut_windows, kept_log_probs, plan_windows
from unheard.tasks.finetune import finetune
from unheard.text import normalize, swahili

RATE = 16_000
MARGIN_SECONDS = 0.3
BEFORE_SECONDS = 1.0
BEHIND_SECONDS = 0.5
BLIND_OFFSETS = 100
VOICE = Voice(language="sw")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was written of a stretch: words with times, and where windows met [seconds]."""

    words: Sequence[Word]
    seams: Sequence[float]


def speak(
    engine: Synthesizer, texts: Sequence[str], generator: np.random.Generator
) -> tuple[NDArray[np.float32], list[SpokenWord]]:
    """Say sentences one after the other, with pauses of 0 to 0.6 seconds."""
    parts: list[NDArray[np.float32]] = []
    words: list[SpokenWord] = []
    held = 0
    for text in texts:
        sound, spoken = engine.say_words(text, VOICE, sample_rate=RATE)
        first = max(round((spoken[0].start_seconds - 0.05) * RATE), 0)
        last = round((spoken[-1].end_seconds + 0.05) * RATE)
        pause = np.zeros(round(generator.uniform(0, 0.6) * RATE), np.float32)
        shift = (held - first) / RATE
        words.extend(
            SpokenWord(
                text=word.text,
                start_seconds=word.start_seconds + shift,
                end_seconds=word.end_seconds + shift,
            )
            for word in spoken
        )
        parts.extend((0.6 * sound.samples[first:last], pause))
        held += parts[-2].shape[0] + pause.shape[0]
    return np.concatenate(parts), words


def prepare(folder: Path, *, minutes: float, seconds: float, utterances: int) -> Path:
    """Speak the corpus and the long recording, and learn; each only if it is not there."""
    normalizer = normalize.get("basic-1")
    table = folder / "transcripts.tsv"
    if not table.exists():
        engine = Synthesizer(seed=0)
        generator = np.random.default_rng(0)
        texts = swahili.sentences(2 * utterances + 200, generator=generator)
        rows = ["path\ttext"]
        place = 200
        (folder / "recordings").mkdir(parents=True, exist_ok=True)
        for number in range(utterances):
            count = int(generator.integers(1, 4))
            count = min(count, len(texts) - place)
            if count == 0:
                break
            sound, _ = speak(engine, texts[place : place + count], generator)
            path = f"recordings/{number:04}.wav"
            io.write_wav(folder / path, sound, RATE, durable=False)
            rows.append(f"{path}\t{' '.join(texts[place : place + count])}")
            place += count
        long: list[NDArray[np.float32]] = []
        words: list[dict[str, object]] = []
        held = 0
        for text in texts[:200]:
            sound, spoken = speak(engine, [text], generator)
            words.extend(
                {
                    "text": normalizer(word.text),
                    "start_seconds": word.start_seconds + held / RATE,
                }
                for word in spoken
            )
            long.append(sound)
            held += sound.shape[0]
            if held >= seconds * RATE:
                break
        io.write_wav(folder / "long.wav", np.concatenate(long), RATE)
        (folder / "words.json").write_text(json.dumps(words, ensure_ascii=False))
        table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    model = folder / "run" / "model"
    if not model.exists():
        finetune(table, out=folder / "run", recipe="nano", max_minutes=minutes, quiet=True)
    return model


def read(engine: Engine, samples: NDArray[np.float32], **windows: float) -> Reading:
    """Transcribe in windows; or in one piece where none are described."""
    plan = plan_windows(engine.encoder_config, sample_rate=RATE, **windows) if windows else None
    stream = GreedyDecoder(engine.alphabet).stream(engine.timing)
    seams: list[float] = []
    if plan is None:
        stream.feed(engine.log_probs([samples])[0])
    else:
        for window in cut_windows([samples], plan):
            seams.append((window.first_frame + window.keep_stop) * plan.stride_samples / RATE)
            stream.feed(kept_log_probs(engine, [window])[0])
    (reading,) = stream.finish(num_samples=samples.shape[0])
    return Reading(words=reading.words, seams=seams[:-1])


def compare(
    expected: Sequence[Word] | Sequence[SpokenWord], heard: Reading, *, from_seconds: float
) -> dict[str, int]:
    """Count words lost, added, misread; and how many of each lie at a seam."""
    said = [word for word in expected if word.start_seconds >= from_seconds]
    first = said[0].start_seconds - 0.15
    found = [word for word in heard.words if word.start_seconds >= first]
    names = {"delete": "lost", "insert": "added", "replace": "misread"}
    counts = dict.fromkeys(names.values(), 0) | {f"{name}_at_seam": 0 for name in names.values()}
    for operation in Levenshtein.editops(
        [word.text for word in said], [word.text for word in found]
    ):
        if operation.tag == "insert":
            seconds = found[operation.dest_pos].start_seconds
        else:
            seconds = said[operation.src_pos].start_seconds
        counts[names[operation.tag]] += 1
        counts[f"{names[operation.tag]}_at_seam"] += at_seam(seconds, heard)
    counts["words_at_seam"] = sum(at_seam(word.start_seconds, heard) for word in said)
    return counts


def at_seam(seconds: float, heard: Reading) -> bool:
    """Whether a word that begins then could have been cut."""
    return any(seam - BEFORE_SECONDS <= seconds <= seam + BEHIND_SECONDS for seam in heard.seams)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=20.0, help="for learning")
    parser.add_argument("--utterances", type=int, default=1200, help="to learn from")
    parser.add_argument("--offsets", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=75.0, help="length of the recording")
    arguments = parser.parse_args()
    model = prepare(
        arguments.folder,
        minutes=arguments.minutes,
        seconds=arguments.seconds,
        utterances=arguments.utterances,
    )
    torch.set_num_threads(1)
    engine = Engine(unheard.load_model(model))
    sound = io.read(arguments.folder / "long.wav", sample_rate=RATE).samples
    words = [
        SpokenWord(text=row["text"], start_seconds=row["start_seconds"], end_seconds=0.0)
        for row in json.loads((arguments.folder / "words.json").read_text())
    ]
    generator = np.random.default_rng(1)
    starts = generator.integers(0, sound.shape[0] - 40 * RATE, arguments.offsets).tolist()
    kinds = {
        "windows": {"window_seconds": 12.0},
        "blind windows": {"search_seconds": 0.0, "context_seconds": 0.0, "window_seconds": 9.0},
    }
    total: dict[str, dict[str, int]] = {}
    begun = time.monotonic()

    def count(name: str, counts: dict[str, int], words: int, seams: int) -> None:
        row = total.setdefault(name, dict.fromkeys((*counts, "words", "seams", "clean"), 0))
        for tag, value in counts.items():
            row[tag] += value
        row["words"] += words
        row["seams"] += seams
        row["clean"] += counts["lost"] == counts["added"] == 0

    for number, start in enumerate(starts):
        shifted = [
            SpokenWord(
                text=word.text, start_seconds=word.start_seconds - start / RATE, end_seconds=0.0
            )
            for word in words
        ]
        num_words = sum(word.start_seconds >= MARGIN_SECONDS for word in shifted)
        piece = sound[start:]
        reference = read(engine, piece)
        counts = compare(shifted, reference, from_seconds=MARGIN_SECONDS)
        count("one piece, against what was said", counts, num_words, 0)
        for name, settings in kinds.items():
            if name == "blind windows" and number >= BLIND_OFFSETS:
                continue
            heard = read(engine, piece, **settings)
            for label, expected in (
                ("what was said", shifted),
                ("the reference pass", reference.words),
            ):
                counts = compare(expected, heard, from_seconds=MARGIN_SECONDS)
                count(f"{name}, against {label}", counts, num_words, len(heard.seams))
    facts = {
        "recording_seconds": round(sound.shape[0] / RATE, 1),
        "words_in_it": len(words),
        "offsets": len(starts),
        "elapsed_seconds": round(time.monotonic() - begun),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
    }
    print(json.dumps(facts))
    for name, row in total.items():
        print(json.dumps({"pass": name, **row}), flush=True)


if __name__ == "__main__":
    main()
