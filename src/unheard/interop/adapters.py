"""One network, many languages: an adapter and an output layer for each, made and switched.

Source: Pratap et al. 2023 (MMS), sec. 5.1.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from unheard.errors import CheckpointError, ConfigError, LanguageError, shorten
from unheard.interop import storage
from unheard.interop.bundle import ModelBundle, Network
from unheard.interop.safetensors_store import KINDS
from unheard.interop.stored import Place, StoredAdapter, StoredTensor
from unheard.models.config import CtcConfig
from unheard.models.transformer import BERT_SPREAD
from unheard.text.alphabet import Alphabet

MMS_ADAPTER_DIM = 16
"""Width of the adapters of the published MMS models."""

IN_MEMORY = Path("(in memory)")
"""What stands for the file of weights that have none."""

_KIND_NAMES = {dtype: kind for kind, dtype in KINDS.items()}

_LANGUAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def choose_language(language: str | None, known: Collection[str], *, source: object) -> str:
    """Check the language asked for against those that a model has.

    Args:
        language: as a caller gave it; None when no language was named.
        known: languages of the model.
        source: what to call the model in messages.

    Returns:
        The language, unchanged.

    Raises:
        LanguageError: if there is no such language, naming the closest, or none was named. No
            language stands in for another.
    """
    if language in known:
        return str(language)
    found = (
        f"{len(known)} languages: {shorten(sorted(known), limit=12)}" if known else "no language"
    )
    if language is None:
        raise LanguageError(
            f"{source} writes one language at a time: expected the name of one (`adapter`), got "
            f"none. It has {found}.",
            languages=known,
        )
    close = close_languages(language, known)
    hint = f"the closest are {shorten(close)}" if close else "none is close"
    raise LanguageError(
        f"{source} has no adapter for the language {language!r}: expected one of its {found}; "
        f"{hint}. Names are ISO 639-3 codes, some with a script (azj-script_latin).",
        languages=known,
    )


def close_languages(language: str, known: Collection[str]) -> list[str]:
    """List the names that someone may have meant: another script of the language, a slip."""
    code = language.lower().partition("-")[0]
    same = sorted(name for name in known if name.lower().partition("-")[0] == code)
    alike = difflib.get_close_matches(language.lower(), sorted(known), n=5, cutoff=0.6)
    return list(dict.fromkeys([*same, *alike]))


def check_name(language: str) -> str:
    """Refuse a name that cannot be part of a file's name everywhere.

    Raises:
        ConfigError: if it is empty, too long, or has other characters than letters, digits, "-"
            and "_".
    """
    if not _LANGUAGE.fullmatch(language):
        raise ConfigError(
            f"{language!r} cannot name a language: expected at most 64 letters, digits, hyphens "
            "and underscores, such as kmr or azj-script_latin."
        )
    return language


def with_adapter(bundle: ModelBundle, language: str | None) -> ModelBundle:
    """Switch to another language.

    The network returned shares the memory of every weight outside adapters and output layer with
    the one given, which stays as it is: a switch costs the two to four million numbers of one
    language. The weights come from where the model was loaded from, so that switching away and
    back undoes training that was not stored.

    Args:
        bundle: a model with adapters.
        language: one of `bundle.adapters`.

    Returns:
        The model with the adapter, output layer and alphabet of the language.

    Raises:
        ConfigError: if the model has no adapters, or none for this language.
        CheckpointError: if the adapter is damaged, gone or does not fit the network.
    """
    if not bundle.adapters:
        raise ConfigError(
            f"Cannot switch to the language {language!r}: expected a model with adapters, got one "
            "without. Make one with `new_adapter`."
        )
    language = choose_language(language, bundle.adapters, source="The model")
    adapter = bundle.adapters[language]
    source = f"the adapter {language!r}"
    config = CtcConfig(encoder=bundle.encoder_config, vocab=len(adapter.alphabet))
    if isinstance(bundle.config, CtcConfig):
        config = replace(bundle.config, vocab=len(adapter.alphabet))
    model = storage.build(config, source=source)
    shapes = _language_shapes(model)
    _check_adapter(adapter, shapes, source=source)
    if len(adapter.store.tensors) == len(shapes):
        # Files of this adapter alone; those of the whole model were verified when it was loaded.
        adapter.store.verify()
    weights = storage.read_weights(
        adapter.store,
        adapter.places,
        shapes,
        source=source,
        device=bundle.device,
        dtype=bundle.dtype,
    )
    return replace(
        bundle,
        model=_joined(model, bundle, weights),
        alphabet=adapter.alphabet,
        adapter=language,
    )


def new_adapter(
    bundle: ModelBundle,
    language: str,
    alphabet: Alphabet,
    *,
    generator: torch.Generator,
    adapter_dim: int | None = None,
) -> ModelBundle:
    """Give a model a language that it does not have, ready to be trained.

    The adapter adds nothing to the network until it is trained. The weights of the language are
    in `bundle.adapters` of the result as they are at any time, so that it can be switched away
    from and back to; `save_adapter` stores them.

    Args:
        bundle: any model with an encoder whose norms come first (`norm_first`).
        language: its name, an ISO 639-3 code by custom.
        alphabet: what it is written with.
        generator: draws the weights.
        adapter_dim: width of the adapters of a network that has none yet; 16 by default.

    Returns:
        A CTC model with the new adapter and output layer, which shares the memory of all other
        weights with the one given.

    Raises:
        ConfigError: if the model has the language already or cannot have adapters, or
            `adapter_dim` is not that of its adapters.
    """
    check_name(language)
    if language in bundle.adapters or language == bundle.adapter:
        raise ConfigError(
            f"The model has an adapter for {language!r} already: expected a new language. Switch "
            "to it with `with_adapter`."
        )
    encoder = bundle.encoder_config
    if not encoder.norm_first:
        raise ConfigError(
            "This model cannot have language adapters: expected a network with its norms before "
            "each sub-layer (norm_first), such as the large multilingual ones, got one with its "
            "norms after."
        )
    if adapter_dim is not None and encoder.adapter_dim not in (0, adapter_dim):
        raise ConfigError(
            f"adapter_dim must be that of the model's other adapters, {encoder.adapter_dim}, got "
            f"{adapter_dim}."
        )
    width = encoder.adapter_dim or (MMS_ADAPTER_DIM if adapter_dim is None else adapter_dim)
    if width < 1:
        raise ConfigError(f"adapter_dim must be at least 1, got {width}.")
    encoder = replace(encoder, adapter_dim=width)
    config = CtcConfig(encoder=encoder, vocab=len(alphabet))
    if isinstance(bundle.config, CtcConfig):
        config = replace(bundle.config, encoder=encoder, vocab=len(alphabet))
    model = storage.build(config, source=f"the adapter {language!r}")
    weights = {
        name: _draw(name, shape, generator).to(device=bundle.device, dtype=bundle.dtype)
        for name, shape in _language_shapes(model).items()
    }
    model = _joined(model, bundle, weights)
    adapter = StoredAdapter(
        alphabet=alphabet,
        places={name: Place(name=name) for name in weights},
        store=LiveStore(model, names=weights),
    )
    return replace(
        bundle,
        model=model,
        alphabet=alphabet,
        labels=(),
        adapters=_WithOneMore(bundle.adapters, language, adapter),
        adapter=language,
    )


def is_of_language(name: str) -> bool:
    """Whether a weight of a CTC model with adapters is one language's own."""
    return name.startswith("head.") or ".adapter." in name


