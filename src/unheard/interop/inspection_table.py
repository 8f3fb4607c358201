"""An inspection on a terminal.

Names, symbols and notes come from files that nobody vouches for: characters that would steer a
terminal are shown by their numbers.
"""

import io
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from unheard.errors import shorten
from unheard.interop.inspection import Inspection, MappedTensor
from unheard.models.config import EncoderConfig

_WIDEST = 110
"""Columns that text is set in where there is no terminal."""

_SHOWN_LANGUAGES = 40

_SAID_ABOVE = ("licence", "license", "format", "architecture", "initialised")
"""Keys of the provenance that have a row of their own."""

NETWORK_TITLES = {
    "ctc": "recogniser (CTC)",
    "pretraining": "pre-trained, with the heads of wav2vec 2.0",
    "masked_units": "pre-trained, with a head over units",
    "encoder": "encoder without a head",
    "sequence_classifier": "classifier of utterances",
    "frame_classifier": "classifier of frames",
    "speaker": "speaker vectors",
}


def lay_out(inspection: Inspection) -> str:
    """Return the page that `unheard inspect` prints."""
    on_terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size((_WIDEST, 24)).columns if on_terminal else _WIDEST
    text = _render(_facts(inspection), columns=columns, colour=on_terminal)
    if inspection.tensors is not None:
        # One tensor a line, whatever its name: for grep, and to be copied from a terminal.
        text += "\n" + _render(_map(inspection.tensors), columns=10_000, colour=on_terminal)
    return "\n".join(line.rstrip() for line in text.splitlines())


def printable(text: str) -> str:
    """Show what a terminal would obey, or show as nothing, by its number."""
    return "".join(
        f"<U+{ord(character):04X}>"
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else character
        for character in text
    )


def show_token(token: str) -> str:
    """Show one symbol of an alphabet: spaces by their number, a combining mark on a circle."""
    if token.isspace():
        return "".join(f"<U+{ord(character):04X}>" for character in token)
    shown = printable(token)
    if unicodedata.combining(shown[0]) or unicodedata.category(shown[0]).startswith("M"):
        return f"\N{DOTTED CIRCLE}{shown}"
    return shown


