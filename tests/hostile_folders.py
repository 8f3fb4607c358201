"""Model folders that lie or are broken: how each is made, and in which words it is refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tests.tiny_models import LETTERS, tiny_ctc

from unheard.interop.huggingface import writer
from unheard.interop.native import save_model

WEIGHTS = "model.safetensors"

Case = tuple[Callable[[Path], object], str, str]
"""What spoils a sound folder, the error, and a pattern of its message."""


def sound(folder: Path) -> Path:
    """Write a folder of transformers with nothing wrong."""
    return writer.save(tiny_ctc(), folder)


def native(folder: Path) -> Path:
    """Write a folder of our own with nothing wrong."""
    return save_model(tiny_ctc(), folder)


# ------------------------------------------------------------------------------ weights


def split(folder: Path) -> tuple[dict[str, Any], bytes]:
    """Take a safetensors file apart: its header, its numbers."""
    data = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(folder: Path, header: bytes, body: bytes, *, length: int | None = None) -> None:
    """Put a safetensors file together, as wrong as it shall be."""
    stated = struct.pack("<Q", len(header) if length is None else length)
    (folder / WEIGHTS).write_bytes(stated + header + body)


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change the header of the weights."""

    def spoil(folder: Path) -> None:
        table, body = split(folder)
        change(table)
        join(folder, json.dumps(table).encode(), body)

    return spoil


def length(stated: int, *, size: int = 0) -> Callable[[Path], None]:
    """State a length of the header; make the file as long as `size` without taking the disk."""

    def spoil(folder: Path) -> None:
        table, body = split(folder)
        join(folder, json.dumps(table).encode(), body, length=stated)
        if size:
            with (folder / WEIGHTS).open("r+b") as file:
                file.truncate(size)

    return spoil


def not_json(folder: Path) -> None:
    _, body = split(folder)
    join(folder, b"{'weights': 1}", body)


def overlap(table: dict[str, Any]) -> None:
    one, other = [name for name in table if name.endswith("layer_norm.bias")][:2]
    table[one]["data_offsets"] = table[other]["data_offsets"]


def hole(table: dict[str, Any]) -> None:
    del table["lm_head.bias"]


def overflow(table: dict[str, Any]) -> None:
    table["lm_head.bias"]["shape"] = [2**40, 2**40]


def negative(table: dict[str, Any]) -> None:
    table["lm_head.bias"]["shape"] = [-8]


def other_type(table: dict[str, Any]) -> None:
    table["lm_head.bias"]["dtype"] = "I32"


def unknown_type(table: dict[str, Any]) -> None:
    table["lm_head.bias"]["dtype"] = "F33"


