"""A recording begun at a thousand random places: no word is lost or doubled where windows meet.

The network is a stand-in that reads tones as letters. A frame hears 30 ms on either side and
nothing further; where it cannot, at the edges of a window, it knows nothing and says blank. So the
text of a window is right wherever it was given what it needs, and any word that is cut without
being heard whole comes out wrong. Every word is known, and the comparison is exact.
`benchmarks/cut_offsets.py` does the same with a real network and synthetic speech.
"""

import numpy as np
import pytest

from unheard.decoding.emissions import FrameTiming
from unheard.decoding.greedy import GreedyDecoder
from unheard.inference.windows import WindowPlan, cut_windows
from unheard.text.alphabet import Alphabet

RATE = 2_000
STRIDE, FIELD, REACH = 20, 40, 3
LETTERS = "abcdef"
TONES_HZ = np.array([200, 300, 400, 500, 650, 800])
ALPHABET = Alphabet(
    tokens=("<blank>", "|", *LETTERS), blank="<blank>", word_boundary="|", unknown=None
)
TIMING = FrameTiming(frame_stride_samples=STRIDE, frame_offset_samples=FIELD // 2, sample_rate=RATE)


def speak(seconds: float, *, longest_pause: float) -> tuple[np.ndarray, list[str], list[float]]:
    """Words of 2 to 7 letters, 70 ms each; returns sound, words, and where each word begins."""
    generator = np.random.default_rng(0)
    tone = np.arange(round(0.06 * RATE)) / RATE
    gap = np.zeros(round(0.01 * RATE))
    parts, words, starts, held = [], [], [], 0
    while held < seconds * RATE:
        # No letter twice in a row: the stand-in has no blank between two.
        steps = generator.integers(1, len(LETTERS), generator.integers(2, 8))
        letters = np.cumsum(steps) % len(LETTERS)
        words.append("".join(LETTERS[letter] for letter in letters))
        starts.append(held / RATE)
        for letter in letters:
            parts.extend((0.5 * np.sin(2 * np.pi * TONES_HZ[letter] * tone), gap))
        parts.append(np.zeros(round(generator.uniform(0.1, longest_pause) * RATE)))
        held += (len(tone) + len(gap)) * len(letters) + len(parts[-1])
    noise = 0.001 * generator.normal(size=held)
    return (np.concatenate(parts) + noise).astype(np.float32), words, starts


def hear(samples: np.ndarray) -> np.ndarray:
    """Say for each frame which letter sounds there: (frames, vocab) natural log-probabilities."""
    views = np.lib.stride_tricks.sliding_window_view(samples, FIELD)[::STRIDE]
    waves = np.exp(-2j * np.pi * TONES_HZ[:, None] * np.arange(FIELD) / RATE)
    power = np.abs(views @ waves.T) / FIELD
    letter = np.where(power.max(axis=1) > 0.08, power.argmax(axis=1) + 2, 0)
    said = np.zeros(letter.shape[0], np.int64)
    if letter.shape[0] > 2 * REACH:
        around = np.lib.stride_tricks.sliding_window_view(letter, 2 * REACH + 1)
        said[REACH:-REACH] = np.where(around.any(axis=1), letter[REACH:-REACH], 1)
    log_probs = np.full((letter.shape[0], len(ALPHABET)), -20.0, np.float32)
    log_probs[np.arange(letter.shape[0]), said] = 0.0
    return log_probs


def read(samples: np.ndarray, plan: WindowPlan) -> tuple[list[tuple[str, float]], int]:
    """Transcribe in windows; returns words with their starts, and how many seams there were."""
    stream = GreedyDecoder(ALPHABET).stream(TIMING)
    windows = list(cut_windows([samples], plan))
    for window in windows:
        stream.feed(hear(window.samples)[window.keep_start : window.keep_stop])
    (reading,) = stream.finish(num_samples=samples.shape[0])
    return [(word.text, word.start_seconds) for word in reading.words], len(windows) - 1


def plan_of(*, context: int, search: int) -> WindowPlan:
    return WindowPlan(
        window_frames=250,
        context_frames=context,
        search_frames=search,
        stride_samples=STRIDE,
        receptive_field_samples=FIELD,
        sample_rate=RATE,
    )


def wrong_starts(plan: WindowPlan, *, starts: int, longest_pause: float) -> tuple[int, int]:
    """Begin at random samples; count the starts behind which any word is not as it was said."""
    sound, words, begins = speak(13.0, longest_pause=longest_pause)
    generator = np.random.default_rng(1)
    wrong = seams = 0
    for start in generator.integers(0, round(5 * RATE), starts).tolist():
        heard, met = read(sound[start:], plan)
        seams += met
        first = next(place for place, begin in enumerate(begins) if begin > start / RATE + 0.05)
        # What is left of the word that the start itself cuts comes before.
        behind = [text for text, begin in heard if begin > begins[first] - start / RATE - 0.03]
        wrong += behind[:-1] != words[first:-1] or len(behind) != len(words[first:])
    return wrong, seams


@pytest.mark.parametrize("longest_pause", [0.15, 0.8], ids=["hurried", "with pauses"])
def test_no_word_is_lost_or_doubled_wherever_the_recording_begins(longest_pause):
    plan = plan_of(context=20, search=80)
    wrong, seams = wrong_starts(plan, starts=500, longest_pause=longest_pause)
    assert wrong == 0
    assert seams > 1_500


def test_the_test_above_can_fail():
    wrong, seams = wrong_starts(plan_of(context=0, search=0), starts=50, longest_pause=0.15)
    assert seams > 50
    assert wrong > 10
