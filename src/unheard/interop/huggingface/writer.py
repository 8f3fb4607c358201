"""Model folders that transformers loads: every weight, no warning, the same numbers."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unheard.errors import AlphabetError, CheckpointError, FormatError
from unheard.files import write_json_atomic, write_text_atomic
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import card, features, keymap, labels, networks, tokenizer
from unheard.interop.huggingface.languages import write_adapters
from unheard.interop.huggingface.reader import MASK_EMBEDDING, is_folder
from unheard.interop.huggingface.settings import CONFIG_FILE
from unheard.models.config import (
    CtcConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "model.safetensors"


def save(bundle: ModelBundle, folder: str | Path) -> Path:
    """Write a model as a folder that transformers loads, whole or not at all.

    transformers normalises with an epsilon of its own (`FEATURE_EPSILON`) and lets padding into
    the statistics of group-norm models: one utterance at a time gives what this package gives.

    A model with adapters is written with all of them, each language in a file of its own.

    Args:
        bundle: any model; of a masked-unit model the encoder is written, as Wav2Vec2Model: its
            head has no counterpart there, which a warning says.
        folder: where; a new or empty folder, or an older folder of transformers.

    Returns:
        The folder.

    Raises:
        CheckpointError: if a weight is not finite.
        AlphabetError: if the alphabet does not fit the head.
        FormatError: if the folder holds something else.
    """
    target = Path(folder)
    architecture, options = networks.describe(bundle.config)
    tensors, dropped = _tensors(bundle, source=f"the model for {target}")
    alphabet = bundle.alphabet
    if isinstance(bundle.config, CtcConfig) and alphabet is not None:
        _check_vocabulary(bundle.config, len(alphabet), target)
    if dropped:
        logger.warning(
            "%s is written as %s, without %s: transformers has no such head.",
            target,
            architecture,
            ", ".join(dropped),
        )
    options |= {
        "architectures": [architecture],
        "dtype": str(bundle.dtype).removeprefix("torch."),
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0 if alphabet is None else alphabet.blank_id,
        **_labels(bundle),
    }
    if _lacks_mask_embedding(bundle):
        del tensors[keymap.transformers_name(MASK_EMBEDDING)]
        options |= {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    if architecture == networks.PLAIN:
        prefix = keymap.BODY_PREFIX
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    with storage.atomic_folder(target, is_ours=is_folder) as temporary:
        storage.write_tensors(temporary / WEIGHTS_FILE, tensors)
        write_json_atomic(temporary / CONFIG_FILE, options)
        extractor = features.describe_input(bundle.input_spec)
        if alphabet is not None:
            extractor["processor_class"] = "Wav2Vec2Processor"
        write_json_atomic(temporary / features.FEATURE_FILE, extractor)
        if alphabet is not None:
            _write_tokenizer(temporary, bundle)
        if bundle.adapter is not None:
            write_adapters(temporary, bundle)
        text = card.write_card(bundle, architecture, dropped)
        if text is not None:
            write_text_atomic(temporary / card.CARD_FILE, text)
    return target


def _tensors(bundle: ModelBundle, *, source: object) -> tuple[dict[str, Tensor], list[str]]:
    """Name the weights as transformers does; also those that it has no place for."""
    weights = bundle.model.state_dict()
    storage.check_finite(weights, source=source)
    tensors: dict[str, Tensor] = {}
    dropped: list[str] = []
    for name, tensor in weights.items():
        if isinstance(bundle.config, MaskedUnitConfig) and not name.startswith("encoder."):
            dropped.append(name)
            continue
        if name == "quantizer.codebook":
            tensor = tensor.flatten(0, 1)[None]  # (groups, entries, size) -> (1, all, size)
        tensors[keymap.transformers_name(name)] = tensor
    return tensors, dropped


def _lacks_mask_embedding(bundle: ModelBundle) -> bool:
    """Whether the mask embedding was in no file, and nothing has trained it since."""
    masking = getattr(bundle.config, "masking", None)
    masked = masking is not None and (masking.time_probability or masking.channel_probability)
    if masked or MASK_EMBEDDING not in bundle.provenance.get("initialised", ()):
        return False
    embedding = bundle.model.encoder.mask_embedding
    drawn = storage.draw(MASK_EMBEDDING, tuple(embedding.shape)).to(embedding)
    return bool((embedding == drawn).all())


def _labels(bundle: ModelBundle) -> dict[str, Any]:
    """Write the names of the classes of a head that has classes."""
    config = bundle.config
    if not isinstance(config, SequenceClassifierConfig | FrameClassifierConfig | SpeakerConfig):
        return {}
    if bundle.labels and len(bundle.labels) != config.classes:
        raise CheckpointError(
            f"The labels do not fit the head: expected {config.classes}, found "
            f"{len(bundle.labels)}."
        )
    if len(set(bundle.labels)) < len(bundle.labels):
        raise FormatError(
            "Two classes have one label: transformers needs a name of its own for each. Rename one."
        )
    return labels.describe_labels(bundle.labels, config.classes)


def _write_tokenizer(folder: Path, bundle: ModelBundle) -> None:
    """Write vocabulary and tokenizer settings; a nested vocabulary where there are languages."""
    alphabet = bundle.alphabet
    if alphabet is None:
        return
    lowers = (
        bundle.provenance.get("do_lower_case") is True
        and bundle.adapter is None
        and tokenizer.can_lower(alphabet)
    )
    vocabulary: Mapping[str, Any] = tokenizer.describe_vocabulary(alphabet, lowers=lowers)
    if bundle.adapter is not None:
        vocabulary = {
            language: tokenizer.describe_vocabulary(
                bundle.adapters[language].alphabet, duties=alphabet
            )
            for language in bundle.adapters
        } | {bundle.adapter: vocabulary}
    write_json_atomic(folder / tokenizer.VOCABULARY_FILE, vocabulary)
    write_json_atomic(
        folder / tokenizer.TOKENIZER_FILE,
        tokenizer.describe_tokenizer(alphabet, lowers=lowers, target=bundle.adapter),
    )
    roles = tokenizer.describe_special_tokens(alphabet)
    write_json_atomic(
        folder / tokenizer.SPECIAL_TOKENS_FILE,
        {role: token for role, token in roles.items() if token is not None},
    )


def _check_vocabulary(config: CtcConfig, tokens: int, target: Path) -> None:
    """Refuse an alphabet that has not one token for each output."""
    if tokens != config.vocab:
        raise AlphabetError(
            f"The alphabet of the model for {target} does not fit its head: expected "
            f"{config.vocab} tokens, found {tokens}."
        )
