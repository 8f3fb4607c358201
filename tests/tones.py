"""A language whose letters are tones, a network that can learn it in seconds, and its recipe.

Run as a module, this is the command line with one recipe more, "tiny":

    python -m tests.tones learn recordings --transcripts transcripts.tsv --out out --recipe tiny
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests import recordings, small_corpora

from unheard import cli
from unheard.models.config import (
    ConvLayer,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.recipes import catalogue as recipes
from unheard.recipes.catalogue import FinetuneSettings, Recipe
from unheard.training.config import TrainingConfig
from unheard.training.schedule import Budget, ScheduleConfig

RATE = 16_000
TONES_HZ = {"a": 400.0, "b": 700.0, "c": 1150.0, "d": 1800.0, "ŋ": 2700.0}
LETTER_SECONDS = 0.1
GAP_SECONDS = 0.05


def say(text: str, *, pitch: float, generator: np.random.Generator) -> NDArray[np.float32]:
    """Play one tone a letter, silence between letters and words, and a little noise."""
    silence = np.zeros(round(GAP_SECONDS * RATE))
    time = np.arange(round(LETTER_SECONDS * RATE)) / RATE
    envelope = np.sin(np.pi * time / LETTER_SECONDS) ** 0.5
    pieces = [silence]
    for letter in text:
        if letter == " ":
            pieces += [silence, silence]
            continue
        phase = generator.uniform(0, 2 * np.pi)
        tone = np.sin(2 * np.pi * TONES_HZ[letter] * pitch * time + phase)
        pieces += [0.3 * envelope * tone, silence]
    samples = np.concatenate(pieces)
    return (samples + 0.003 * generator.standard_normal(len(samples))).astype(np.float32)


def write_wav(path: Path, samples: NDArray[np.float32]) -> None:
    """Write a 16-bit file without waiting for the disk."""
    small_corpora.text(path, recordings.wav(recordings.pcm16(samples[None]), rate=RATE))


def draw_text(generator: np.random.Generator) -> str:
    """Draw two words of two to four letters."""
    letters = list(TONES_HZ)
    words = (generator.choice(letters, size=generator.integers(2, 5)) for _ in range(2))
    return " ".join("".join(word) for word in words)


@dataclass(frozen=True, kw_only=True)
class ToneCorpus:
    """Files of a corpus."""

    recordings: Path
    transcripts: Path
    test: Path


def write_corpus(
    folder: Path, *, labelled: int = 60, unlabelled: int = 20, test: int = 12, seed: int = 0
) -> ToneCorpus:
    """Write recordings of six speakers, and transcripts of four of them and of the test's."""
    generator = np.random.default_rng(seed)
    corpus = ToneCorpus(
        recordings=folder / "recordings",
        transcripts=folder / "transcripts.tsv",
        test=folder / "test.tsv",
    )
    parts = {
        "recordings": (labelled, ("p0", "p1", "p2", "p3"), corpus.transcripts),
        "test": (test, ("t0", "t1"), corpus.test),
    }
    for name, (count, speakers, table) in parts.items():
        rows = ["path\tspeaker\ttext"]
        for number in range(count):
            speaker = speakers[number % len(speakers)]
            text = draw_text(generator)
            path = folder / name / speaker / f"{number:03d}.wav"
            _write(path, text, speaker, generator)
            rows.append(f"{path.relative_to(folder)}\t{speaker}\t{text}")
        small_corpora.text(table, "\n".join(rows) + "\n")
    for number in range(unlabelled):
        path = corpus.recordings / "u0" / f"{number:03d}.wav"
        _write(path, draw_text(generator), "u0", generator)
    return corpus


def _write(path: Path, text: str, speaker: str, generator: np.random.Generator) -> None:
    pitch = 0.96 + 0.02 * (sum(speaker.encode()) % 5)
    write_wav(path, say(text, pitch=pitch, generator=generator))


def tiny_network() -> PretrainingConfig:
    return PretrainingConfig(
        encoder=EncoderConfig(
            conv_layers=(
                ConvLayer(channels=32, kernel=400, stride=160),
                ConvLayer(channels=32, kernel=3, stride=2),
            ),
            norm_first=True,
            dim=32,
            ffn_dim=64,
            layers=2,
            heads=2,
            positional_kernel=8,
            positional_groups=4,
            dropout=0.0,
            attention_dropout=0.0,
        ),
        quantizer=QuantizerConfig(entries=8, dim=16),
        masking=MaskingConfig(time_span_frames=4),
        projection_dim=16,
        distractors=10,
        feature_penalty_weight=0.0,
    )


def tiny() -> Recipe:
    """A network of 30 thousand parameters with budgets in steps."""
    training = TrainingConfig(
        budget=Budget(max_steps=30),
        learning_rate=2e-3,
        batch_seconds=10.0,
        min_seconds=0.5,
        max_seconds=2.0,
        precision="float32",
        log_every_steps=5,
        validate_every_steps=10,
        checkpoint_every_seconds=1.0,
    )
    return replace(
        recipes.get_recipe("nano"),
        name="tiny",
        network=tiny_network(),
        pretraining=training,
        finetune=FinetuneSettings(
            masking=MaskingConfig(time_probability=0.05, time_span_frames=4, time_min_spans=0),
            activation_dropout=0.0,
            layer_drop=0.0,
            feature_grad_scale=1.0,
        ),
        finetuning=replace(
            training,
            budget=Budget(max_steps=250),
            learning_rate=5e-3,
            schedule=ScheduleConfig(shape="linear", warmup=0.1),
            batch_seconds=16.0,
            clip_norm=5.0,
            validate_every_steps=50,
        ),
    )


if __name__ == "__main__":
    recipes.RECIPES["tiny"] = tiny
    sys.exit(cli.main())
