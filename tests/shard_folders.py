"""Small folders of shards, and recordings to make them from."""

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tests import recordings, small_corpora

from unheard.audio.encode import encode
from unheard.tasks.shard import ShardResult, shard

RATE = 16_000


def tone(number: int, samples: int) -> NDArray[np.float32]:
    """Sound that differs from every other number's, at its own level."""
    time = np.arange(samples) / RATE
    level = 0.1 + 0.02 * (number % 30)
    return (level * np.sin(2 * np.pi * (200 + 17 * number) * time) + 0.001 * number).astype(
        np.float32
    )


def write_recordings(folder: Path, lengths: list[int], *, transcribed: bool = False) -> Path:
    """Write WAV files u000.wav, ... of so many samples; with a table of texts if asked."""
    for number, length in enumerate(lengths):
        data = recordings.wav(recordings.pcm16(tone(number, length)[None]), rate=RATE)
        small_corpora.text(folder / f"u{number:03d}.wav", data)
    if transcribed:
        rows = "".join(
            f"u{number:03d}.wav\t{'ab ' * (number % 3)}c{number % 7}\ts{number % 5}\n"
            for number in range(len(lengths))
        )
        small_corpora.text(folder / "texts.tsv", f"path\ttext\tspeaker\n{rows}")
    return folder


def make(
    folder: Path, lengths: list[int], *, transcribed: bool = False, megabytes: float = 0.2
) -> ShardResult:
    """Make FOLDER/shards from FOLDER/recordings, with one worker."""
    source = write_recordings(folder / "recordings", lengths, transcribed=transcribed)
    return shard(source, out=folder / "shards", shard_megabytes=megabytes, workers=1, quiet=True)


def foreign_tar(path: Path, samples: Mapping[str, Mapping[str, bytes]]) -> Path:
    """Write a tar file as others would: {key: {suffix: bytes}}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, files in samples.items():
            for suffix, data in files.items():
                entry = tarfile.TarInfo(f"{key}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return path


def sample(number: int, length: int, **facts: str) -> dict[str, bytes]:
    """The files of one sample."""
    return {"flac": encode(tone(number, length), "flac"), "json": json.dumps(facts).encode()}
