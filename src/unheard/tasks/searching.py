"""What `--lm`, `--lexicon`, `--beam` and their like ask for: settings in, a decoder out."""

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from unheard.decoding.decoders import make_decoder
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.hypothesis import ScoreParts
from unheard.decoding.lexicon import Lexicon
from unheard.decoding.presets import get_preset
from unheard.decoding.rescore import RescoreConfig
from unheard.decoding.rescoring import RescoringDecoder
from unheard.decoding.search import HOT_WORD_BONUS, Decoder, SearchConfig, SearchDecoder
from unheard.errors import ConfigError
from unheard.files import sha256_file
from unheard.inference.neural_model import NeuralModel
from unheard.inference.neural_reader import NeuralReader
from unheard.interop.language_model import find_language_model
from unheard.interop.native import HASHES_FILE
from unheard.lm.ngram import NgramModel
from unheard.text.alphabet import Alphabet

UNTUNED_WORD_BONUS = 1.0
"""For each word, where an n-gram model is given and neither a preset nor a bonus [nats].

A language model likes few words. Over models of Luganda (an hour of labels and all of them), Wolof
and Amharic, each with a trigram of its train texts, 1 gave a word error rate of 80.4 % on the mean
against 81.4 % at 0, from 2.6 points better to 1.4 worse; a lexicon changed neither. What is best
was 0 to 2, model by model: `unheard tune` finds it.
"""

RESCORED = 50
"""Readings that a second language model compares (Baevski et al. 2020, app. B)."""

PARTS = tuple(field.name for field in fields(ScoreParts))
"""What a score is made of, in the order in which it is shown."""

LanguageModel = str | os.PathLike[str] | NgramModel
"""An n-gram model, or the file of one."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How to get from log-probabilities to text.

    With nothing set the most probable symbol of each frame is read (greedy); anything that is
    set asks for a beam search.

    Attributes:
        lm: n-gram model: one in memory, an ARPA file (.arpa, .arpa.gz) or our own (.unheard-lm).
        lexicon: file of the words that may be written (see `unheard.decoding.lexicon`); without
            one any text may be.
        preset: settings by name, or a search.json of `unheard tune`.
        beam: hypotheses kept after each frame.
        lm_weight: of the language model's natural log-probability.
        word_bonus: for each word [nats]; with an n-gram model and no preset,
            `UNTUNED_WORD_BONUS` unless said otherwise.
        hot_words: words or phrases to listen for, with commas between, each with a bonus [nats]
            if wanted: "Kampala,Nakawa=5".
        rescore: Transformer language model (a folder of `unheard lm train --kind transformer`) that
            puts the readings of the search in order.
        rescore_weight: of its natural log-probability.
        fuse: Transformer language model that judges the words of all readings in the beam while
            the search goes on.
        fuse_weight: of its natural log-probability.
        nbest: readings of each recording to keep.
    """

    lm: LanguageModel | None = None
    lexicon: str | os.PathLike[str] | None = None
    preset: str | None = None
    beam: int | None = None
    lm_weight: float | None = None
    word_bonus: float | None = None
    hot_words: str | None = None
    rescore: str | os.PathLike[str] | None = None
    rescore_weight: float | None = None
    fuse: str | os.PathLike[str] | None = None
    fuse_weight: float | None = None
    nbest: int = 1

    @property
    def greedy(self) -> bool:
        """Whether nothing asks for a search."""
        return self == SearchOptions()

    def config(self) -> SearchConfig:
        """Settings of the search: those of the preset, and what is set besides.

        A preset that was found with a Transformer alone gives its weight to the one in the beam;
        an n-gram model then guides the search and counts nothing, unless `lm_weight` says so.

        Raises:
            ConfigError: if there is no such preset, or a setting is out of its range.
        """
        preset = None if self.preset is None else get_preset(self.preset)
        config = SearchConfig() if preset is None else preset.config
        if preset is not None and preset.language_model == "transformer" and self.fuse is not None:
            config = replace(config, fuse_weight=config.lm_weight, lm_weight=0.0)
        given: dict[str, Any] = {
            "beam": self.beam,
            "lm_weight": self.lm_weight,
            "word_bonus": self.word_bonus,
            "fuse_weight": self.fuse_weight,
        }
        changes = {name: value for name, value in given.items() if value is not None}
        if preset is None and self.lm is not None:
            changes.setdefault("word_bonus", UNTUNED_WORD_BONUS)
        nbest = self.nbest if self.rescore is None else max(self.nbest, RESCORED)
        return replace(config, nbest=nbest, **changes)

    def rescoring(self) -> RescoreConfig:
        """Settings of the second model: those of the preset, if it has any; the weight asked for.

        Raises:
            ConfigError: if there is no such preset, or a setting is out of its range.
        """
        tuned = None if self.preset is None else get_preset(self.preset).rescoring
        config = RescoreConfig() if tuned is None else tuned
        if self.rescore_weight is None:
            return config
        return replace(config, weight=self.rescore_weight)

    def identity(self) -> dict[str, Any]:
        """All that decides a text: settings, and the content of the files.

        Raises:
            ConfigError: see `config`.
            OSError: if a file cannot be read.
        """
        if self.greedy:
            return {"decoder": "greedy"}
        settings = {
            name: str(value) if isinstance(value, float) and math.isinf(value) else value
            for name, value in asdict(self.config()).items()
            # What has no effect is not named: what was done before goes on.
            if (self.fuse is not None or not name.startswith("fuse_"))
            and (name, value) != ("alike", None)
        }
        return {
            "decoder": "search",
            "search": settings,
            "lm": _content(self.lm),
            "lexicon": _content(self.lexicon),
            "hot_words": dict(parse_hot_words(self.hot_words)),
            **({} if self.fuse is None else {"fuse": _model_content(self.fuse)}),
            "rescore": None if self.rescore is None else _model_content(self.rescore),
            "rescoring": None if self.rescore is None else asdict(self.rescoring()),
        }

    def decoder(self, alphabet: Alphabet) -> Decoder:
        """Make the decoder for the emissions of one alphabet.

        Raises:
            ConfigError: if the settings, the model and the alphabet do not fit together.
            FormatError: if a file is not what it should be.
            OSError: if it cannot be read.
        """
        if self.greedy:
            return GreedyDecoder(alphabet)
        search = self.search(alphabet)
        if self.rescore is None:
            return search
        scorer = NeuralModel.load(self.rescore)
        return RescoringDecoder(search, scorer, config=self.rescoring(), nbest=self.nbest)

    def search(self, alphabet: Alphabet) -> SearchDecoder:
        """Make the search alone, without the model that would put its readings in order.

        The model in the beam is part of it.

        Raises:
            ConfigError: see `decoder`.
            FormatError: see `decoder`.
            OSError: see `decoder`.
        """
        return make_decoder(
            alphabet,
            lm=load_lm(self.lm),
            lexicon=None if self.lexicon is None else Lexicon.load(self.lexicon, alphabet),
            hot_words=parse_hot_words(self.hot_words),
            config=self.config(),
            fuse=None if self.fuse is None else NeuralReader(NeuralModel.load(self.fuse)),
        )


