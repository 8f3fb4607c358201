import json
import math

import pytest

from unheard.decoding.presets import PRESETS, get_preset, write_preset
from unheard.errors import ConfigError, FormatError


def test_published_ngram_weights_are_on_decimal_logarithms() -> None:
    """2.46 times log10 is 1.068 times the natural logarithm; Transformer weights are natural."""
    ngram = get_preset("wav2vec2-librispeech-10h-4gram")
    neural = get_preset("wav2vec2-librispeech-10h-transformer")

    assert ngram.config.lm_weight == pytest.approx(2.46 / math.log(10))
    assert (ngram.config.word_bonus, ngram.config.beam) == (-0.59, 1500)
    assert (neural.config.lm_weight, neural.config.word_bonus) == (1.06, -2.32)
    assert neural.config.beam == 500


def test_there_is_one_for_each_row_of_the_paper() -> None:
    of_paper = [name for name in PRESETS if name.startswith("wav2vec2-")]

    assert len(of_paper) == 2 * 2 * 5
    assert all(preset.name == name and preset.source for name, preset in PRESETS.items())


@pytest.mark.parametrize("name", list(PRESETS))
def test_comes_back_from_a_file(name, tmp_path) -> None:
    path = tmp_path / "search.json"
    write_preset(path, PRESETS[name])

    json.loads(path.read_text(), parse_constant=pytest.fail)  # plain JSON, no Infinity
    assert get_preset(path) == PRESETS[name]
    assert get_preset(str(path)) == PRESETS[name]


def test_an_unknown_name_lists_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match=r"'wav2vec'.*wav2vec2-librispeech-10m-4gram"):
        get_preset("wav2vec")


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"version": 2}',
        '{"version": 1, "config": {"beams": 3}}',
        '{"version": 1, "config": {"beam": "wide"}}',
        '{"version": 1, "config": 5}',
    ],
)
def test_a_file_with_something_else_is_named(content, tmp_path) -> None:
    path = tmp_path / "search.json"
    path.write_text(content)

    with pytest.raises(FormatError, match=r"search\.json"):
        get_preset(path)
