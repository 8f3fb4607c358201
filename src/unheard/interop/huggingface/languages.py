"""Models with an adapter and an output layer for each language (MMS): which there are, and where.

A folder has a nested vocab.json, one file `adapter.<language>.safetensors` (or .bin) a language,
and in its own weights the adapter of the language that its tokenizer starts with.
Source: Pratap et al. 2023 (MMS), sec. 5.1; transformers modeling_wav2vec2.py `load_adapter`, 5.23.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unheard.errors import CheckpointError, ConfigError, LanguageError, shorten
from unheard.interop import adapters, storage
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import keymap
from unheard.interop.huggingface.settings import Settings
from unheard.interop.huggingface.tokenizer import Tokenizer
from unheard.interop.huggingface.weights import LazyStore, StackedStore, open_files
from unheard.interop.stored import Place, StoredAdapter, TensorStore

ADAPTER_FILE = re.compile(r"adapter\.(?P<language>.+)\.(?P<form>safetensors|bin)")

STACKED_AT_ONCE = 64
"""Languages read together where they are stacked: about 600 MB of adapters of MMS-1B."""

HEAD = "lm_head.weight"
"""Its rows are the tokens of a language."""


@dataclass(frozen=True, kw_only=True)
class Languages:
    """The languages of a folder.

    Attributes:
        folder: the model folder.
        own: the language of the adapter among the model's own weights, if the folder says.
        named: every language that has a vocabulary or a file, in order.
        files: language -> its file.
    """

    folder: Path
    own: str | None
    named: tuple[str, ...]
    files: Mapping[str, Path]

    def choose(self, adapter: str | None) -> str | None:
        """Decide which language to read.

        Returns:
            The language, or None for a model without languages.

        Raises:
            ConfigError: if none was named and there are several, or there is none of that name.
        """
        if not self.named:
            if adapter is not None:
                raise ConfigError(
                    f"{self.folder} has no adapter {adapter!r}: expected a model with an adapter "
                    "for each language, found one without. Leave the language out."
                )
            return None
        if adapter is None and len(self.named) == 1:
            adapter = self.named[0]
        return self._stored(adapters.choose_language(adapter, self.named, source=self.folder))

    def _stored(self, language: str) -> str:
        """Return a language that has weights.

        Raises:
            ConfigError: if it has a vocabulary and nothing else.
        """
        if language in self.files or language == self.own:
            return language
        stored = sorted(self.files)
        raise LanguageError(
            f"{self.folder} has a vocabulary for {language!r} and no weights: expected a file "
            f"adapter.{language}.safetensors, found weights for {shorten(stored) or 'none'}. "
            "Fetch the file, or name the language of the model's own weights as target_lang in "
            "its tokenizer_config.json.",
            languages=[*stored, *([] if self.own is None else [self.own])],
        )


def find_languages(folder: Path, settings: Settings, tokenizer: Tokenizer | None) -> Languages:
    """List the languages of a folder; none for most models.

    Only the folder itself is searched for files: no name in a file of settings becomes a path.
    """
    files = adapter_files(folder)
    vocabularies = () if tokenizer is None else tokenizer.languages
    has_adapters = settings.values.get("adapter_attn_dim") is not None
    if not vocabularies and not (has_adapters and files):
        return Languages(folder=folder, own=None, named=(), files={})
    target = None if tokenizer is None else tokenizer.target
    if target is None and isinstance(settings.values.get("target_lang"), str):
        target = settings.values["target_lang"]
    if target is None and len(vocabularies) == 1 and not files:
        target = vocabularies[0]
    named = {*vocabularies, *files}
    if target is not None:
        named.add(target)
    return Languages(folder=folder, own=target, named=tuple(sorted(named)), files=files)


def adapter_files(folder: Path) -> dict[str, Path]:
    """Find the files of adapters: language -> file, safetensors before pickles."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".safetensors"):
        match = ADAPTER_FILE.fullmatch(path.name)
        if match and path.is_file():
            files.setdefault(match["language"], path)
    return dict(sorted(files.items()))


def overlay(store: TensorStore, languages: Languages, language: str) -> TensorStore:
    """Put the adapter and output layer of a language over those among a model's own weights.

    Raises:
        CheckpointError: if the language's file is damaged, or lacks what others have or has more.
    """
    path = languages.files.get(language)
    if path is None:
        return store
    over = open_files([path])
    _check_names(path, over, base=store)
    return StackedStore([store, over])


def _check_names(path: Path, over: TensorStore, *, base: TensorStore) -> None:
    """Refuse the file of a language that has other tensors than one among a model's own weights.

    Raises:
        CheckpointError: with the names.
    """
    expected = [name for name in base.tensors if _has_language(name)]
    missing = [name for name in expected if name not in over.tensors]
    unexpected = [name for name in over.tensors if name not in expected]
    if missing or unexpected:
        raise CheckpointError(
            f"{path} does not fit the model beside it: expected {len(expected)} tensors of "
            f"adapters and output layer, found {len(over.tensors)}. Fetch it again.",
            missing=missing,
            unexpected=unexpected,
        )


