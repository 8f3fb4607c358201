"""Where a recording would be cut: in a word, or between two? By level, by activity, by Silero.

    pip install --no-deps silero-vad    # or python -m benchmarks.pauses --silero FOLDER
    python -m benchmarks.pauses

Four synthetic voices say eighty sentences with pauses of 0 to 0.5 seconds between them; when each
word is spoken is known from the engine. Noise is added: white, pink, a tune, mains hum. From 400
random places on, a cut is looked for between 10 and 13.5 seconds later, at the lowest value of

    level      mean power of 10 ms, as a plain energy detector has it
    activity   `unheard.audio.segment.activity`, ours
    silero     probability of speech, Silero VAD (JIT, 32 ms), where it is installed

smoothed over 0.1, 0.2 and 0.3 seconds. Printed is the share of cuts that fall into a word (more
than 20 ms from its ends), and for random cuts; and how many seconds of sound a second of the
processor takes.
"""

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from unheard.audio import segment
from unheard.audio.synthesis import Synthesizer, Voice
from unheard.text import swahili

RATE = 16_000
STEP = 160
Samples = NDArray[np.float32]


def speak() -> tuple[Samples, NDArray[np.float64]]:
    """Say the sentences; returns sound and (words, 2) starts and ends [seconds]."""
    generator = np.random.default_rng(1)
    engine = Synthesizer(seed=3)
    parts: list[Samples] = []
    words: list[tuple[float, float]] = []
    held = 0
    for variant in ("", "f1", "m2", "Annie"):
        for text in swahili.sentences(20, generator=generator):
            sound, spoken = engine.say_words(text, Voice(language="sw", variant=variant))
            first = max(round((spoken[0].start_seconds - 0.05) * RATE), 0)
            last = round((spoken[-1].end_seconds + 0.05) * RATE)
            shift = (held - first) / RATE
            words.extend((one.start_seconds + shift, one.end_seconds + shift) for one in spoken)
            pause = np.zeros(int(generator.uniform(0, 0.5) * RATE), np.float32)
            parts.extend((0.5 * sound.samples[first:last], pause))
            held += parts[-2].shape[0] + pause.shape[0]
    return np.concatenate(parts), np.array(words)


def make_noises(num_samples: int) -> dict[str, NDArray[np.float64]]:
    """Noises of unit power."""
    generator = np.random.default_rng(2)
    times = np.arange(num_samples) / RATE
    white = generator.normal(size=num_samples)
    spectrum = np.fft.rfft(generator.normal(size=num_samples))
    pink = np.fft.irfft(spectrum / np.sqrt(np.arange(spectrum.shape[0]) + 1), num_samples)
    tune = np.zeros(num_samples)
    for start in range(0, num_samples, RATE // 2):
        note = times[: min(RATE, num_samples - start)]
        pitch = 220 * 2 ** (generator.integers(0, 24) / 12)
        chord = sum(np.sin(2 * np.pi * pitch * part * note) / part for part in (1, 2, 3))
        tune[start : start + note.shape[0]] += np.exp(-note * 2.7) * chord
    hum = np.sin(2 * np.pi * 50 * times) + 0.5 * np.sin(2 * np.pi * 150 * times)
    found = {"white": white, "pink": pink, "tune": tune, "hum": hum}
    return {name: noise / noise.std() for name, noise in found.items()}


def level(samples: Samples) -> Samples:
    """Plain energy [dB]."""
    steps = samples.shape[0] // STEP
    power = (samples[: steps * STEP].reshape(steps, STEP) ** 2).mean(axis=1)
    return 10 * np.log10(power + 1e-9)


def activity(samples: Samples) -> Samples:
    """Ours [dB]."""
    return segment.activity(segment.LevelMeter().measure(samples))


def silero() -> Callable[[Samples], Samples] | None:
    """Silero's probability of speech on our steps; None where it is not installed."""
    try:
        model = importlib.import_module("silero_vad").load_silero_vad()
    except (ImportError, OSError):
        return None

    def run(samples: Samples) -> Samples:
        model.reset_states()
        starts = np.arange(0, samples.shape[0] - 511, 512)
        with torch.no_grad():
            found = [
                model(torch.from_numpy(samples[start : start + 512]), RATE).item()
                for start in starts
            ]
        steps = np.arange(samples.shape[0] // STEP) * STEP + STEP / 2
        return np.interp(steps, starts + 256, found).astype(np.float32)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--silero", type=Path, help="folder where silero-vad is installed")
    parser.add_argument("--places", type=int, default=400)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.silero is not None:
        sys.path.insert(0, str(arguments.silero))
    sound, words = speak()
    noises = make_noises(sound.shape[0])
    loudness = float(np.sqrt((sound**2).mean()))
    generator = np.random.default_rng(4)
    seconds = sound.shape[0] / RATE
    places = generator.uniform(0, seconds - 14, arguments.places)
    detectors: dict[str, Callable[[Samples], Samples]] = {"level": level, "activity": activity}
    other = silero()
    if other is not None:
        detectors["silero"] = other

    def share_in_words(cuts: NDArray[np.float64]) -> float:
        inside = (words[:, 0] + 0.02 < cuts[:, None]) & (cuts[:, None] < words[:, 1] - 0.02)
        return 100 * float(inside.any(axis=1).mean())

    spoken = (words[:, 1] - words[:, 0]).sum() / seconds
    print(f"{seconds:.0f} s, {len(words)} words, {100 * spoken:.0f} % of the time in a word;")
    print(f"cuts at random places: {share_in_words(places + 12):.1f} % in a word\n")
    names = [f"{name} {width}" for name in detectors for width in ("0.1", "0.2", "0.3")]
    print("| noise | speech over noise | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 2) + "|")
    taken = dict.fromkeys(detectors, 0.0)
    conditions = [("none", None)]
    conditions += [(name, ratio) for name in noises for ratio in (20, 10, 0)]
    for name, ratio in conditions:
        heard = sound
        if ratio is not None:
            heard = sound + noises[name] * loudness * 10 ** (-ratio / 20)
        heard = np.clip(heard, -1, 1).astype(np.float32)
        cells: list[str] = []
        for detector, measure in detectors.items():
            begun = time.process_time()
            values = measure(heard)
            taken[detector] += time.process_time() - begun
            for width in (10, 20, 30):
                smooth = np.convolve(values, np.ones(width) / width, "same")
                cuts = np.empty(len(places))
                for number, place in enumerate(places):
                    first, last = int((place + 10) * 100), int((place + 13.5) * 100)
                    cuts[number] = (first + int(np.argmin(smooth[first:last]))) / 100 + 0.01
                cells.append(f"{share_in_words(cuts):.1f}")
        shown = "" if ratio is None else f"{ratio} dB"
        print(f"| {name} | {shown} | " + " | ".join(cells) + " |", flush=True)
    speeds = {name: len(conditions) * seconds / spent for name, spent in taken.items()}
    print("\nseconds of sound a second of the processor:", end=" ")
    print(", ".join(f"{name} {speed:.0f}" for name, speed in speeds.items()))


if __name__ == "__main__":
    main()
