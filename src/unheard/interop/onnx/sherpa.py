"""What sherpa-onnx makes of an exported model: its list of tokens, and where it differs from us.

sherpa-onnx runs speech models on phones, in browsers and small computers. The place in it where a
network of this family fits is the one for Omnilingual ASR: samples go in, scores come out, output 0
is the blank. It brings every recording to zero mean and unit variance first.

Source: sherpa-onnx csrc/offline-omnilingual-asr-ctc-model.cc, offline-recognizer-ctc-impl.h and
symbol-table.cc @ 634265c; what is said here was tried with sherpa-onnx 2.0.1.
"""

from unheard.audio.signal import SAMPLE_RATE, InputSpec
from unheard.errors import shorten
from unheard.models.config import EncoderConfig
from unheard.text.alphabet import Alphabet

NORMALIZE_EPSILON = 1e-5
"""What sherpa-onnx adds to the variance when it normalises."""

MODEL_TYPE = "omnilingual-asr"
"""What its own exports for this place say they are."""

_BLANK = "<blk>"
"""The first of the names that it knows the blank by."""
_SPACE = "▁"
"""What it prints a space for, at the start of a token."""
_NOT_PRINTED = ("SIL", "</s>")
"""Tokens that it leaves out of texts."""
_STRIDE_SECONDS = 0.02
"""Time from one frame to the next that it assumes."""
_HIGHEST_OF_BYTE_PIECES = 0xC6
"""Highest byte in the tokens of byte pairs that it undoes."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def tokens_text(alphabet: Alphabet) -> str:
    """Return tokens.txt: a symbol and its number on each line.

    Args:
        alphabet: of the graph's outputs: the blank is 0.
    """
    symbols = [_symbol(alphabet, token) for token in alphabet.tokens]
    highest = max(byte for symbol in symbols for byte in symbol.lstrip(_SPACE).encode())
    if highest == _HIGHEST_OF_BYTE_PIECES:
        # The list would be taken for one of pieces of bytes, and texts garbled. A line that no
        # output has the number of prevents it.
        symbols.append(_REPLACEMENT)
    return "".join(f"{symbol} {number}\n" for number, symbol in enumerate(symbols))


def refusal(spec: InputSpec, encoder: EncoderConfig) -> str | None:
    """Say why sherpa-onnx would not write what the model writes; None if it would."""
    if spec.sample_rate != SAMPLE_RATE:
        return (
            f"it plays every recording to the network at {SAMPLE_RATE} Hz, and this one was "
            f"trained at {spec.sample_rate} Hz"
        )
    if not spec.normalize and encoder.conv_norm != "group":
        return (
            "it brings every recording to unit variance, and this network was trained without and "
            "has no norm over time that would undo it"
        )
    return None


def remarks(alphabet: Alphabet, spec: InputSpec, encoder: EncoderConfig) -> tuple[str, ...]:
    """Say where what sherpa-onnx prints may differ from what the model writes.

    Args:
        alphabet: of the graph's outputs.
        spec: of the model.
        encoder: of the model.
    """
    found = []
    plain = {
        token
        for token in alphabet.tokens
        if token not in (alphabet.blank, alphabet.word_boundary, alphabet.unknown)
    }
    if lost := sorted(plain & set(_NOT_PRINTED)):
        found.append(f"it does not print the symbols {shorten(lost)}")
    if spaced := sorted(token for token in plain if token.startswith(_SPACE)):
        found.append(f"it prints a space for the first character of {shorten(spaced)}")
    if not spec.normalize:
        found.append(
            "it normalises recordings, which this network was trained without; its first norm "
            "undoes that, but for a constant that matters in very soft recordings"
        )
    if encoder.stride_samples != round(_STRIDE_SECONDS * spec.sample_rate):
        seconds = encoder.stride_samples / spec.sample_rate
        found.append(
            f"its times must be multiplied by {seconds / _STRIDE_SECONDS:g}: it takes frames to be "
            f"{_STRIDE_SECONDS * 1000:g} ms apart, and they are {seconds * 1000:g} ms"
        )
    return tuple(found)


def _symbol(alphabet: Alphabet, token: str) -> str:
    """Spell a token as sherpa-onnx reads it."""
    if token == alphabet.blank:
        return _BLANK
    if token == alphabet.unknown:
        return _REPLACEMENT
    return _SPACE if token == alphabet.word_boundary or token.isspace() else token
