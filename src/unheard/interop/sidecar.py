"""A small JSON file beside a state dict, with the settings that the state dict cannot hold.

    wav2vec2.pth
    wav2vec2.pth.json       {"heads": 16, "labels": ["-", "|", "E", "T"]}

A file named as the weights with ".json" after it comes first; otherwise `unheard.json` in the same
folder counts. What it says is taken as it is: it overrides what the tensors would suggest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unheard.config import from_dict
from unheard.errors import AlphabetError, ConfigError
from unheard.interop import storage
from unheard.text.alphabet import WORD_BOUNDARY, Alphabet, case_of

FOLDER_FILE = "unheard.json"
"""Settings for the state dicts of a folder that have none of their own."""

RESERVED_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
"""Tokens that a list of labels may hold and that are never text."""


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """Settings of a network that was stored without them; None where nothing is said.

    Attributes:
        heads: of the self-attention.
        norm_first: whether layers have their norms first (pre-norm).
        normalize: whether recordings are shifted and scaled to zero mean and unit variance.
        conv_strides: of the convolutions, first to last.
        labels: outputs of a CTC head in order, or the name of a torchaudio bundle that has the
            same, such as "WAV2VEC2_ASR_BASE_960H".
        blank: the label that is the CTC blank; the first one if not given.
        word_boundary: the label between words; "|" or " " if the labels have one.
        special: further labels that are never text; "<s>" and the like if not given.
        license: kept with the model.

    Raises:
        ConfigError: if heads or a stride is below 1.
    """

    heads: int | None = None
    norm_first: bool | None = None
    normalize: bool | None = None
    conv_strides: tuple[int, ...] | None = None
    labels: tuple[str, ...] | str | None = None
    blank: str | None = None
    word_boundary: str | None = None
    special: tuple[str, ...] | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        if self.heads is not None and self.heads < 1:
            raise ConfigError(f"heads must be at least 1, got {self.heads}.")
        if self.conv_strides is not None and min(self.conv_strides, default=0) < 1:
            raise ConfigError(
                f"conv_strides must be whole numbers of at least 1, got {list(self.conv_strides)}."
            )


def read_sidecar(weights: Path) -> tuple[Sidecar, Path | None]:
    """Read the settings beside a file or folder of weights.

    Returns:
        The settings, empty without a file, and the file.

    Raises:
        FormatError: if the file is not a JSON object.
        ConfigError: if a setting is unknown or of another type.
    """
    folder = weights if weights.is_dir() else weights.parent
    for path in (weights.with_name(f"{weights.name}.json"), folder / FOLDER_FILE):
        if path.is_file():
            data = storage.read_json_object(path)
            try:
                return from_dict(Sidecar, data), path
            except ConfigError as error:
                raise ConfigError(f"{path}: {error}") from error
    return Sidecar(), None


def read_labels(sidecar: Sidecar, *, vocab: int, source: object) -> Alphabet | None:
    """Make an alphabet of the labels that a sidecar lists; None if it lists none.

    Args:
        sidecar: with labels that are not the name of a bundle.
        vocab: outputs of the head.
        source: what to call the file in messages.

    Raises:
        AlphabetError: if there are more or fewer labels than outputs, or they are not an alphabet.
    """
    labels = sidecar.labels
    if labels is None:
        return None
    if isinstance(labels, str) or len(labels) != vocab:
        found = "a name" if isinstance(labels, str) else str(len(labels))
        raise AlphabetError(
            f"The labels in {source} do not fit the network: expected a list of {vocab}, one for "
            f"each output in order, found {found}."
        )
    blank = labels[0] if sidecar.blank is None else sidecar.blank
    boundary = sidecar.word_boundary
    if boundary is None:
        boundary = next((token for token in (WORD_BOUNDARY, " ") if token in labels), None)
    special = sidecar.special
    if special is None:
        special = tuple(token for token in RESERVED_TOKENS if token in labels and token != blank)
    try:
        return make_alphabet(labels, blank=blank, word_boundary=boundary, special=special)
    except AlphabetError as error:
        raise AlphabetError(f"{source}: {error}") from error


def make_alphabet(
    labels: Sequence[str], *, blank: str, word_boundary: str | None, special: Sequence[str]
) -> Alphabet:
    """Make an alphabet whose case is that of its letters."""
    reserved = {blank, word_boundary, *special}
    return Alphabet(
        tokens=tuple(labels),
        blank=blank,
        word_boundary=word_boundary,
        special=tuple(special),
        case=case_of(token for token in labels if token not in reserved),
    )
