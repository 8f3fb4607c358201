"""What a model of transformers expects to hear, both ways."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.errors import FormatError
from unheard.interop import storage
from unheard.interop.huggingface.settings import Settings

FEATURE_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"

FEATURE_EPSILON = 1e-7
"""Added to the variance of each utterance: `zero_mean_unit_var_norm` of transformers."""

_KIND = "Wav2Vec2FeatureExtractor"


def read_input_spec(folder: Path, *, conv_norm: str) -> InputSpec:
    """Read what a model expects of its input.

    Both places where transformers has kept it are read: preprocessor_config.json, and since
    version 5 processor_config.json. Without either: normalised utterances, as the feature
    extractor's own defaults say, and an attention mask for layer-norm models alone.

    Raises:
        FormatError: if the feature extractor is of another kind or pads otherwise.
        ConfigError: if a setting is not valid.
    """
    path = folder / FEATURE_FILE
    values: Mapping[str, Any] = {}
    if path.is_file():
        values = storage.read_json_object(path)
    elif (folder / PROCESSOR_FILE).is_file():
        path = folder / PROCESSOR_FILE
        part = storage.read_json_object(path).get("feature_extractor", {})
        values = part if isinstance(part, dict) else {}
    settings = Settings(values=values, source=path)
    kind = values.get("feature_extractor_type", _KIND)
    expected = {"feature_size": 1, "padding_value": 0.0, "padding_side": "right"}
    odd = [
        f"{name} {values[name]!r}"
        for name, value in expected.items()
        if name in values and values[name] != value
    ]
    if kind != _KIND or odd:
        raise FormatError(
            f"{path} asks for input that is not supported: expected a {_KIND} of "
            f"one channel, padded with zeros on the right, found {', '.join([str(kind), *odd])}."
        )
    return InputSpec(
        sample_rate=settings.integer("sampling_rate", SAMPLE_RATE),
        normalize=settings.flag("do_normalize", default=True),
        normalize_epsilon=FEATURE_EPSILON,
        padding="masked",
        attention_mask=settings.flag("return_attention_mask", default=conv_norm == "layer"),
    )


def describe_input(spec: InputSpec) -> dict[str, Any]:
    """Write a feature extractor's settings."""
    return {
        "feature_extractor_type": _KIND,
        "feature_size": 1,
        "sampling_rate": spec.sample_rate,
        "padding_value": 0.0,
        "padding_side": "right",
        "do_normalize": spec.normalize,
        "return_attention_mask": spec.attention_mask,
    }