class LiveStore:
    """Weights of a network in memory, as they are whenever they are read (a `TensorStore`)."""

    def __init__(self, model: nn.Module, *, names: Collection[str]) -> None:
        # Parameters, not their data: a network that moves to another device keeps the former.
        own = dict(model.named_parameters())
        self._parameters = {name: own[name] for name in names}

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every weight by its name in the network."""
        return {
            name: StoredTensor(
                file=IN_MEMORY, shape=tuple(weight.shape), kind=_KIND_NAMES[weight.dtype]
            )
            for name, weight in self._parameters.items()
        }

    def verify(self) -> None:
        """Do nothing: there is no file."""

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Copy one weight.

        Raises:
            CheckpointError: if `out` is not of its shape and type.
        """
        weight = self._parameters[name].detach()
        if out is None:
            return weight.to(device="cpu", copy=True)
        if out.shape != weight.shape or out.dtype != weight.dtype:
            raise CheckpointError(
                f"{name} cannot be read into the tensor given: expected shape "
                f"{tuple(weight.shape)} and {weight.dtype}, got {tuple(out.shape)} and {out.dtype}."
            )
        return out.copy_(weight)


class _WithOneMore(Mapping[str, StoredAdapter]):
    """Adapters and one besides; the others are still looked into only when they are asked for."""

    def __init__(
        self, others: Mapping[str, StoredAdapter], language: str, adapter: StoredAdapter
    ) -> None:
        self._others, self._language, self._adapter = others, language, adapter

    def __getitem__(self, language: str) -> StoredAdapter:
        """Return the adapter of a language."""
        return self._adapter if language == self._language else self._others[language]

    def __iter__(self) -> Iterator[str]:
        """Give the languages, the new one last."""
        yield from self._others
        yield self._language

    def __len__(self) -> int:
        """Return the number of languages."""
        return len(self._others) + 1


def _language_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that are one language's own."""
    return {
        name: tuple(weight.shape)
        for name, weight in model.state_dict().items()
        if is_of_language(name)
    }


def _joined(model: Network, bundle: ModelBundle, weights: Mapping[str, Tensor]) -> Network:
    """Give a network without memory the base of another, and weights of a language."""
    base = {
        name: weight
        for name, weight in bundle.model.state_dict().items()
        if name.startswith("encoder.") and not is_of_language(name)
    }
    model.load_state_dict({**base, **weights}, strict=True, assign=True)
    return model.train(bundle.model.training)


def _check_adapter(
    adapter: StoredAdapter, shapes: Mapping[str, tuple[int, ...]], *, source: object
) -> None:
    """Refuse an adapter that lacks weights, has others, or has them in other shapes."""
    stored = adapter.store.tensors
    missing = [
        adapter.places[name].name if name in adapter.places else name
        for name in shapes
        if name not in adapter.places or adapter.places[name].name not in stored
    ]
    unexpected = [place.name for name, place in adapter.places.items() if name not in shapes]
    mismatched: list[str] = []
    for name, shape in shapes.items():
        place = adapter.places.get(name)
        if place is None or place.name not in stored:
            continue
        found = stored[place.name].shape
        own = found if place.row is None else found[1:]
        if own != shape or (place.row is not None and not 0 <= place.row < found[0]):
            mismatched.append(f"{place.name}: expected {shape}, found {found}")
        elif stored[place.name].kind not in storage.FLOAT_TYPES:
            mismatched.append(f"{place.name}: expected numbers, found {stored[place.name].kind}")
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"{source} does not fit the network: expected {len(shapes)} tensors, found "
            f"{len(adapter.places)}. It belongs to another model or is incomplete.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Draw one weight of a new language, as `LanguageAdapter` and `CtcModel` start."""
    if name.endswith(("adapter.down.weight", "head.weight")):
        return BERT_SPREAD * torch.randn(shape, generator=generator, device=generator.device)
    start = torch.ones if name.endswith("norm.weight") else torch.zeros
    return start(shape, device=generator.device)
