"""What `--fuse` asks for, alone and with published settings."""

from dataclasses import replace

import pytest
from tests.small_language_models import small_language_model

from unheard.decoding.fusion import FusedDecoder
from unheard.decoding.presets import get_preset
from unheard.errors import ConfigError
from unheard.inference.neural_reader import NeuralReader
from unheard.interop.language_model import save_language_model
from unheard.tasks.searching import UNTUNED_WORD_BONUS, SearchOptions
from unheard.text.alphabet import Alphabet

ALPHABET = Alphabet(tokens=("-", "|", "a", "b", "c"), blank="-", word_boundary="|")


def test_a_model_of_words_that_nobody_tuned_earns_a_bonus_for_each_word() -> None:
    assert SearchOptions(lm="lm.arpa").config().word_bonus == UNTUNED_WORD_BONUS > 0
    assert SearchOptions(lm="lm.arpa", lm_weight=0.5).config().word_bonus == UNTUNED_WORD_BONUS
    assert SearchOptions(lm="lm.arpa", word_bonus=0.0).config().word_bonus == 0.0
    assert SearchOptions(beam=5).config().word_bonus == 0.0
    preset = "wav2vec2-librispeech-10h-transformer"
    published = get_preset(preset).config.word_bonus
    assert SearchOptions(lm="lm.arpa", preset=preset).config().word_bonus == published


def test_published_weights_of_transformers_are_those_of_the_one_in_the_beam() -> None:
    preset = "wav2vec2-librispeech-10h-transformer"
    alone = SearchOptions(preset=preset, fuse="lm").config()

    assert (alone.fuse_weight, alone.word_bonus, alone.beam) == (1.06, -2.32, 500)
    assert alone.lm_weight == 0.0  # an n-gram model beside it guides and counts nothing
    assert SearchOptions(preset=preset, fuse="lm", lm_weight=0.3).config().lm_weight == 0.3
    assert SearchOptions(preset=preset, fuse="lm", fuse_weight=0.9).config().fuse_weight == 0.9
    # Without a Transformer in the beam they are what they were.
    assert SearchOptions(preset=preset).config() == get_preset(preset).config


def test_what_is_not_asked_for_changes_no_identity(tmp_path) -> None:
    plain = SearchOptions(beam=7)
    assert not {"fuse_weight", "fuse_frames", "alike"} & plain.identity()["search"].keys()
    assert "fuse" not in plain.identity()

    save_language_model(small_language_model(), tmp_path / "one")
    save_language_model(small_language_model(seed=1), tmp_path / "two")
    one, two = (SearchOptions(beam=7, fuse=tmp_path / name).identity() for name in ("one", "two"))
    assert one["fuse"] != two["fuse"]
    assert one["search"]["fuse_weight"] == 0.5
    other = SearchOptions(beam=7, fuse=tmp_path / "one", fuse_weight=0.4).identity()
    assert other != one


def test_the_model_is_in_the_beam(tmp_path) -> None:
    save_language_model(small_language_model(), tmp_path / "lm")
    found = SearchOptions(fuse=tmp_path / "lm", fuse_weight=0.7, nbest=3).decoder(ALPHABET)

    assert isinstance(found, FusedDecoder)
    assert isinstance(found.scorer, NeuralReader)
    assert (found.config.fuse_weight, found.config.nbest) == (0.7, 3)
    changed = found.with_config(replace(found.config, beam=9))
    assert changed.scorer is found.scorer
    assert changed.config.beam == 9


def test_a_weight_below_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="fuse_weight is out of range"):
        SearchOptions(fuse="lm", fuse_weight=-0.1).config()
