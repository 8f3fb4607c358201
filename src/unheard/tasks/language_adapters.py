"""Fine-tuning of a language adapter: what it starts with, and what of the network learns.

Source: Pratap et al. 2023 (MMS), sec. 5.1; transformers
examples/pytorch/speech-recognition/run_speech_recognition_ctc_adapter.py.
"""

import os
from dataclasses import replace

import torch

from unheard.errors import ConfigError, LanguageError
from unheard.interop import storage
from unheard.interop.adapters import check_name, is_of_language, new_adapter, with_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model
from unheard.models.config import CtcConfig
from unheard.models.ctc import CtcModel
from unheard.tensors import derived_generator
from unheard.text.alphabet import Alphabet
from unheard.training.frozen import freeze


def load_start(start: str | os.PathLike[str], language: str | None) -> ModelBundle:
    """Load a model to begin with, in the language asked for if it has that, else in any.

    Raises:
        UnheardError: as `load_model`.
    """
    if language is None:
        return load_model(start)
    try:
        return load_model(start, adapter=language)
    except LanguageError as error:
        return load_model(start, adapter=next(iter(error.languages), None))


def check_can_adapt(
    start: ModelBundle | None, language: str | None, *, adapter_dim: int, recipe: str
) -> None:
    """Refuse to train an adapter where there is no place for one, before anything is decoded.

    Raises:
        ConfigError: if there is no network or no language, or it cannot have such adapters.
    """
    if start is None or language is None:
        missing = "start" if start is None else "language"
        raise ConfigError(
            f"The recipe {recipe} trains the adapter of a language in a network that stays as it "
            f"is: expected both a model (start) and the name of a language, got no {missing}."
        )
    check_name(language)
    encoder = start.encoder_config
    if not encoder.norm_first:
        raise ConfigError(
            "This model cannot have language adapters: expected a network with its norms before "
            "each sub-layer (norm_first), such as MMS and XLS-R, got one with its norms after. "
            "Train all of it: choose a recipe such as wav2vec2-base-ft-1h."
        )
    if encoder.adapter_dim not in (0, adapter_dim):
        raise ConfigError(
            f"The model has adapters of width {encoder.adapter_dim}: expected the same of the "
            f"recipe, got {adapter_dim}. Give set finetune.adapter_dim={encoder.adapter_dim}."
        )


def adapted(
    start: ModelBundle, language: str, alphabet: Alphabet, network: CtcConfig, *, seed: int
) -> CtcModel:
    """Make a network whose adapter and head for a language learn, and nothing else of it.

    All other weights share their memory with `start`. Of a language that `start` has, the adapter
    goes on, and so do the rows of the head for symbols that both alphabets have.

    Args:
        start: the model, with the language in use if it has it.
        language: its name.
        alphabet: of the transcripts.
        network: what the result shall be: shapes of `start`, dropouts and masks of the training.
        seed: draws what is new.
    """
    known = language in start.adapters or language == start.adapter
    others = {name: one for name, one in start.adapters.items() if name != language}
    nameless = replace(start, adapters=others, adapter=None if known else start.adapter)
    made = new_adapter(
        nameless,
        language,
        alphabet,
        generator=derived_generator(seed, "adapter"),
        adapter_dim=network.encoder.adapter_dim,
    )
    if known:
        _take_over(made, start if start.adapter == language else with_adapter(start, language))
    model = storage.build(network, source=f"the adapter {language!r}")
    if not isinstance(model, CtcModel):
        raise ConfigError(f"An adapter writes: expected a CTC network, got {type(model).__name__}.")
    model.load_state_dict(made.model.state_dict(), assign=True)
    freeze(model, learns=is_of_language)
    return model


def _take_over(made: ModelBundle, known: ModelBundle) -> None:
    """Copy the adapter of a language, and the head's rows of the symbols that are in both."""
    old, new = known.model.state_dict(), made.model.state_dict()
    rows = _same_symbols(known.alphabet, made.alphabet)
    with torch.no_grad():
        for name in filter(is_of_language, new):
            if not name.startswith("head."):
                new[name].copy_(old[name])
            else:
                for before, after in rows:
                    new[name][after].copy_(old[name][before])


def _same_symbols(old: Alphabet | None, new: Alphabet | None) -> list[tuple[int, int]]:
    """Pair the numbers of the symbols that two alphabets share, by duty or by letter."""
    if old is None or new is None:
        return []
    before = {_meaning(old, token): number for number, token in enumerate(old.tokens)}
    return [
        (before[meaning], number)
        for number, token in enumerate(new.tokens)
        if (meaning := _meaning(new, token)) in before
    ]


def _meaning(alphabet: Alphabet, token: str) -> tuple[str, str]:
    """What a token stands for, whatever it is called."""
    duties = {
        alphabet.blank: "blank",
        alphabet.word_boundary: "boundary",
        alphabet.unknown: "unknown",
    }
    duty = duties.get(token, "special" if token in alphabet.special else "letter")
    return (duty, token if duty in ("letter", "special") else "")
