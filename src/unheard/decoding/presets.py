"""Published settings of searches, by name; and those that `unheard tune` found, by file.

The weights of the papers are on the scale of the decoder that they were found with, and are
converted by its name (`SearchConfig.from_flashlight`, `SearchConfig.from_pyctcdecode`). Settings
belong to a model, a language model and a language: published ones are where to begin, not where to
end.
"""

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from unheard.config import from_dict
from unheard.decoding.rescore import RescoreConfig
from unheard.decoding.search import SearchConfig
from unheard.errors import ConfigError, FormatError
from unheard.files import read_json, write_json_atomic

LanguageModelKind = Literal["none", "n-gram", "transformer"]

PRESETS_VERSION = 1
_INFINITE = ("inf", "-inf")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings of a search with a name.

    Attributes:
        name: what to ask for them by.
        config: in natural logarithms.
        language_model: the kind they were found with.
        source: who found them, and where they stand.
        rescoring: weights of a second language model that puts the readings in order, if they
            were found too.
    """

    name: str
    config: SearchConfig
    language_model: LanguageModelKind
    source: str
    rescoring: RescoreConfig | None = None


_LABELS = ("10m", "1h", "10h", "100h", "960h")
_PAPER = "Baevski et al. 2020 (wav2vec 2.0), appendix, tables 7 and 8"

_WEIGHTS: dict[tuple[str, LanguageModelKind], tuple[tuple[float, float], ...]] = {
    ("librispeech", "n-gram"): (
        (3.23, -0.26),
        (2.90, -1.62),
        (2.46, -0.59),
        (2.15, -0.52),
        (1.74, 0.52),
    ),
    ("librispeech", "transformer"): (
        (1.20, -1.39),
        (1.15, -2.08),
        (1.06, -2.32),
        (0.87, -1.00),
        (0.92, -0.86),
    ),
    ("librivox", "n-gram"): (
        (3.86, -1.18),
        (3.09, -2.33),
        (2.12, -0.90),
        (2.15, -0.52),
        (1.57, -0.64),
    ),
    ("librivox", "transformer"): (
        (1.47, -2.82),
        (1.33, -0.69),
        (0.94, -1.05),
        (0.87, -1.00),
        (0.90, -0.31),
    ),
}
"""(LM weight, word score) by hours of labels, for what the network was pre-trained on (LibriSpeech
960 h or LibriVox 53,200 h) and the kind of language model."""


def _paper() -> list[Preset]:
    """The table of wav2vec 2.0: beam 1500 with the 4-gram, 500 with the Transformer."""
    found: list[Preset] = []
    for (pretrained, kind), weights in _WEIGHTS.items():
        for labels, (lm_weight, word_score) in zip(_LABELS, weights, strict=True):
            neural = kind == "transformer"
            found.append(
                Preset(
                    name=f"wav2vec2-{pretrained}-{labels}-{'transformer' if neural else '4gram'}",
                    config=SearchConfig.from_flashlight(
                        lm_weight=lm_weight,
                        word_score=word_score,
                        beam_size=500 if neural else 1500,
                        lm_scores="natural" if neural else "log10",
                    ),
                    language_model=kind,
                    source=_PAPER,
                )
            )
    return found


def _others() -> list[Preset]:
    return [
        Preset(
            name="fairseq",
            config=SearchConfig.from_flashlight(lm_weight=2.0, word_score=-1.0),
            language_model="n-gram",
            source="fairseq examples/speech_recognition/new, decoder defaults @ 3d262bb",
        ),
        Preset(
            name="mms-zero-shot",
            config=SearchConfig.from_flashlight(lm_weight=1.48, word_score=-0.18, beam_size=2000),
            language_model="n-gram",
            source="fairseq examples/mms/zero_shot @ 3d262bb",
        ),
        Preset(
            name="mms-zero-shot-lexicon",
            config=SearchConfig.from_flashlight(lm_weight=0.0, word_score=-3.5, beam_size=2000),
            language_model="none",
            source="fairseq examples/mms/zero_shot @ 3d262bb",
        ),
        Preset(
            name="pyctcdecode",
            config=SearchConfig.from_pyctcdecode(),
            language_model="n-gram",
            source="pyctcdecode 0.5.0, defaults of `build_ctcdecoder` and `decode`",
        ),
        Preset(
            name="speechbrain",
            config=SearchConfig.from_pyctcdecode(
                alpha=0.8, beta=1.2, beam_prune_logp=-12.0, token_min_logp=-1.2
            ),
            language_model="n-gram",
            source="SpeechBrain CTCBeamSearcher, recipe for LibriSpeech",
        ),
    ]


PRESETS = {preset.name: preset for preset in (*_paper(), *_others())}


def get_preset(name: str | os.PathLike[str]) -> Preset:
    """Find settings by name, or read those of a file that `unheard tune` wrote.

    Raises:
        ConfigError: if there is neither such a name nor such a file.
        FormatError: if the file holds something else.
    """
    found = PRESETS.get(os.fspath(name))
    if found is not None:
        return found
    path = Path(name)
    if path.is_file():
        return read_preset(path)
    raise ConfigError(
        f"There are no search settings called {os.fspath(name)!r}, and no such file: expected one "
        f"of {', '.join(PRESETS)}, or the search.json of `unheard tune`."
    )


def read_preset(path: Path) -> Preset:
    """Read settings from a file.

    Raises:
        FormatError: if it does not hold settings.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or stored.get("version") != PRESETS_VERSION:
        raise FormatError(
            f"{path} does not hold search settings: expected an object with version "
            f"{PRESETS_VERSION}, as `unheard tune` writes it."
        )
    row = {key: value for key, value in stored.items() if key not in ("version", "config")}
    config = stored.get("config")
    try:
        if not isinstance(config, dict):
            raise ConfigError(f"config: expected settings, found {config!r}.")
        infinite = {name: float(value) for name, value in config.items() if value in _INFINITE}
        finite = {name: value for name, value in config.items() if name not in infinite}
        found = replace(from_dict(SearchConfig, finite), **infinite)
        return replace(from_dict(Preset, {**row, "config": {}}), config=found)
    except (ConfigError, TypeError) as error:
        raise FormatError(f"{path} does not hold search settings: {error}") from error


def write_preset(path: Path, preset: Preset) -> None:
    """Write settings to a file, whole or not at all; infinity, which JSON lacks, as text."""
    config = {
        key: str(value) if isinstance(value, float) and math.isinf(value) else value
        for key, value in asdict(preset.config).items()
    }
    write_json_atomic(path, {"version": PRESETS_VERSION, **asdict(preset), "config": config})
