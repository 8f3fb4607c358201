"""A small synthetic corpus, laid out as a person's own recordings would be.

    <folder>/recordings/<speaker>/<number>.wav     what the language sounds like; a few transcribed
    <folder>/transcripts.tsv                       path, speaker, text of those few
    <folder>/test/<speaker>/<number>.wav           voices that are in neither of the above
    <folder>/test.tsv                              path, speaker, text

The voices are synthetic (see `unheard.audio.synthesis`); the sentences come from the project's
own small grammar of Swahili.
"""

import multiprocessing
import os
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path

import numpy as np

from unheard import config, files
from unheard.audio import io
from unheard.audio.synthesis import Synthesizer, Voice
from unheard.text import swahili

VERSION = 1
"""Raised when the corpus that a size and a seed stand for changes."""

_TRAIN_VARIANTS = (
    "", "f1", "f2", "f3", "m1", "m2", "m4", "m6", "Annie", "Michael", "steph", "robert",
)  # fmt: skip
_TEST_VARIANTS = ("f4", "m3", "m7")


@dataclass(frozen=True, kw_only=True)
class CorpusSize:
    """How much is spoken.

    Attributes:
        unlabelled: utterances without transcript.
        labelled: utterances with one.
        test: utterances in voices of their own.
        labelled_speakers: how many of the speakers have transcripts.
    """

    unlabelled: int = 720
    labelled: int = 200
    test: int = 75
    labelled_speakers: int = 5


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A synthesised corpus.

    Attributes:
        recordings: folder of recordings to learn from.
        transcripts: table of the transcripts of some of them.
        test_recordings: folder of the held-out recordings.
        test: table of their transcripts.
        recorded_seconds: sound in `recordings` [seconds].
        transcribed_seconds: sound in `recordings` that has transcripts [seconds].
        test_seconds: sound in `test_recordings` [seconds].
    """

    recordings: Path
    transcripts: Path
    test_recordings: Path
    test: Path
    recorded_seconds: float
    transcribed_seconds: float
    test_seconds: float


@dataclass(frozen=True, kw_only=True)
class _Part:
    """What one speaker says; spoken by one process of its own, in this order.

    Attributes:
        folder: corpus folder.
        name: speaker's folder within it.
        voice: how the speaker sounds.
        texts: (utterances,) sentences.
        seed: of the engine and of the speaker's small variations.
    """

    folder: Path
    name: str
    voice: Voice
    texts: tuple[str, ...]
    seed: int


def synthesize_corpus(
    folder: str | os.PathLike[str],
    *,
    size: CorpusSize | None = None,
    seed: int = 0,
    processes: int | None = None,
) -> Corpus:
    """Make the corpus, or find it made.

    Each speaker is spoken by a fresh process in a fixed order, so the samples depend on `size`
    and `seed` alone and not on the number of processes.

    Args:
        folder: where it goes.
        size: how much is spoken.
        seed: of the sentences and the voices.
        processes: how many speak at once; as many as there are cores by default.

    Returns:
        Where everything is, and how much of it there is.

    Raises:
        MissingExtraError: if the speech engine is not installed.
    """
    root = Path(folder).absolute()
    size = size or CorpusSize()
    request = {"version": VERSION, "seed": seed, **config.to_dict(size)}
    facts = root / "corpus.json"
    if facts.exists():
        made = files.read_json(facts)
        if made["request"] == request:
            return _corpus(root, made["seconds"])
    parts = _plan(root, size, seed)
    with _fresh_processes().Pool(processes or os.cpu_count(), maxtasksperchild=1) as pool:
        spoken = pool.map(_speak, parts, chunksize=1)
    seconds = _write_tables(root, size, parts, spoken)
    files.write_json_atomic(facts, {"request": request, "seconds": seconds})
    return _corpus(root, seconds)


def _fresh_processes() -> BaseContext:
    """Return a way to start processes that have said nothing yet: the engine's noise runs on.

    Where the system can, they are forked from a server that has done the imports and no more.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _plan(root: Path, size: CorpusSize, seed: int) -> list[_Part]:
    """Deal the sentences out to the speakers; none is said twice."""
    generator = np.random.default_rng(seed)
    texts = iter(
        swahili.sentences(size.labelled + size.unlabelled + size.test, generator=generator)
    )
    labelled = _deal(size.labelled, size.labelled_speakers)
    unlabelled = _deal(size.unlabelled, len(_TRAIN_VARIANTS))
    parts = []
    for number, variant in enumerate(_TRAIN_VARIANTS):
        count = unlabelled[number] + (labelled[number] if number < len(labelled) else 0)
        parts.append((f"recordings/voice_{number + 1:02}", variant, count))
    for number, (variant, count) in enumerate(
        zip(_TEST_VARIANTS, _deal(size.test, len(_TEST_VARIANTS)), strict=True)
    ):
        parts.append((f"test/voice_{len(_TRAIN_VARIANTS) + number + 1:02}", variant, count))
    return [
        _Part(
            folder=root,
            name=name,
            voice=Voice(
                language="sw",
                variant=variant,
                words_per_minute=int(generator.integers(150, 200)),
                pitch=int(generator.integers(40, 61)),
            ),
            texts=tuple(next(texts) for _ in range(count)),
            seed=seed * 1000 + number,
        )
        for number, (name, variant, count) in enumerate(parts)
    ]


