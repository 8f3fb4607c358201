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


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(MissingExtraError, match=r'pip install "unheard\[demo\]"'):
        synthesis.Synthesizer(seed=0)
