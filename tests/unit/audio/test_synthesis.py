"""Synthetic speech: it speaks, its voices differ, a sequence of calls can be repeated."""

import subprocess
import sys

import numpy as np
import pytest

from unheard.audio import synthesis
from unheard.errors import AudioError, ConfigError, MissingExtraError

pytest.importorskip("espeakng_loader")

SEQUENCE = """
import hashlib
from unheard.audio.synthesis import Synthesizer, Voice
engine = Synthesizer(seed={seed})
for variant in ("", "f2", "m3"):
    voice = Voice(language="sw", variant=variant)
    print(hashlib.sha256(engine.say("Mtoto anasoma kitabu.", voice).samples.tobytes()).hexdigest())
"""


def _hashes(seed: int) -> list[str]:
    output = subprocess.run(
        [sys.executable, "-c", SEQUENCE.format(seed=seed)],
        check=True,
        capture_output=True,
        text=True,
    )
    return output.stdout.split()


def test_a_sequence_of_calls_is_repeatable_across_processes() -> None:
    first = _hashes(1)
    assert len(set(first)) == 3
    assert _hashes(1) == first
    assert _hashes(2) != first


def test_voices_differ_and_errors_are_named() -> None:
    engine = synthesis.Synthesizer(seed=0)
    slow = engine.say("Habari ya asubuhi.", synthesis.Voice(language="sw", words_per_minute=100))
    fast = engine.say("Habari ya asubuhi.", synthesis.Voice(language="sw", words_per_minute=250))
    assert slow.sample_rate == 16_000
    assert slow.samples.dtype == np.float32
    assert slow.duration_seconds > 1.5 * fast.duration_seconds
    assert 0.1 < np.abs(slow.samples).max() < 1.2
    with pytest.raises(ConfigError, match='has no voice "xx"'):
        engine.say("a", synthesis.Voice(language="xx"))
    with pytest.raises(AudioError) as caught:
        engine.say("", synthesis.Voice(language="sw"))
    assert caught.value.reason == "synthesis"


def test_the_engine_tells_when_words_are_spoken() -> None:
    engine = synthesis.Synthesizer(seed=0)
    text = "Je, mtoto anasoma kitabu? Ndiyo."
    sound, words = engine.say_words(text, synthesis.Voice(language="sw", variant="f4"))
    assert [word.text for word in words] == text.split()
    ends = [0.0, *(word.end_seconds for word in words)]
    for before, word in zip(ends, words, strict=False):
        assert before <= word.start_seconds
        assert 0.05 < word.end_seconds - word.start_seconds < 1.5
    # There is sound where a word is, and none in the pause between the sentences.
    question, answer = words[3], words[4]

    def loudness(start: float, end: float) -> float:
        return float(np.abs(sound.samples[round(start * 16_000) : round(end * 16_000)]).mean())

    pause = loudness(question.end_seconds + 0.1, answer.start_seconds - 0.05)
    assert answer.start_seconds - question.end_seconds > 0.2
    assert loudness(question.start_seconds, question.end_seconds) > 20 * pause
    assert sound.duration_seconds >= answer.end_seconds


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r'pip install "unheard\[demo\]"'):
        synthesis.Synthesizer(seed=0)