def short(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def trailing(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"and more")


def twice(folder: Path) -> None:
    table, body = split(folder)
    text = json.dumps(table)
    entry = json.dumps({"lm_head.bias": table["lm_head.bias"]})[1:-1]
    join(folder, f"{text[:-1]}, {entry}}}".encode(), body)


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def page(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"<!DOCTYPE html><html><title>404</title></html>")


def nested_header(folder: Path) -> None:
    _, body = split(folder)
    join(folder, b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", body)


def flipped_byte(folder: Path) -> None:
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[-100] ^= 1
    (folder / WEIGHTS).write_bytes(data)


def not_finite(folder: Path) -> None:
    weights = load_file(folder / WEIGHTS)
    weights["lm_head.bias"][0] = float("inf")
    save_file(weights, folder / WEIGHTS)


def elsewhere(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    table = {"weight_map": {"lm_head.bias": "../outside.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(table))


def a_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


UNSOUND = r"model\.safetensors is not a sound safetensors file: "

TENSORS: dict[str, Case] = {
    "header of 2**63 bytes": (length(2**63), "CheckpointError", UNSOUND + rf".*{2**63} bytes"),
    "header of 100 MB and 1 byte": (
        length(100_000_001, size=200_000_000),
        "CheckpointError",
        UNSOUND + ".*claims 100000001 bytes",
    ),
    "header that is not JSON": (not_json, "CheckpointError", UNSOUND + ".*not JSON.*property name"),
    "header nested deeply": (nested_header, "CheckpointError", UNSOUND + ".*nested|recursion"),
    "hole between tensors": (header(hole), "CheckpointError", UNSOUND + ".*hole|expected .* bytes"),
    "tensors that overlap": (header(overlap), "CheckpointError", UNSOUND + ".*overlap"),
    "shape that overflows": (
        header(overflow),
        "CheckpointError",
        UNSOUND + r"lm_head\.bias has shape \[1099511627776, 1099511627776\]",
    ),
    "negative shape": (
        header(negative),
        "CheckpointError",
        UNSOUND + "lm_head.bias has no valid shape",
    ),
    "cut in half": (short, "CheckpointError", UNSOUND + r"expected \d+ bytes, found \d+"),
    "trailing bytes": (trailing, "CheckpointError", UNSOUND + r"expected \d+ bytes, found \d+"),
    "a name twice": (twice, "CheckpointError", UNSOUND + r".*'lm_head\.bias' comes twice"),
    "whole numbers": (
        header(other_type),
        "CheckpointError",
        r"not floating-point.*lm_head\.bias: I32",
    ),
    "type that does not exist": (header(unknown_type), "CheckpointError", UNSOUND + ".*'F33'"),
    "empty file": (empty, "CheckpointError", UNSOUND),
    "web page": (page, "CheckpointError", UNSOUND),
    "not finite": (not_finite, "CheckpointError", r"not finite.*head\.bias"),
    "index that leads out": (elsewhere, "FormatError", r"names '\.\./outside\.safetensors'"),
    "folder instead of a file": (a_folder, "CheckpointError", "has no weights"),
}
"""Row 26 of the list of hostile inputs."""

FLIPPED: Case = (
    flipped_byte,
    "CheckpointError",
    r"model\.safetensors is damaged: expected SHA-256",
)
"""Of a folder of our own, which has hashes."""


# ------------------------------------------------------------------------------ settings


def settings(**change: Any) -> Callable[[Path], None]:
    """Change config.json."""

    def spoil(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return spoil


def gigabyte(folder: Path) -> None:
    with (folder / "config.json").open("r+b") as file:
        file.truncate(1 << 30)


def deep(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_text('{"a":' + "[" * 100_000 + "]" * 100_000 + "}")

    return spoil


def crowded(folder: Path) -> None:
    (folder / "config.json").write_text('{"a": [' + "[]," * 2_000_000 + "[]]}")


def raw(name: str, data: bytes) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return spoil


SEQUENCE = ["Wav2Vec2ForSequenceClassification"]

SETTINGS: dict[str, Case] = {
    "vocabulary of 10**9": (settings(vocab_size=10**9), "ConfigError", "vocab is out of range"),
    "a million layers": (
        settings(num_hidden_layers=10**6),
        "ConfigError",
        "layers is out of range",
    ),
    "7 wide with 2 heads": (
        settings(hidden_size=7, num_attention_heads=2),
        "ConfigError",
        r"config\.json: dim must be a multiple of heads, got dim 7 and heads 2",
    ),
    "convolution that does not move": (
        settings(conv_stride=[5, 0, 2]),
        "ConfigError",
        r"conv_stride is not valid.*\[5, 0, 2\]",
    ),
    "another kind of model": (settings(model_type="hubert"), "FormatError", "type 'hubert'"),
    "no kind of model": (settings(model_type=None), "FormatError", "type None"),
    "another class": (settings(architectures=["EvilModel"]), "FormatError", "EvilModel"),
    "width of 10**12": (settings(hidden_size=16 * 10**12), "ConfigError", "dim is out of range"),
    "thousands of convolutions": (
        settings(conv_dim=[8] * 5000, conv_kernel=[1] * 5000, conv_stride=[1] * 5000),
        "ConfigError",
        "convolutions is out of range.*5000",
    ),
    "number as text": (settings(hidden_size="16"), "ConfigError", "hidden_size.*'16'"),
    "a billion classes": (
        settings(architectures=SEQUENCE, num_labels=10**9),
        "ConfigError",
        "num_labels is not valid.*1000000000",
    ),
    "classes with a hole": (
        settings(architectures=SEQUENCE, id2label={"0": "a", "2": "b"}),
        "ConfigError",
        "id2label.*none for 1",
    ),
    "tables of classes that disagree": (
        settings(architectures=SEQUENCE, id2label={"0": "a", "1": "b"}, label2id={"a": 1, "b": 0}),
        "ConfigError",
        "disagree: expected 0 for 'a', found 1",
    ),
    "time-delay layers of 10**9": (
        settings(
            architectures=["Wav2Vec2ForXVector"],
            tdnn_dim=[10**9],
            tdnn_kernel=[10**9],
            tdnn_dilation=[1],
        ),
        "ConfigError",
        "out of range.*1000000000",
    ),
    "adapters 10**9 wide": (
        settings(do_stable_layer_norm=True, adapter_attn_dim=10**9),
        "ConfigError",
        "adapter.*out of range.*1000000000",
    ),
    "file of a gigabyte": (gigabyte, "FormatError", "too large.*1073741824"),
    "depth of 100,000": (deep("config.json"), "FormatError", r"config\.json.*nested too deeply"),
    "two million empty lists": (crowded, "FormatError", "expected at most .* values"),
    "settings in UTF-16": (
        raw("config.json", '{"model_type": "wav2vec2"}'.encode("utf-16")[:-3]),
        "FormatError",
        r"config\.json is not a JSON file",
    ),
    "settings that are a list": (
        raw("config.json", b"[1]"),
        "FormatError",
        "expected a JSON object",
    ),
    "a setting twice": (
        raw("config.json", b'{"model_type": "wav2vec2", "model_type": "wav2vec2"}'),
        "FormatError",
        "'model_type' comes twice",
    ),
}
"""Row 27."""


# ------------------------------------------------------------------------------ vocabularies


def tokens(table: dict[str, Any], **roles: Any) -> Callable[[Path], None]:
    """Change the vocabulary, and what the tokenizer says of it."""

    def spoil(folder: Path) -> None:
        (folder / "vocab.json").write_text(json.dumps(table))
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            (folder / name).unlink()
        if roles:
            (folder / "tokenizer_config.json").write_text(json.dumps(roles))

    return spoil


def numbered(*names: str) -> dict[str, Any]:
    return {name: number for number, name in enumerate(names)}


VOCABULARIES: dict[str, Case] = {
    "no padding token": (
        tokens(numbered("|", *"abcdefg")),
        "AlphabetError",
        "has no blank: expected the padding token '<pad>' among its 8 tokens",
    ),
    "no padding token, but another": (
        tokens(numbered("[PAD]", *"abcdefg")),
        "AlphabetError",
        r"has no blank.*found '\[PAD\]' with number 0",
    ),
    "two blanks by name": (
        tokens(numbered("<pad>", *"abcdef", "[PAD]")),
        "AlphabetError",
        r"two blanks.*'<pad>' with number 0 and '\[PAD\]' with number 7",
    ),
    "two blanks by number": (
        tokens(numbered("|", *"abcdef", "[PAD]"), pad_token="[PAD]"),
        "AlphabetError",
        r"two blanks.*pad_token_id 0.*number 0 for '\|' and '\[PAD\]' with number 7",
    ),
    "a number missing": (
        tokens({**numbered("<pad>", *"abcdef"), "z": 9}),
        "AlphabetError",
        "missing 7; outside 9",
    ),
    "a number repeated": (
        tokens({**numbered("<pad>", *"abcdef"), "z": 3}),
        "AlphabetError",
        r"missing 7.*repeated 3 \['c', 'z'\]",
    ),
    "a negative number": (
        tokens({**numbered("<pad>", *"abcdef"), "z": -1}),
        "AlphabetError",
        "missing 7; outside -1",
    ),
    "a number of 10**30": (
        tokens({**numbered("<pad>", *"abcdef"), "z": 10**30}),
        "AlphabetError",
        "missing 7; outside 10{30}",
    ),
    "a number as text": (
        tokens({**numbered("<pad>", *"abcdef"), "z": "7"}),
        "AlphabetError",
        "not an integer.*'z': '7'",
    ),
    "fewer tokens than outputs": (
        tokens(numbered("<pad>", *"abc")),
        "AlphabetError",
        "expected 8 tokens.*found 4; outputs without a token: 4, 5, 6, 7",
    ),
    "more tokens than outputs": (
        tokens(numbered("<pad>", *"abcdefgh")),
        "AlphabetError",
        r"expected 8 tokens.*found 9; tokens without an output: 8 \('h'\)",
    ),
    "an empty token": (
        tokens(numbered("<pad>", *"abcdef", "")),
        "AlphabetError",
        r"a token is empty.*at \[7\]",
    ),
    "half a surrogate": (
        tokens(numbered("<pad>", *"abcdef", "\ud800")),
        "AlphabetError",
        "token 7 is not storable as UTF-8",
    ),
    "white space within a token": (
        tokens(numbered("<pad>", *"abcdef", "a b")),
        "AlphabetError",
        "token 7 holds white space",
    ),
    "one token with two duties": (
        tokens(numbered("<pad>", *"abcdefg"), word_delimiter_token="<pad>"),
        "AlphabetError",
        "two duties",
    ),
    "a token twice": (
        raw("vocab.json", b'{"<pad>": 0, "a": 1, "a": 2}'),
        "FormatError",
        r"vocab\.json.*'a' comes twice",
    ),
    "languages and tokens mixed": (
        tokens({"eng": {"a": 0}, "b": 1}),
        "FormatError",
        "mixes languages and tokens.*'b': 1",
    ),
    "no tokens": (tokens({}), "AlphabetError", "has no blank.*among its 0 tokens"),
    "vocabulary nested deeply": (deep("vocab.json"), "FormatError", r"vocab\.json.*nested"),
    "added tokens without numbers": (
        tokens(numbered(*LETTERS), added_tokens_decoder={"x": {"content": "y"}}),
        "FormatError",
        "added_tokens_decoder, found 'x'",
    ),
    "delimiter written as something else": (
        tokens(numbered(*LETTERS), replace_word_delimiter_char="_"),
        "FormatError",
        "replace_word_delimiter_char = '_' is not supported",
    ),
}
"""Row 28, as far as it is refused; the rest is repaired, see docs/explanation/vocabularies.md."""

REPAIRED: dict[str, tuple[Callable[[Path], None], str, list[int], str]] = {
    "a space as word boundary": (
        tokens(numbered("<pad>", *"abcdef", " ")),
        "ab  cd",
        [1, 2, 7, 3, 4],
        "ab cd",
    ),
    "space beside the boundary": (
        tokens(numbered("<pad>", "|", *"abcde", " ")),
        "a b",
        [2, 1, 3],
        "a b",
    ),
    "decomposed letters": (
        tokens(numbered("<pad>", "|", "e\u0301", *"abcde")),
        "a\u00e9 e\u0301",
        [3, 2, 1, 2],
        "a\u00e9 \u00e9",
    ),
    "tokens of several letters": (
        tokens(numbered("<pad>", "|", "sh", "ng'", *"shng")),
        "shng's",
        [2, 3, 4],
        "shng's",
    ),
    "a second name for blank, with the first stated": (
        tokens(numbered("<pad>", "|", *"abcde", "[PAD]"), pad_token="<pad>"),
        "a b",
        [2, 1, 3],
        "a b",
    ),
    "sentence marks beyond the outputs": (
        tokens(
            {**numbered("<pad>", "|", *"abcdef"), "<s>": 8, "</s>": 9},
            bos_token="<s>",
            eos_token="</s>",
        ),
        "a b",
        [2, 1, 3],
        "a b",
    ),
}
"""What spoils a sound folder, a text, its tokens, and the text that these write."""