def _has_language(name: str) -> bool:
    """Whether a weight in the words of transformers belongs to one language."""
    return name.startswith("lm_head.") or ".adapter_layer." in name


class StoredAdapters(Mapping[str, StoredAdapter]):
    """The adapters of a folder, each looked into when it is asked for.

    One damaged vocabulary or file among a thousand does not keep the others from being used.

    Args:
        languages: which there are; those without weights are left out.
        tokenizer: their vocabularies.
        names: of the weights of a language in our network.
        base: the model's own weights.
    """

    def __init__(
        self,
        languages: Languages,
        tokenizer: Tokenizer,
        *,
        names: tuple[str, ...],
        base: TensorStore,
    ) -> None:
        has_one = None in tokenizer.vocabularies
        self._languages = languages
        self._tokenizer = tokenizer
        self._names = names
        self._base = base
        self._stored = tuple(
            name
            for name in languages.named
            if (name in tokenizer.vocabularies or (has_one and len(languages.named) == 1))
            and (name in languages.files or name == languages.own)
        )
        self._made: dict[str, StoredAdapter] = {}

    def __getitem__(self, language: str) -> StoredAdapter:
        """Look into one adapter.

        Raises:
            KeyError: if there is none.
            UnheardError: if its file or its vocabulary is damaged.
        """
        if language not in self._stored:
            raise KeyError(language)
        if language not in self._made:
            self._made[language] = self._make(language)
        return self._made[language]

    def __iter__(self) -> Iterator[str]:
        """Give the languages in order."""
        return iter(self._stored)

    def __len__(self) -> int:
        """Return the number of languages that have weights and a vocabulary."""
        return len(self._stored)

    def _make(self, language: str) -> StoredAdapter:
        """Find weights and alphabet of a language."""
        path = self._languages.files.get(language)
        store = self._base if path is None else LazyStore(lambda: open_files([path]))
        if path is not None:
            _check_names(path, store, base=self._base)
        places = keymap.names_in_file(self._names, store.tensors)
        shape = store.tensors[HEAD].shape if HEAD in store.tensors else (0,)
        nested = language in self._tokenizer.vocabularies
        return StoredAdapter(
            alphabet=self._tokenizer.alphabet(language if nested else None, vocab=shape[0]),
            places={name: Place(name=place) for name, place in places.items()},
            store=store,
        )


def adapter_file(folder: Path, language: str) -> Path:
    """Name the file of a language.

    Raises:
        ConfigError: if the name of the language cannot be part of a file's name.
    """
    return folder / f"adapter.{adapters.check_name(language)}.safetensors"


def write_adapters(folder: Path, bundle: ModelBundle) -> list[Path]:
    """Write adapter and output layer of every language, each into a file of its own.

    The language in use is written as the network has it, the others as they are stored. Languages
    stacked in one tensor are read some at a time, so that memory is bounded and no file is read
    once for each of a thousand languages.

    Returns:
        The files.

    Raises:
        CheckpointError: if a stored adapter is damaged.
        ConfigError: if the name of a language cannot be part of a file's name.
    """
    written: list[Path] = []
    if bundle.adapter is not None:
        own = {
            name: weight
            for name, weight in bundle.model.state_dict().items()
            if adapters.is_of_language(name)
        }
        written.append(_write(folder, bundle.adapter, own))
    others = [language for language in bundle.adapters if language != bundle.adapter]
    for start in range(0, len(others), STACKED_AT_ONCE):
        languages = others[start : start + STACKED_AT_ONCE]
        for language, weights in _read_together(bundle, languages).items():
            written.append(_write(folder, language, weights))
    return written


def _write(folder: Path, language: str, weights: Mapping[str, Tensor]) -> Path:
    """Write the file of one language."""
    path = adapter_file(folder, language)
    storage.write_tensors(
        path, {keymap.transformers_name(name): weight for name, weight in weights.items()}
    )
    return path


def _read_together(bundle: ModelBundle, languages: Sequence[str]) -> dict[str, dict[str, Tensor]]:
    """Read some languages, each tensor once that several are stacked in."""
    stacks: dict[tuple[int, str], list[tuple[str, str, int]]] = {}
    stores: dict[int, TensorStore] = {}
    result: dict[str, dict[str, Tensor]] = {}
    for language in languages:
        adapter = bundle.adapters[language]
        stores[id(adapter.store)] = adapter.store
        if len(adapter.store.tensors) == len(adapter.places):
            # Files of this language alone; those of the whole model were verified at loading.
            adapter.store.verify()
        result[language] = {}
        for name, place in adapter.places.items():
            if place.row is None:
                weight = adapter.store.read(place.name)
                result[language][name] = weight.to(bundle.dtype)
            else:
                key = (id(adapter.store), place.name)
                stacks.setdefault(key, []).append((language, name, place.row))
    for (store, stored), wanted in stacks.items():
        stack = stores[store].read(stored)
        for language, name, row in wanted:
            result[language][name] = stack[row].to(bundle.dtype, copy=True)
    for language, weights in result.items():
        storage.check_finite(weights, source=f"the adapter {language!r}")
    return result
