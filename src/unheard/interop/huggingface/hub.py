"""Models on the Hugging Face hub: fetched by name, without running anything of theirs."""

from pathlib import Path

from unheard.errors import ConfigError, MissingExtraError
from unheard.interop.huggingface import features, language_model, tokenizer, weights
from unheard.interop.huggingface.settings import CONFIG_FILE

TEXT_FILES = (
    CONFIG_FILE,
    tokenizer.VOCABULARY_FILE,
    tokenizer.ADDED_TOKENS_FILE,
    tokenizer.TOKENIZER_FILE,
    tokenizer.SPECIAL_TOKENS_FILE,
    features.FEATURE_FILE,
    features.PROCESSOR_FILE,
)
"""Files of settings that decide what a model computes or writes."""

HUB_FILES = (
    *TEXT_FILES,
    "README.md",
    language_model.ALPHABET_FILE,
    f"{language_model.FOLDER}/{language_model.ATTRIBUTES_FILE}",
    *weights.SAFETENSORS_FILES,
    "model-*-of-*.safetensors",
)
"""All that is fetched of a repository, and an adapter if one is asked for."""

PICKLES = (*weights.PICKLE_FILES, "pytorch_model-*-of-*.bin")
"""Fetched only where a repository has no safetensors."""


def fetch(name: str, *, adapter: str | None = None) -> tuple[Path, dict[str, str]]:
    """Fetch a model from the Hugging Face hub, or find it in the local cache.

    Only files of known names come (`HUB_FILES`, or `PICKLES` where there is nothing better); no
    code of a repository ever runs.

    Args:
        name: "organisation/model", optionally with "@revision".
        adapter: the language whose adapter comes too.

    Returns:
        The local folder, and what to remember of where it came from, with the exact commit.

    Raises:
        MissingExtraError: if huggingface_hub is not installed.
        ConfigError: if there is no such model or it cannot be reached.
    """
    repository, _, revision = name.partition("@")
    if not is_hub_name(repository):
        raise ConfigError(
            f"{name!r} is not a name on the Hugging Face hub: expected organisation/model or "
            "organisation/model@revision."
        )
    patterns = [*HUB_FILES]
    if adapter is not None and _is_plain(adapter):
        patterns.append(f"adapter.{adapter}.safetensors")
    folder = _download(repository, revision or None, patterns)
    lacking: list[str] = []
    if not any((folder / file).is_file() for file in weights.SAFETENSORS_FILES):
        lacking += PICKLES
    if len(patterns) > len(HUB_FILES) and not (folder / patterns[-1]).is_file():
        lacking.append(f"adapter.{adapter}.bin")
    if lacking:
        folder = _download(repository, folder.name, lacking)
    return folder, {"source": f"hf:{repository}", "revision": folder.name}


def is_hub_name(name: str) -> bool:
    """Whether a name has the form organisation/model of the hub."""
    parts = name.split("/")
    return len(parts) == 2 and all(
        part
        and part[0].isalnum()
        and all(c.isascii() and (c.isalnum() or c in "-_.") for c in part)
        for part in parts
    )


def _is_plain(language: str) -> bool:
    """Whether the name of a language holds nothing that a pattern of files would read otherwise."""
    return all(c.isascii() and (c.isalnum() or c in "-_") for c in language)


def _download(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Fetch the files of some patterns; return their folder, named by its commit."""
    try:
        import huggingface_hub
    except (ImportError, OSError):
        raise MissingExtraError(
            "huggingface_hub", extra="hub", purpose=f"Fetching {repository}"
        ) from None
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns
            )
        )
    # The client's errors derive from OSError or ValueError, those of its transport from neither.
    except Exception as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ConfigError(
            f"{repository} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {first_line}). Expected a model folder of that name here, "
            "or a public model and a network. Check the name and the connection, or give a local "
            "folder."
        ) from error