def show_bytes(size: int) -> str:
    """Write a size with a unit, in powers of a thousand."""
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _facts(inspection: Inspection) -> Table:
    """All facts, one a row."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def row(title: str, value: str | Text) -> None:
        table.add_row(Text(title), Text(printable(value)) if isinstance(value, str) else value)

    row("model", inspection.source)
    row("format", f"{inspection.format}, {inspection.architecture}")
    row("network", NETWORK_TITLES.get(inspection.network, inspection.network))
    row("licence", inspection.licence or "the files do not say")
    row("", "")
    types = " and ".join(inspection.dtypes) or "no type"
    files = "1 file" if inspection.files == 1 else f"{inspection.files} files"
    row(
        "weights",
        f"{inspection.parameters:,} parameters in {types}; "
        f"{show_bytes(inspection.size_bytes)} in {files}",
    )
    width = max(len(f"{count:,}") for count in inspection.parts.values())
    for part, count in inspection.parts.items():
        row(f"  {part}", f"{count:>{width},}")
    row("", "")
    for title, value in _encoder_rows(inspection.encoder):
        row(title, value)
    spec = inspection.input_spec
    stride, seen = inspection.frame_stride_samples, inspection.receptive_field_samples
    row(
        "frames",
        f"every {1000 * stride / spec.sample_rate:g} ms ({stride} samples), each sees "
        f"{1000 * seen / spec.sample_rate:g} ms ({seen} samples)",
    )
    row("", "")
    normalised = (
        f"each utterance to zero mean and unit variance (epsilon {spec.normalize_epsilon:g})"
        if spec.normalize
        else "as it comes, not normalised"
    )
    row("hears", f"{spec.sample_rate:,} Hz, {normalised}")
    row("padding", _padding(inspection))
    row("", "")
    _writing_rows(inspection, row)
    _remark_rows(inspection, row)
    return table


def _encoder_rows(encoder: EncoderConfig) -> list[tuple[str, str]]:
    """The shape of the encoder in words."""
    channels = {layer.channels for layer in encoder.conv_layers}
    width = f"{min(channels)}" if len(channels) == 1 else f"{min(channels)} to {max(channels)}"
    norm = "one group norm over time" if encoder.conv_norm == "group" else "layer norms"
    return [
        (
            "encoder",
            f"{encoder.layers} layers of {encoder.dim}, {encoder.heads} heads, feed-forward "
            f"{encoder.ffn_dim}, norms {'before' if encoder.norm_first else 'after'} each part",
        ),
        (
            "convolutions",
            f"{len(encoder.conv_layers)} of {width} channels, {norm}, "
            f"{'with' if encoder.conv_bias else 'without'} bias",
        ),
    ]


def _padding(inspection: Inspection) -> str:
    """The padding policy in words."""
    spec = inspection.input_spec
    if spec.padding == "masked":
        return "masked: a result does not depend on what it was batched with"
    attends = "ignored by" if spec.attention_mask else "attended to by"
    return f"zeros, as the original: part of the statistics, {attends} the Transformer"


def _writing_rows(inspection: Inspection, row: Any) -> None:
    """The symbols, classes and languages of the head."""
    alphabet = inspection.alphabet
    if alphabet is not None:
        case = {"keep": "case as given", "lower": "lower case", "upper": "upper case"}
        duties = [f"blank {show_token(alphabet.blank)}"]
        if alphabet.word_boundary is not None:
            duties.append(f"word boundary {show_token(alphabet.word_boundary)}")
        if alphabet.unknown is not None:
            duties.append(f"unknown {show_token(alphabet.unknown)}")
        row("alphabet", f"{len(alphabet)} symbols, {case[alphabet.case]}; {', '.join(duties)}")
        row("", Text("  ".join(map(show_token, alphabet.tokens)), style="cyan"))
    elif inspection.network == "ctc":
        row("alphabet", "none in the files: emissions can be had, text cannot")
    if inspection.labels:
        row("labels", f"{len(inspection.labels)}: {shorten(inspection.labels, limit=20)}")
    if inspection.adapters:
        listed = shorten(inspection.adapters, limit=_SHOWN_LANGUAGES)
        row("languages", f"{len(inspection.adapters)}: {listed}")
        row("described for", inspection.adapter or "no language")


def _remark_rows(inspection: Inspection, row: Any) -> None:
    """What is odd, and where the model came from."""
    if inspection.initialised:
        row("not in the files", f"{shorten(inspection.initialised)}; drawn afresh when loaded")
    reasons: dict[str, list[str]] = {}
    for name, reason in inspection.ignored.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        row("left out", f"{shorten(names, limit=3)}: {reason}")
    facts = {
        key: value
        for key, value in inspection.provenance.items()
        if value not in (None, inspection.source) and key not in _SAID_ABOVE
    }
    if facts:
        row("", "")
        row("where from", "")
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        row(f"  {key.replace('_', ' ')}", text if len(text) <= 300 else f"{text[:299]}…")


def _map(tensors: Sequence[MappedTensor]) -> Table:
    """Every weight with its source."""
    several = len({tensor.file for tensor in tensors if tensor.file}) > 1
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    titles = ["tensor here", "in the file", "shape", "type", *(["file"] if several else [])]
    for title in titles:
        table.add_column(title, overflow="fold", no_wrap=title in ("shape", "type"))
    for tensor in tensors:
        table.add_row(*(Text(printable(cell)) for cell in _cells(tensor, with_file=several)))
    return table


def _cells(tensor: MappedTensor, *, with_file: bool) -> Iterable[str]:
    """The row of one weight."""
    shape = " x ".join(map(str, tensor.shape)) or "1"
    if tensor.source is None:
        return (tensor.name, "(none: drawn afresh)", shape, "", *([""] if with_file else []))
    source = tensor.source if tensor.row is None else f"{tensor.source}[{tensor.row}]"
    kept = tensor.stored_shape if tensor.row is None else (tensor.stored_shape or ())[1:]
    if kept is not None and kept != tensor.shape:
        shape += f" (there {' x '.join(map(str, kept))})"
    return (
        tensor.name,
        source,
        shape,
        tensor.dtype or "",
        *([tensor.file or ""] if with_file else []),
    )


def _render(content: Any, *, columns: int, colour: bool) -> str:
    """Set content as text, with colours where the terminal shows them."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=columns,
        force_terminal=colour,
        no_color=bool(os.environ.get("NO_COLOR")) or None,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(content)
    return stream.getvalue()