def _speak(part: _Part) -> list[float]:
    """Record one speaker; return the lengths [seconds]."""
    engine = Synthesizer(seed=part.seed)
    generator = np.random.default_rng(part.seed)
    seconds = []
    for number, text in enumerate(part.texts):
        voice = replace(
            part.voice,
            words_per_minute=part.voice.words_per_minute + int(generator.integers(-15, 16)),
            pitch=part.voice.pitch + int(generator.integers(-5, 6)),
        )
        waveform = engine.say(text, voice)
        samples = waveform.samples * float(generator.uniform(0.4, 0.8))
        # The file that says the corpus is made comes last; until then it is made again.
        path = part.folder / _path(part, number)
        io.write_wav(path, samples, waveform.sample_rate, durable=False)
        seconds.append(waveform.duration_seconds)
    return seconds


def _write_tables(
    root: Path, size: CorpusSize, parts: list[_Part], spoken: list[list[float]]
) -> dict[str, float]:
    """Write the two tables of transcripts; return the seconds of each share."""
    labelled = _deal(size.labelled, size.labelled_speakers)
    rows = {"transcripts.tsv": ["path\tspeaker\ttext"], "test.tsv": ["path\tspeaker\ttext"]}
    seconds = {"recorded": 0.0, "transcribed": 0.0, "test": 0.0}
    for index, (part, lengths) in enumerate(zip(parts, spoken, strict=True)):
        held_out = part.name.startswith("test/")
        seconds["test" if held_out else "recorded"] += sum(lengths)
        transcribed = len(lengths) if held_out else labelled[index] if index < len(labelled) else 0
        for number in range(transcribed):
            table = "test.tsv" if held_out else "transcripts.tsv"
            speaker = part.name.partition("/")[2]
            rows[table].append(f"{_path(part, number)}\t{speaker}\t{part.texts[number]}")
        if not held_out:
            seconds["transcribed"] += sum(lengths[:transcribed])
    for name, lines in rows.items():
        files.write_text_atomic(root / name, "\n".join(lines) + "\n")
    return seconds


def _path(part: _Part, number: int) -> str:
    """Path of a speaker's utterance within the corpus folder."""
    return f"{part.name}/{number + 1:04}.wav"


def _deal(count: int, people: int) -> list[int]:
    """Share `count` things out evenly."""
    return [count // people + (number < count % people) for number in range(people)]


def _corpus(root: Path, seconds: dict[str, float]) -> Corpus:
    """Name the places of a corpus."""
    return Corpus(
        recordings=root / "recordings",
        transcripts=root / "transcripts.tsv",
        test_recordings=root / "test",
        test=root / "test.tsv",
        recorded_seconds=seconds["recorded"],
        transcribed_seconds=seconds["transcribed"],
        test_seconds=seconds["test"],
    )
