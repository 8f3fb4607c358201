"""tokens.txt as sherpa-onnx reads it: its rules, written down here once more, print our texts."""

import random
import unicodedata
from dataclasses import replace

import pytest

from unheard.audio.signal import InputSpec
from unheard.interop.onnx import sherpa
from unheard.interop.onnx.folder import plan_input, plan_outputs, written
from unheard.models.config import ConvLayer, CtcConfig, EncoderConfig
from unheard.text.alphabet import Alphabet

LATIN = Alphabet(tokens=("<blank>", "|", "'", "a", "b", "ŋ"), blank="<blank>", word_boundary="|")
OTHERS = Alphabet(
    tokens=("<s>", "a", "<pad>", "</s>", "<unk>", " ", "\u1200", "\u0301", "sch"),
    blank="<pad>",
    word_boundary=" ",
    unknown="<unk>",
    special=("<s>", "</s>"),
)
HOOKED = Alphabet(tokens=("-", "|", "a", "ƙ"), blank="-", word_boundary="|")
NO_SPACES = Alphabet(tokens=("ก", "<blank>", "า"), blank="<blank>")


def read_tokens(text: str) -> dict[int, str]:
    """symbol-table.cc: cut at white space; a line with a number alone is a space."""
    found: dict[int, str] = {}
    for line in text.split("\n")[:-1]:
        parts = line.strip(" \t\r\f\v").split(" ")
        symbol, number = parts if len(parts) == 2 else (" ", parts[0])
        found.setdefault(int(number), symbol)
    return found


def is_byte_pieces(symbols: dict[int, str]) -> bool:
    """symbol-table.cc: no byte above C6 but in leading ▁, and C6 itself is there."""
    largest = [max(symbol.lstrip("▁").encode(), default=0) for symbol in symbols.values()]
    return max(largest) == 0xC6


def print_text(ids: list[int], tokens: str) -> str:
    """offline-recognizer-ctc-impl.h: symbols one after the other, one leading space removed."""
    symbols = read_tokens(tokens)
    assert not is_byte_pieces(symbols)
    shown = [symbols[number] for number in ids if symbols[number] not in ("SIL", "</s>")]
    text = "".join(" " + one[1:] if one.startswith("▁") else one for one in shown)
    return text.removeprefix(" ")


@pytest.mark.parametrize("alphabet", [LATIN, OTHERS, HOOKED, NO_SPACES])
def test_texts_are_ours_but_for_spaces(alphabet: Alphabet) -> None:
    outputs, exported = plan_outputs(alphabet)
    tokens = sherpa.tokens_text(exported)
    assert tokens.startswith("<blk> 0\n")
    place = {number: 1 + place for place, number in enumerate(outputs.written_ids)}
    draw = random.Random(0)
    for _ in range(300):
        best = draw.choices(range(len(alphabet)), k=draw.randrange(40))
        ours = alphabet.decode(alphabet.collapse(best))
        path = [place.get(number, 0) for number in best]
        theirs = print_text(exported.collapse(path), tokens)
        assert " ".join(unicodedata.normalize("NFC", theirs).split()) == ours
        assert exported.decode(exported.collapse(path)) == ours
        joined = "".join(written(exported, number) for number in exported.collapse(path))
        assert " ".join(unicodedata.normalize("NFC", joined).split()) == ours


def test_the_list_is_plain_to_read() -> None:
    assert sherpa.tokens_text(LATIN) == "<blk> 0\n▁ 1\n' 2\na 3\nb 4\nŋ 5\n"


def test_letters_whose_highest_byte_is_c6_are_not_taken_for_bytes() -> None:
    plain = dict(enumerate(HOOKED.tokens[2:]))
    assert is_byte_pieces(plain)
    lines = sherpa.tokens_text(HOOKED).splitlines()
    assert len(lines) == len(HOOKED) + 1
    assert lines[-1] == "\N{REPLACEMENT CHARACTER} 4"
    assert len(sherpa.tokens_text(LATIN).splitlines()) == len(LATIN)


def test_what_is_printed_otherwise_is_said() -> None:
    encoder, spec = EncoderConfig(), InputSpec()
    assert sherpa.remarks(LATIN, spec, encoder) == ()
    odd = Alphabet(tokens=("-", "SIL", "▁a", "b"), blank="-")
    lost, spaced = sherpa.remarks(odd, spec, encoder)
    assert "does not print the symbols SIL" in lost
    assert "▁a" in spaced
    (remark,) = sherpa.remarks(LATIN, replace(spec, normalize=False), encoder)
    assert "normalises" in remark
    slow = replace(encoder, conv_layers=(ConvLayer(channels=8, kernel=10, stride=640),))
    (remark,) = sherpa.remarks(LATIN, spec, slow)
    assert "multiplied by 2" in remark
    assert "40 ms" in remark


def test_what_it_cannot_run_is_refused_with_the_reason() -> None:
    encoder, spec = EncoderConfig(), InputSpec()
    assert sherpa.refusal(spec, encoder) is None
    assert sherpa.refusal(replace(spec, normalize=False), encoder) is None
    assert "8000 Hz" in (sherpa.refusal(replace(spec, sample_rate=8000), encoder) or "")
    layer = replace(encoder, conv_norm="layer")
    assert sherpa.refusal(spec, layer) is None
    assert "unit variance" in (sherpa.refusal(replace(spec, normalize=False), layer) or "")


def test_the_graph_normalises_where_sherpa_would_do_it_otherwise() -> None:
    config = CtcConfig(encoder=EncoderConfig(), vocab=3)
    by_caller, graph = plan_input(config, InputSpec(normalize_epsilon=1e-5))
    assert (by_caller.normalize_epsilon, graph) == (1e-5, None)
    by_graph, graph = plan_input(config, InputSpec(normalize_epsilon=1e-7))
    assert (by_graph.normalize_epsilon, graph) == (None, 1e-7)
    neither, graph = plan_input(config, InputSpec(normalize=False))
    assert (neither.normalize_epsilon, graph) == (None, None)
    assert (neither.min_samples, neither.frame_stride_samples, neither.frame_offset_samples) == (
        400,
        320,
        200,
    )
