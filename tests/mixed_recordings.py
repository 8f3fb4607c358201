"""A folder of short recordings in many formats, some of them broken, and a tiny random model.

Nothing here sounds like speech: tests and benchmarks of the transcription machinery need
recordings that decode and a model that answers, not words that mean something.
"""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame

from unheard.audio import io
from unheard.audio.signal import InputSpec
from unheard.interop.bundle import ModelBundle
from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

FORMATS = {
    ".wav": ("wav", "pcm_s16le", 16_000),
    ".flac": ("flac", "flac", 22_050),
    ".mp3": ("mp3", "libmp3lame", 44_100),
    ".m4a": ("ipod", "aac", 44_100),
    ".opus": ("ogg", "libopus", 48_000),
    ".webm": ("webm", "libopus", 48_000),
    ".mkv": ("matroska", "aac", 16_000),
    ".aac": ("adts", "aac", 32_000),
    ".aiff": ("aiff", "pcm_s16be", 8_000),
    ".mp4": ("mp4", "aac", 48_000),
}
"""Suffix -> container, codec, sample rate [Hz]."""


def make_bundle(
    *,
    seed: int = 0,
    conv_norm: str = "group",
    channels: int = 16,
    normalize: bool = True,
    padding: str = "masked",
) -> ModelBundle:
    """A random CTC model with the convolutions of wav2vec 2.0, sure enough to write letters."""
    torch.manual_seed(seed)
    shapes = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
    alphabet = Alphabet(
        tokens=("<blank>", "|", *"aeioukmns"), blank="<blank>", word_boundary="|", unknown=None
    )
    encoder = EncoderConfig(
        conv_layers=tuple(
            ConvLayer(channels=channels, kernel=kernel, stride=stride) for kernel, stride in shapes
        ),
        conv_norm=conv_norm,  # pyright: ignore[reportArgumentType]
        dim=16,
        ffn_dim=32,
        layers=1,
        heads=2,
        positional_kernel=8,
        positional_groups=2,
    )
    model = CtcModel(CtcConfig(encoder=encoder, vocab=len(alphabet))).eval()
    with torch.no_grad():
        model.head.weight.mul_(30)
    return ModelBundle(
        model=model,
        alphabet=alphabet,
        input_spec=InputSpec(normalize=normalize, padding=padding),  # pyright: ignore[reportArgumentType]
        provenance={"source": "random", "language": "x-test"},
    )


def make_sound(
    generator: np.random.Generator, *, seconds: float, sample_rate: int = 16_000
) -> np.ndarray:
    """A tone that wanders, with noise: (samples,) float32."""
    times = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = generator.uniform(100, 400) * (1 + 0.3 * np.sin(times * generator.uniform(5, 30)))
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / sample_rate)
    noise = generator.normal(size=times.shape[0])
    return (0.3 * tone + 0.03 * noise).astype(np.float32)


def write_audio(path: Path, samples: np.ndarray, *, sample_rate: int) -> None:
    """Encode mono samples as the suffix of the path says."""
    container_name, codec, _ = FORMATS[path.suffix]
    with av.open(str(path), "w", format=container_name) as container:
        stream = container.add_stream(codec, rate=sample_rate)
        stream.layout = "mono"  # pyright: ignore[reportAttributeAccessIssue]
        pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16)[None, :]
        frame = AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = sample_rate
        frame.pts = 0
        frame.time_base = Fraction(1, sample_rate)
        resampler = av.AudioResampler(
            format=stream.codec_context.format,  # pyright: ignore[reportAttributeAccessIssue]
            layout="mono",
            rate=sample_rate,
            frame_size=stream.codec_context.frame_size or None,  # pyright: ignore[reportAttributeAccessIssue]
        )
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))  # pyright: ignore[reportAttributeAccessIssue]
        container.mux(stream.encode(None))  # pyright: ignore[reportAttributeAccessIssue]


def write_silent_video(path: Path) -> None:
    """A film without sound."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"  # pyright: ignore
        for _ in range(3):
            image = np.zeros((32, 32, 3), np.uint8)
            container.mux(stream.encode(VideoFrame.from_ndarray(image, format="rgb24")))  # pyright: ignore
        container.mux(stream.encode(None))  # pyright: ignore


def wav_header(*, sample_rate: int, channels: int, num_bytes: int) -> bytes:
    """The header of a 16-bit WAV file, whatever it claims."""
    block = channels * 2 % 65536
    return (
        b"RIFF"
        + struct.pack("<I", 36 + num_bytes)
        + b"WAVEfmt "
        + struct.pack(
            "<IHHIIHH", 16, 1, channels, sample_rate, sample_rate * block % 2**32, block, 16
        )
        + b"data"
        + struct.pack("<I", num_bytes)
    )


def write_hostile(folder: Path) -> dict[str, str]:
    """Write ten files that are no recordings; returns name -> reason."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(1)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "page.wav").write_bytes(b"<!DOCTYPE html><title>404</title>" * 40)
    (folder / "noise.flac").write_bytes(generator.bytes(20_000))
    (folder / "list.mp3").write_bytes(b"ffconcat version 1.0\nfile '../speech/0000.wav'\n")
    (folder / "slow.wav").write_bytes(
        wav_header(sample_rate=1, channels=1, num_bytes=400) + bytes(400)
    )
    (folder / "wide.wav").write_bytes(
        wav_header(sample_rate=16_000, channels=40, num_bytes=8_000) + bytes(8_000)
    )
    write_silent_video(folder / "film.mp4")
    write_audio(
        folder / "whole.m4a",
        make_sound(generator, seconds=2, sample_rate=44_100),
        sample_rate=44_100,
    )
    whole = (folder / "whole.m4a").read_bytes()
    (folder / "whole.m4a").unlink()
    (folder / "half.m4a").write_bytes(whole[: len(whole) // 2])
    (folder / "gone.ogg").symlink_to(folder / "nowhere.ogg")
    (folder / "loop.opus").symlink_to(folder / "loop.opus")
    return {
        "empty.wav": "unreadable",
        "page.wav": "unreadable",
        "noise.flac": "unreadable",
        "list.mp3": "unreadable",
        "slow.wav": "sample_rate",
        "wide.wav": "channels",
        "film.mp4": "no_audio_stream",
        "half.m4a": "unreadable",
        "gone.ogg": "vanished",
        "loop.opus": "not_regular",
    }


def write_corpus(folder: Path, *, good: int, seed: int = 0) -> dict[str, str]:
    """Write `good` recordings in all formats, and ten hostile files among them.

    Returns:
        Reasons by the path of each hostile file.
    """
    generator = np.random.default_rng(seed)
    (folder / "speech").mkdir(parents=True)
    suffixes = list(FORMATS)
    for number in range(good):
        suffix = suffixes[number % len(suffixes)]
        rate = FORMATS[suffix][2]
        sound = make_sound(generator, seconds=generator.uniform(0.2, 3.0), sample_rate=rate)
        write_audio(folder / "speech" / f"{number:04d}{suffix}", sound, sample_rate=rate)
    reasons = write_hostile(folder / "odd")
    return {str(folder / "odd" / name): reason for name, reason in reasons.items()}


def write_wav(path: Path, *, seconds: float, seed: int = 0) -> Path:
    """Write one plain recording."""
    sound = make_sound(np.random.default_rng(seed), seconds=seconds)
    io.write_wav(path, sound, 16_000)
    return path
