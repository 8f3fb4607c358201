import math

import pytest
import torch

from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.decoding.hypothesis import Hypothesis, ScoreParts
from unheard.decoding.search import SearchConfig, bonuses, in_threads
from unheard.errors import ConfigError


def test_flashlight_weights_of_an_n_gram_are_for_decimal_logarithms():
    config = SearchConfig.from_flashlight(
        lm_weight=2.46, word_score=-0.59, sil_score=-0.1, unk_score=-5.0, beam_size_token=50
    )
    assert config.lm_weight == pytest.approx(1.0684, abs=1e-4)
    assert (config.word_bonus, config.boundary_bonus, config.unknown_score) == (-0.59, -0.1, -5.0)
    assert (config.beam, config.beam_threshold, config.symbols_per_frame) == (50, 50.0, 50)
    assert config.symbol_threshold == math.inf


def test_flashlight_weights_of_a_neural_model_are_natural():
    config = SearchConfig.from_flashlight(lm_weight=1.06, word_score=-2.32, lm_scores="natural")
    assert config.lm_weight == 1.06


def test_pyctcdecode_multiplies_the_offset_of_unknown_words_by_alpha():
    config = SearchConfig.from_pyctcdecode()
    assert (config.lm_weight, config.word_bonus, config.beam) == (0.5, 1.5, 100)
    assert config.unknown_score == pytest.approx(-0.5 * math.log(10) * 10)
    assert (config.beam_threshold, config.symbol_threshold) == (10.0, 5.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"beam": 0},
        {"beam": 2.5},
        {"nbest": True},
        {"symbols_per_frame": 0},
        {"beam_threshold": -1.0},
        {"symbol_threshold": math.nan},
        {"lm_weight": -0.1},
        {"lm_weight": math.inf},
        {"word_bonus": math.nan},
        {"boundary_bonus": -math.inf},
        {"unknown_score": math.inf},
        {"unknown_score": math.nan},
    ],
)
def test_settings_out_of_range_are_named(wrong):
    (name,) = wrong
    with pytest.raises(ConfigError, match=name):
        SearchConfig(**wrong)


def test_hot_words_are_a_list_or_a_table():
    assert bonuses(["a", "b c"]) == {"a": 10.0, "b c": 10.0}
    assert bonuses({"a": 3}) == {"a": 3.0}
    with pytest.raises(ConfigError, match="list of words"):
        bonuses("Kampala")
    with pytest.raises(ConfigError, match="finite"):
        bonuses({"a": math.inf})


def test_parts_add_up():
    parts = ScoreParts(
        acoustic=-1.0, lm=-2.0, words=0.5, unknown_words=-4.0, hot_words=8.0, rescoring=-16.0
    )
    assert parts.total == -14.5


@pytest.mark.parametrize("threads", [1, 2, None])
def test_results_of_threads_are_in_the_order_of_the_recordings(threads):
    def emissions(frames):
        return Emissions(
            log_probs=torch.zeros(frames, 2),
            frame_stride_samples=320,
            frame_offset_samples=200,
            num_samples=320 * frames,
            sample_rate=16_000,
        )

    def decode(one):
        frames = one.log_probs.shape[0]
        return [Hypothesis(text=str(frames), words=(), confidence=0.0, score=0.0)]

    given = [emissions(frames) for frames in (3, 9, 0, 5)]
    found = in_threads(decode, given, threads=threads)
    assert [readings[0].text for readings in found] == ["3", "9", "0", "5"]


def test_an_error_in_a_thread_is_raised():
    def decode(one):
        raise ConfigError("no")

    empty = Emissions(
        log_probs=torch.zeros(0, 2),
        frame_stride_samples=320,
        frame_offset_samples=200,
        num_samples=0,
        sample_rate=16_000,
    )
    with pytest.raises(ConfigError, match="no"):
        in_threads(decode, [empty, empty], threads=2)


def test_times_are_clipped_to_the_recording():
    timing = FrameTiming(frame_stride_samples=320, frame_offset_samples=100, sample_rate=16_000)
    assert timing.edge_seconds(-0.5) == 0.0
    assert timing.edge_seconds(9.5) == pytest.approx(3140 / 16_000)
    assert timing.edge_seconds(9.5, num_samples=3000) == 3000 / 16_000