def load_lm(lm: LanguageModel | None) -> NgramModel | None:
    """Load an n-gram model, unless it is loaded or there is none."""
    return lm if lm is None or isinstance(lm, NgramModel) else NgramModel.load(lm)


def parse_hot_words(written: str | None) -> Mapping[str, float]:
    """Read "Kampala,Nakawa=5": words or phrases and their bonuses [nats].

    Raises:
        ConfigError: if a bonus is no number, or a word is empty.
    """
    found: dict[str, float] = {}
    for part in () if written is None else written.split(","):
        word, equals, bonus = part.strip().partition("=")
        try:
            found[word.strip()] = float(bonus) if equals else HOT_WORD_BONUS
        except ValueError:
            raise ConfigError(
                f"hot words: expected a number of nats after {word!r}, found {bonus!r}."
            ) from None
        if not word.strip():
            raise ConfigError(f'hot words: expected "word,word=5", found {written!r}.')
    return found


def readings_table(name: str, readings: Sequence[Mapping[str, Any]]) -> str:
    """Lay out the readings of a recording with what their scores are made of.

    Args:
        name: of the recording.
        readings: `Transcript.to_dict()["readings"]`.
    """
    parts = [
        part
        for part in PARTS
        if any(reading.get("parts") and reading["parts"][part] for reading in readings)
    ]
    lines = [f"{name}\n{'':>4}{'score':>10}" + "".join(f"{part:>15}" for part in parts) + "  text"]
    for place, reading in enumerate(readings, start=1):
        shown = reading["parts"] or {}
        columns = "".join(f"{shown.get(part, 0.0):>15.2f}" for part in parts)
        lines.append(f"{place:>4}{reading['score']:>10.2f}{columns}  {reading['text']}")
    return "\n".join(lines) + "\n"


def _content(source: LanguageModel | None) -> str | None:
    """Name what a file holds, or a model in memory."""
    if source is None:
        return None
    if isinstance(source, NgramModel):
        digest = hashlib.sha256("\n".join(source.vocabulary.words).encode())
        for array in source.tables:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
    return sha256_file(Path(source))


def _model_content(folder: str | os.PathLike[str]) -> str | None:
    """Name what a Transformer language model's folder holds."""
    return _content(find_language_model(os.fspath(folder)) / HASHES_FILE)
