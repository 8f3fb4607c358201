"""The folder of an exported model: graph, tokens, and all that is needed to use them.

    folder/
      model.onnx          samples to scores, float32
      model.onnx.data     its weights, if they are beyond what one file can hold
      model.int8.onnx     the same with matrix products in 8 bits, if asked for
      tokens.txt          the symbols, as sherpa-onnx reads them
      model.json          what goes in, what comes out, the alphabet, hashes of the graphs
      README.md           model card

An ONNX file is a program. What is read here is what `unheard export` wrote, and a graph is run only
if its hash is the one written down.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.audio.signal import InputSpec
from unheard.config import from_dict, to_dict
from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError, UnheardError
from unheard.files import sha256_file, write_json_atomic
from unheard.interop import storage
from unheard.interop.onnx import sherpa
from unheard.interop.onnx.network import INPUT, OUTPUT, Outputs, choose_outputs
from unheard.models.config import CtcConfig
from unheard.text.alphabet import Alphabet

FORMAT = "unheard-onnx"
VERSION = 1

DESCRIPTION_FILE = "model.json"
GRAPH_FILE = "model.onnx"
INT8_FILE = "model.int8.onnx"
TOKENS_FILE = "tokens.txt"


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """What goes into a graph, and where its outputs lie in time.

    Attributes:
        sample_rate: of the sound [Hz]; mono.
        normalize_epsilon: before the sound goes in, it is brought to zero mean and unit variance
            over the whole utterance, with this added to the variance; None: samples go in as they
            are, nominally within -1 .. 1.
        min_samples: a shorter utterance gives no frames [samples].
        frame_stride_samples: from one frame to the next [samples].
        frame_offset_samples: of the middle of the first frame [samples].
        input: name of the input, (N, samples) float32.
        output: name of the output, (N, frames, symbols) float32, scores that are not normalised.
    """

    sample_rate: int
    normalize_epsilon: float | None
    min_samples: int
    frame_stride_samples: int
    frame_offset_samples: int
    input: str = INPUT
    output: str = OUTPUT


@dataclass(frozen=True, kw_only=True)
class ExportedFolder:
    """What the description of an exported model says.

    Attributes:
        spec: how to use the graphs.
        alphabet: of their outputs; the blank is 0.
        files: name -> SHA-256 of each graph and of weights beside it.
        provenance: of the model that was exported.
    """

    spec: GraphSpec
    alphabet: Alphabet
    files: dict[str, str]
    provenance: dict[str, Any]


def plan_outputs(alphabet: Alphabet) -> tuple[Outputs, Alphabet]:
    """Choose the outputs of a graph, and give the alphabet that they have.

    The blank comes first. Symbols that are never written are one with it.
    """
    ids = {token: number for number, token in enumerate(alphabet.tokens)}
    hidden = [ids[token] for token in alphabet.special]
    outputs = choose_outputs(alphabet.blank_id, hidden, len(alphabet))
    tokens = (alphabet.blank, *(alphabet.tokens[number] for number in outputs.written_ids))
    return outputs, Alphabet(
        tokens=tokens,
        blank=alphabet.blank,
        word_boundary=alphabet.word_boundary,
        unknown=alphabet.unknown,
        case=alphabet.case,
    )


def plan_input(config: CtcConfig, spec: InputSpec) -> tuple[GraphSpec, float | None]:
    """Say what goes into a graph, and whether it normalises.

    sherpa-onnx normalises by itself, with an epsilon of its own. A model with that epsilon gets
    its sound normalised by whoever calls it; in one with another the graph does it, which changes
    nothing about sound that is normalised already.

    Returns:
        The graph's input, and the epsilon that it normalises with itself, or None.
    """
    encoder = config.encoder
    by_caller = spec.normalize and spec.normalize_epsilon == sherpa.NORMALIZE_EPSILON
    by_graph = spec.normalize and not by_caller
    made = GraphSpec(
        sample_rate=spec.sample_rate,
        normalize_epsilon=spec.normalize_epsilon if by_caller else None,
        min_samples=encoder.receptive_field_samples,
        frame_stride_samples=encoder.stride_samples,
        frame_offset_samples=encoder.receptive_field_samples // 2,
    )
    return made, spec.normalize_epsilon if by_graph else None


def write_description(
    folder: Path,
    *,
    spec: GraphSpec,
    alphabet: Alphabet,
    files: tuple[Path, ...],
    provenance: dict[str, Any],
    measured: dict[str, Any],
) -> None:
    """Write model.json and tokens.txt.

    Args:
        folder: where.
        spec: how to use the graphs.
        alphabet: of their outputs.
        files: graphs and weights, in the folder.
        provenance: of the model.
        measured: how near the graphs come to the model, as plain data.
    """
    (folder / TOKENS_FILE).write_text(sherpa.tokens_text(alphabet), encoding="utf-8", newline="\n")
    write_json_atomic(
        folder / DESCRIPTION_FILE,
        {
            "format": FORMAT,
            "version": VERSION,
            "spec": to_dict(spec),
            # What each output writes, for whoever has no class of ours.
            "writes": [written(alphabet, number) for number in range(len(alphabet))],
            "alphabet": alphabet.to_dict(),
            "measured": measured,
            "files": {path.name: sha256_file(path) for path in files},
            "provenance": provenance,
        },
    )


def written(alphabet: Alphabet, number: int) -> str:
    """Return what an output writes: nothing, a space, or its symbol."""
    if number == alphabet.blank_id:
        return ""
    if number == alphabet.word_boundary_id:
        return " "
    return alphabet.decode([number]) or " "


def read_description(folder: Path) -> ExportedFolder:
    """Read model.json.

    Raises:
        FormatError: if there is none, or it is of another kind or a later version.
        CheckpointError: if a file is missing.
    """
    path = folder / DESCRIPTION_FILE
    if not is_exported_folder(folder):
        raise FormatError(
            f"{folder} is not an exported model: expected a {DESCRIPTION_FILE} of format "
            f'"{FORMAT}" in it. Make one with: unheard export MODEL OUT --to onnx'
        )
    data = storage.read_json_object(path)
    if data.get("version") != VERSION:
        raise FormatError(
            f"{folder} is of another version: expected {VERSION}, found {data.get('version')!r}. "
            "Install a newer release of this package."
        )
    try:
        found = ExportedFolder(
            spec=from_dict(GraphSpec, data["spec"]),
            alphabet=Alphabet.from_dict(data["alphabet"]),
            files=dict(data["files"]),
            provenance=dict(data["provenance"]),
        )
    except KeyError as error:
        raise FormatError(f"{path} lacks the key {error}.") from None
    except (ConfigError, AlphabetError, TypeError, ValueError) as error:
        raise FormatError(f"{path}: {error}") from error
    for name in found.files:
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(
                f"{folder / name} is missing. Copy the folder again, with all its files.",
                missing=[name],
            )
    return found


def is_exported_folder(folder: Path) -> bool:
    """Whether a folder says that it is an exported model."""
    try:
        return storage.read_json_object(folder / DESCRIPTION_FILE).get("format") == FORMAT
    except (OSError, UnheardError):
        return False
