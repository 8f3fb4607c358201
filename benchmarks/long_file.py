"""One long file: peak memory beyond that of the model, and whether its parts come out alike.

    python -m benchmarks.long_file [--hours 3] [--shape nano|mini|base|large] [--limit-mb 400]

Writes a file of that length (FLAC, the same minute over and over: sound that comes and goes, with
pauses), transcribes it in a process of its own, and prints one line of JSON. What is written of
each minute, words and times, is compared with the minute before: where windows are cut by the
sound alone, they soon fall alike in every minute, and so does the text. Exits with 1 if the peak
is above the limit, or if minutes but the last still differ after the first
ten.
"""

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from tests.mixed_recordings import make_sound

import unheard
from unheard.decoding.hypothesis import Word

SAMPLE_RATE = 16_000
BLOCK_SECONDS = 60


def make_block() -> np.ndarray:
    """A minute of sound that comes and goes like syllables, with pauses of 0.4 to 0.9 seconds."""
    generator = np.random.default_rng(0)
    sound = make_sound(generator, seconds=BLOCK_SECONDS)
    times = np.arange(sound.shape[0]) / SAMPLE_RATE
    sound *= np.where(times % 0.2 < 0.12, 1.0, 0.03).astype(np.float32)
    start = 0.0
    while (start := start + generator.uniform(1.0, 5.0)) < BLOCK_SECONDS - 1:
        stop = start + generator.uniform(0.4, 0.9)
        sound[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)] *= 0.001
    return sound


def write_long_flac(path: Path, *, hours: float) -> None:
    """Write a long recording, one minute over and over, without holding it in memory."""
    pcm = (np.clip(make_block(), -1, 1) * 32767).astype(np.int16)[None, :]
    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE)
        stream.layout = "mono"
        for _ in range(round(hours * 3600 / BLOCK_SECONDS)):
            for start in range(0, pcm.shape[1], 4096):
                part = np.ascontiguousarray(pcm[:, start : start + 4096])
                frame = AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate = SAMPLE_RATE
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def count_equal(words: Sequence[Word], *, minutes: int) -> dict[str, int]:
    """Compare what was written of each minute with what was written of the one before."""
    by_minute: list[list[tuple[str, int, int]]] = [[] for _ in range(minutes)]
    for word in words:
        place = min(int(word.start_seconds // BLOCK_SECONDS), minutes - 1)
        begin = place * BLOCK_SECONDS
        # Edges of frames lie at halves of a millisecond.
        start, end = (
            round(10_000 * (seconds - begin)) for seconds in (word.start_seconds, word.end_seconds)
        )
        by_minute[place].append((word.text, start, end))
    pairs = list(itertools.pairwise(by_minute))
    return {
        "minutes": minutes,
        "minutes_equal_to_the_one_before": sum(one == other for one, other in pairs),
        # The very last ends where the others go on.
        "last_unequal_minute": max(
            (place + 1 for place, (one, other) in enumerate(pairs[:-1]) if one != other), default=0
        ),
        "words_a_minute": len(by_minute[minutes // 2]),
    }


def make_model(shape: str):
    """A random model of a published shape; memory does not depend on what it learnt."""
    import torch

    from unheard.audio.signal import InputSpec
    from unheard.interop.bundle import ModelBundle
    from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig
    from unheard.models.ctc import CtcModel
    from unheard.text.alphabet import Alphabet

    torch.manual_seed(0)
    alphabet = Alphabet(
        tokens=("<blank>", "|", *"abcdefghijklmnopqrstuvwxyz'"),
        blank="<blank>",
        word_boundary="|",
        unknown=None,
    )
    kernels = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)
    encoders = {
        "nano": EncoderConfig(
            conv_layers=tuple(
                ConvLayer(channels=64, kernel=kernel, stride=stride) for kernel, stride in kernels
            ),
            dim=128,
            ffn_dim=512,
            layers=4,
            heads=4,
        ),
        "mini": EncoderConfig(
            conv_layers=tuple(
                ConvLayer(channels=256, kernel=kernel, stride=stride) for kernel, stride in kernels
            ),
            dim=256,
            ffn_dim=1024,
            layers=6,
            heads=4,
        ),
        "base": EncoderConfig(),
        "large": EncoderConfig(
            conv_norm="layer",
            conv_bias=True,
            dim=1024,
            ffn_dim=4096,
            layers=24,
            heads=16,
            norm_first=True,
        ),
    }
    model = CtcModel(CtcConfig(encoder=encoders[shape], vocab=len(alphabet))).eval()
    with torch.no_grad():
        # Sure enough to write letters.
        model.head.weight.mul_(30)
    return ModelBundle(model=model, alphabet=alphabet, input_spec=InputSpec())


def memory_mb(name: str) -> float:
    """A value of this process from the system's table: VmRSS or VmHWM [MB]."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"{name} is not in /proc/self/status")


def measure(path: Path, shape: str) -> dict:
    """Transcribe one file in this process and say what it took."""
    bundle = make_model(shape)
    # One second first, so that libraries are loaded and count as part of the model.
    unheard.transcribe(bundle, np.zeros(SAMPLE_RATE, np.float32))
    Path("/proc/self/clear_refs").write_text("5")
    before = memory_mb("VmRSS")
    begun = time.monotonic()
    transcript = unheard.transcribe(bundle, path)
    elapsed = time.monotonic() - begun
    return {
        "model_mb": round(before),
        "peak_beyond_model_mb": round(memory_mb("VmHWM") - before),
        "seconds": round(elapsed, 1),
        "times_real_time": round(transcript.duration_seconds / elapsed, 1),
        "duration_seconds": transcript.duration_seconds,
        "words": len(transcript.words),
        **count_equal(transcript.words, minutes=round(transcript.duration_seconds / BLOCK_SECONDS)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--shape", choices=("nano", "mini", "base", "large"), default="mini")
    parser.add_argument("--limit-mb", type=float, default=400.0)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.shape)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.flac"
        write_long_flac(path, hours=arguments.hours)
        command = [sys.executable, "-m", "benchmarks.long_file", "--measure", str(path)]
        output = subprocess.run(
            [*command, "--shape", arguments.shape], check=True, capture_output=True, text=True
        ).stdout
    result = json.loads(output)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(
        json.dumps(
            {
                "hours": arguments.hours,
                "shape": arguments.shape,
                **result,
                "limit_mb": arguments.limit_mb,
                "machine": machine,
            }
        )
    )
    is_uneven = result["last_unequal_minute"] > 10
    return 1 if is_uneven or result["peak_beyond_model_mb"] > arguments.limit_mb else 0


if __name__ == "__main__":
    sys.exit(main())
