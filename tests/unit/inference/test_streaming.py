"""Live recognition: any way to cut a recording gives the text of its windows."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.mixed_recordings import make_bundle, make_sound
from tests.random_lattices import random_model

from unheard.audio.signal import Waveform
from unheard.decoding.decoders import make_decoder
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.hypothesis import Word
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.rescore import RescoreConfig
from unheard.decoding.rescoring import RescoringDecoder
from unheard.decoding.search import SearchConfig
from unheard.errors import AudioError, ConfigError, ShapeError
from unheard.inference.engine import Engine
from unheard.inference.pipeline import Source, hear
from unheard.inference.streaming import PAUSE_SECONDS, SEGMENT_SECONDS, Listener
from unheard.inference.windows import plan_windows

RATE = 16_000
WINDOW_SECONDS, CONTEXT_SECONDS = 1.5, 0.2


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(make_bundle())


@pytest.fixture(scope="module")
def sound() -> np.ndarray:
    """Speech-like bursts with pauses, some of them digital silence, one longer than a window."""
    generator = np.random.default_rng(7)
    parts = []
    for pause in (0.0, 0.3, 2.0, 0.8, 0.1, 0.0):
        parts += [np.zeros(round(pause * RATE)), make_sound(generator, seconds=0.9)]
    return np.concatenate(parts).astype(np.float32)


@pytest.fixture(scope="module")
def decoders(engine, tmp_path_factory):
    words = ["a", "ka", "mano", "i", "su", "ne"]
    path = tmp_path_factory.mktemp("models") / "words.arpa"
    lm, _ = random_model(np.random.default_rng(0), words, path)
    config = SearchConfig(beam=16, beam_threshold=5.0)
    return {
        "greedy": GreedyDecoder(engine.alphabet),
        "prefix": make_decoder(engine.alphabet, config=config),
        "lexicon": make_decoder(
            engine.alphabet,
            lm=lm,
            lexicon=Lexicon.from_words(words, engine.alphabet),
            config=config,
        ),
    }


def plan_of(engine):
    return plan_windows(
        engine.encoder_config,
        sample_rate=RATE,
        window_seconds=WINDOW_SECONDS,
        context_seconds=CONTEXT_SECONDS,
    )


def whole(engine, decoder, samples, *, sample_rate=RATE):
    """What the windows of a recording say, through the pipeline of all other verbs."""
    waveform = Waveform(samples=samples, sample_rate=sample_rate)
    (heard,) = hear(
        engine,
        [Source(audio=waveform)],
        decoder,
        whole_seconds=0.0,
        window_seconds=WINDOW_SECONDS,
        context_seconds=CONTEXT_SECONDS,
    )
    return heard


def pieces(samples, generator, *, longest):
    start = 0
    while start < len(samples):
        size = int(generator.integers(0, longest))
        yield samples[start : start + size]
        start += size


def listen(engine, decoder, parts, *, sample_rate=None, **settings):
    """Feed all parts; check on the way what a stream promises; return it and its segments."""
    listener = Listener(engine, decoder, plan_of(engine), **settings)
    segments, certain, beliefs = [], "", []
    for part in parts:
        update = listener.feed(part, sample_rate=sample_rate)
        segments += update.segments
        texts = [*(segment.text for segment in segments), update.stable_text]
        now = " ".join(text for text in texts if text)
        assert now.startswith(certain), "what is certain must never change"
        certain = now
        beliefs.append(update.partial_text)
    segments += listener.finish().segments
    final = " ".join(segment.text for segment in segments)
    assert final.startswith(certain)
    assert certain, "nothing was certain before the end"
    assert any(beliefs), "there were no partial texts"
    return listener, segments, final


@pytest.mark.parametrize("kind", ["greedy", "prefix", "lexicon"])
@pytest.mark.parametrize("longest", [400, 9_000, 200_000])
def test_any_cut_gives_the_text_of_the_windows(engine, decoders, sound, kind, longest):
    decoder = decoders[kind]
    expected = whole(engine, decoder, sound).readings[0]
    assert len(expected.words) > 5
    parts = pieces(sound, np.random.default_rng(longest), longest=longest)
    listener, segments, final = listen(engine, decoder, parts)
    assert final == listener.text == expected.text
    assert [word for segment in segments for word in segment.words] == list(listener.words)
    if kind == "greedy":
        assert list(listener.words) == list(expected.words)
        assert listener.confidence == pytest.approx(expected.confidence, rel=1e-12)
    else:
        texts = [word.text for word in listener.words]
        assert texts == [word.text for word in expected.words]


def test_with_a_second_model_all_is_certain_at_the_end(engine, decoders, sound):
    class LateLettersAreGood:
        def score_sentences(self, texts):
            return np.array([float(sum(map(ord, text))) for text in texts])

    several = decoders["prefix"].with_config(replace(decoders["prefix"].config, nbest=5))
    decoder = RescoringDecoder(
        several, LateLettersAreGood(), config=RescoreConfig(weight=30.0), nbest=1
    )
    listener = Listener(engine, decoder, plan_of(engine))
    partial = ""
    for part in np.array_split(sound, 12):
        update = listener.feed(part)
        assert (update.segments, update.stable_text) == ((), "")
        partial = update.partial_text
    assert partial
    assert listener.finish().segments
    expected = whole(engine, decoder, sound).readings[0].text
    assert listener.text == expected
    assert expected != whole(engine, several, sound).readings[0].text


def test_a_shorter_recording_than_a_window_and_none_at_all(engine, decoders, sound):
    for samples in (sound[:9_000], sound[:10], sound[:0]):
        expected = whole(engine, decoders["greedy"], samples)
        listener = Listener(engine, decoders["greedy"], plan_of(engine))
        listener.feed(samples)
        listener.finish()
        assert listener.text == (expected.readings[0].text if expected.readings else "")
        assert listener.warnings == expected.warnings
        assert listener.seconds == expected.duration_seconds


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_other_rates_are_resampled_as_if_they_had_come_at_once(engine, decoders, rate):
    samples = make_sound(np.random.default_rng(rate), seconds=4.0 * rate / RATE)
    expected = whole(engine, decoders["greedy"], samples, sample_rate=rate)
    parts = pieces(samples, np.random.default_rng(1), longest=5_000)
    listener, _, final = listen(engine, decoders["greedy"], parts, sample_rate=rate)
    assert final == expected.readings[0].text
    assert listener.words == expected.readings[0].words
    assert listener.seconds == expected.duration_seconds


def test_integers_and_their_bytes_are_the_same_sound(engine, decoders, sound):
    integers = (sound * 32_767).astype("<i2")
    floats = integers.astype(np.float32) / 32_768
    expected = whole(engine, decoders["greedy"], floats).readings[0].text
    data = integers.tobytes()
    generator = np.random.default_rng(0)
    cuts = [0, *np.sort(generator.integers(0, len(data), 60)).tolist(), len(data)]
    odd = [data[a:b] for a, b in itertools.pairwise(cuts)]
    assert any(len(part) % 2 for part in odd)
    for parts in (
        odd,
        np.array_split(integers, 20),
        np.array_split(floats.astype(np.float64), 20),
        torch.from_numpy(floats).split(7_000),
        [memoryview(data)],
    ):
        listener = Listener(engine, decoders["greedy"], plan_of(engine))
        for part in parts:
            listener.feed(part)
        listener.finish()
        assert listener.text == expected
        assert listener.warnings == ()
    listener = Listener(engine, decoders["greedy"], plan_of(engine))
    listener.feed(data[:-1])
    listener.finish()
    assert listener.warnings == ("truncated",)


def test_frames_are_final_within_the_latency(engine, decoders, sound):
    listener = Listener(engine, decoders["greedy"], plan_of(engine), hop_seconds=None)
    bound = listener.latency.final_seconds * RATE
    assert bound <= (WINDOW_SECONDS + 0.03) * RATE
    stride = engine.encoder_config.stride_samples
    waits = []
    for start in range(0, len(sound), 160):
        listener.feed(sound[start : start + 160])
        cutter = listener._cutter
        waits.append(cutter.num_samples - cutter.kept_frames * stride)
    assert max(waits) <= bound + 160
    assert max(waits) > 0.6 * bound, "the bound is far from what happens"


def test_partial_texts_come_at_every_hop_and_go_as_far_as_the_sound(engine, decoders, sound):
    generator = np.random.default_rng(7)
    speech = np.concatenate([make_sound(generator, seconds=1.0) for _ in range(5)])
    listener = Listener(
        engine, decoders["greedy"], plan_of(engine), hop_seconds=0.25, partial_load=math.inf
    )
    changes = []
    for start in range(0, len(speech), 400):
        update = listener.feed(speech[start : start + 400])
        if update.changed:
            changes.append(update.seconds)
    assert listener.stats.partials >= 20
    assert max(np.diff([0.0, *changes])) <= 0.5 + 1e-9
    # All that was heard so far, read as if it had ended here.
    told = listener.partial()
    assert told.seconds == 5.0
    texts = (listener.text, told.stable_text, told.partial_text)
    believed = " ".join(text for text in texts if text)
    final = whole(engine, decoders["greedy"], speech).readings[0].text
    assert believed[: len(final) // 2] == final[: len(final) // 2]
    assert 0.8 * len(final) < len(believed) < 1.2 * len(final)


def test_partial_texts_only_when_asked_for(engine, decoders, sound):
    listener = Listener(engine, decoders["greedy"], plan_of(engine), hop_seconds=None)
    for part in np.array_split(sound, 200):
        listener.feed(part)
    assert listener.stats.partials == 0
    listener.partial()
    assert listener.stats.partials == 1
    listener.partial()
    assert listener.stats.partials == 1, "nothing had come since"
    assert listener.latency.partial_seconds == math.inf


def test_silence_costs_no_partial_texts(engine, decoders):
    listener = Listener(engine, decoders["greedy"], plan_of(engine), hop_seconds=0.1)
    for _ in range(100):
        listener.feed(np.zeros(800, np.float32))
    silent = listener.stats
    # One after each complete window, and none of the fifty that were due.
    assert silent.partials == silent.windows
    assert silent.partials_silent > 20
    speech = make_sound(np.random.default_rng(0), seconds=1.0)
    for part in np.array_split(speech, 20):
        listener.feed(part)
    assert listener.stats.partials >= silent.partials + 8
    assert listener.partial().partial_text


def test_a_slow_machine_gets_fewer_partial_texts_and_the_same_text(engine, decoders, sound):
    def listen_with(seconds_a_call):
        ticks = iter(range(10**9))
        listener = Listener(
            engine,
            decoders["greedy"],
            plan_of(engine),
            hop_seconds=0.1,
            clock=lambda: next(ticks) * seconds_a_call,
        )
        for start in range(0, len(sound), 800):
            listener.feed(sound[start : start + 800])
        listener.finish()
        return listener

    fast, slow = listen_with(0.001), listen_with(0.4)
    assert slow.text == fast.text
    assert slow.stats.hop_seconds == pytest.approx(0.8)
    assert fast.stats.hop_seconds == 0.1
    between = slow.stats.partials - slow.stats.windows
    assert between < 0.3 * (fast.stats.partials - fast.stats.windows)
    assert slow.stats.load == pytest.approx(
        (slow.stats.windows_seconds + slow.stats.partials_seconds) / slow.stats.audio_seconds
    )


def test_segments_end_at_pauses_and_before_they_are_too_long(engine, decoders):
    listener = Listener(engine, decoders["greedy"], plan_of(engine))
    generator = np.random.default_rng(0)
    ends = np.cumsum(generator.exponential(0.5, 200))
    words = [
        Word(text=f"w{n}", start_seconds=end - 0.05, end_seconds=end, confidence=1.0)
        for n, end in enumerate(ends.tolist())
    ]
    segments = []
    for start in range(0, 200, 7):
        listener._add(tuple(words[start : start + 7]))
        segments += listener._report().segments
    segments += listener.finish().segments
    said = [word.text for segment in segments for word in segment.words]
    assert said == [word.text for word in words]
    assert listener.text == " ".join(said)
    assert 10 < len(segments) < 190
    for segment in segments:
        assert segment.start_seconds == segment.words[0].start_seconds
        assert segment.end_seconds == segment.words[-1].end_seconds
        assert segment.end_seconds - segment.start_seconds <= SEGMENT_SECONDS
        inner = itertools.pairwise(segment.words)
        assert all(b.start_seconds - a.end_seconds < PAUSE_SECONDS for a, b in inner)
    for before, after in itertools.pairwise(segments):
        pause = after.start_seconds - before.end_seconds
        length = after.words[0].end_seconds - before.start_seconds
        assert pause >= PAUSE_SECONDS or length > SEGMENT_SECONDS
    record = segments[0].to_dict()
    assert record["words"][0]["text"] == segments[0].words[0].text


def test_without_keep_nothing_piles_up(engine, decoders):
    generator = np.random.default_rng(3)
    told, held = [], []
    listener = Listener(engine, decoders["greedy"], plan_of(engine), hop_seconds=None, keep=False)
    sounds = [make_sound(generator, seconds=1.0) for _ in range(3)]
    for turn in range(30):
        update = listener.feed(np.concatenate((sounds[turn % 3], np.zeros(12_000, np.float32))))
        told += [word for segment in update.segments for word in segment.words]
        frames = sum(piece.token_ids.shape[0] for piece in listener._search._pieces)
        held.append((len(listener.words) + len(listener._open), frames))
    told += [word for segment in listener.finish().segments for word in segment.words]
    together = np.concatenate(
        [np.concatenate((sounds[turn % 3], np.zeros(12_000, np.float32))) for turn in range(30)]
    )
    assert told == list(whole(engine, decoders["greedy"], together).readings[0].words)
    words, frames = np.array(held).T
    assert words[15:].max() <= 1.2 * words[:9].max()
    assert frames[15:].max() <= 1.2 * frames[:9].max()


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.zeros((2, 100), np.float32), ShapeError, "mono"),
        (np.float32(0.0), ConfigError, "unknown"),
        ([0.0, 0.1], ConfigError, "list"),
        ("sound.wav", ConfigError, "str"),
        (np.zeros(100, np.int32), ConfigError, "int32"),
        (np.zeros(100, bool), ConfigError, "bool"),
        (np.array([0.0, math.nan]), AudioError, "NaN"),
        (np.array([0.0, math.inf], np.float32), AudioError, "infinity"),
        (np.array([1e300]), AudioError, "infinity"),
        (torch.zeros(3, dtype=torch.int64), ConfigError, "int64"),
    ],
)
def test_what_is_no_sound_is_refused_and_not_taken(
    engine, decoders, sound, samples, error, message
):
    expected = whole(engine, decoders["greedy"], sound).readings[0].text
    listener = Listener(engine, decoders["greedy"], plan_of(engine), hop_seconds=None)
    listener.feed(sound[:20_000])
    with pytest.raises(error, match=message):
        listener.feed(samples)
    assert listener.seconds == 20_000 / RATE
    listener.feed(sound[20_000:])
    listener.finish()
    assert listener.text == expected


def test_one_stream_has_one_rate_and_one_form(engine, decoders, sound):
    listener = Listener(engine, decoders["greedy"], plan_of(engine))
    with pytest.raises(ConfigError, match="out of range"):
        listener.feed(sound[:10], sample_rate=10)
    listener.feed(sound[:0], sample_rate=8_000)  # no sound yet, so no rate yet
    listener.feed(sound[:1_000], sample_rate=44_100)
    listener.feed(sound[1_000:2_000])
    with pytest.raises(ConfigError, match="expected 44100 Hz as before, found 16000 Hz"):
        listener.feed(sound[:10], sample_rate=16_000)
    listener.feed(b"\0\0\0")
    with pytest.raises(ConfigError, match="other half"):
        listener.feed(sound[:10])
    listener.feed(b"\0")
    listener.finish()
    assert listener.warnings == ()


def test_nothing_goes_on_after_the_end(engine, decoders, sound):
    listener = Listener(engine, decoders["greedy"], plan_of(engine))
    assert not listener.finished
    listener.finish()
    assert listener.finished
    for action in (lambda: listener.feed(sound), listener.partial, listener.finish):
        with pytest.raises(ConfigError, match="finished"):
            action()


def test_a_stream_that_was_torn_does_not_pretend(engine, decoders, sound, monkeypatch):
    listener = Listener(engine, decoders["greedy"], plan_of(engine))

    def interrupted(batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "log_probs", interrupted)
    with pytest.raises(KeyboardInterrupt):
        listener.feed(sound)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="lost its place"):
        listener.feed(sound)


@pytest.mark.parametrize(
    "settings", [{"hop_seconds": 0.0}, {"hop_seconds": math.nan}, {"partial_load": 0.0}]
)
def test_settings_out_of_range(engine, decoders, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Listener(engine, decoders["greedy"], plan_of(engine), **settings)
