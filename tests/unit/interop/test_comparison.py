"""Whether a written model is the one that was meant: symbols that formats number otherwise."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tests.tiny_models import LETTERS, tiny_alphabet, tiny_ctc
from torch import Tensor

from unheard.errors import CheckpointError, FormatError
from unheard.interop.comparison import compare_settings, compare_weights, match_symbols
from unheard.interop.native import ARCHITECTURES
from unheard.interop.reading import Reading
from unheard.interop.stored import Place, StoredTensor
from unheard.text.alphabet import Alphabet

FAIRSEQ = Alphabet(
    tokens=("<s>", "<pad>", "</s>", "<unk>", "|", "a", "b", "ñ"),
    blank="<s>",
    word_boundary="|",
    unknown="<unk>",
    special=("<pad>", "</s>"),
    case="lower",
)
"""The alphabet of the tiny models as fairseq names it: the blank is <s>."""


class Numbers:
    """Tensors in memory (a `TensorStore`)."""

    def __init__(self, values: Mapping[str, Tensor], file) -> None:
        self.values = values
        self.tensors = {
            name: StoredTensor(file=file, shape=tuple(value.shape), kind="F32")
            for name, value in values.items()
        }

    def verify(self) -> None:
        pass

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        return self.values[name].clone()


def written_as(alphabet: Alphabet | None, rows: list[int | None] | None, file) -> Reading:
    """Read back the tiny recogniser with the outputs of its head in another order."""
    bundle = tiny_ctc()
    weights = {name: value.clone() for name, value in bundle.model.state_dict().items()}
    config = bundle.model.config
    if rows is not None:
        for name in ("head.weight", "head.bias"):
            silent = torch.zeros_like(weights[name][0])
            if name == "head.bias":
                silent -= 1e4
            weights[name] = torch.stack(
                [silent if row is None else weights[name][row] for row in rows]
            )
        config = replace(config, vocab=len(rows))
    return Reading(
        format="fairseq",
        architecture="wav2vec_ctc",
        config=config,
        alphabet=alphabet,
        input_spec=bundle.input_spec,
        provenance=bundle.provenance,
        store=Numbers(weights, file),
        places={name: Place(name=name) for name in weights},
    )


def numbers_of(after: Alphabet, before: Alphabet | None = None) -> list[int | None] | None:
    return match_symbols(before or tiny_alphabet(), after, tiny_ctc().model.state_dict())


def test_the_same_symbols_are_not_matched() -> None:
    assert numbers_of(tiny_alphabet()) is None


def test_a_renamed_blank_and_the_special_symbol_in_its_place() -> None:
    assert numbers_of(FAIRSEQ) == [0, 1, 2, 3, 4, 5, 6, 7]


def test_another_order_and_outputs_for_nothing() -> None:
    before = Alphabet(tokens=("<blank>", " ", "c", "a"), blank="<blank>", word_boundary=" ")
    after = Alphabet(
        tokens=("<s>", "<pad>", "</s>", "<unk>", "a", "|", "c"),
        blank="<s>",
        word_boundary="|",
        unknown="<unk>",
        special=("<pad>", "</s>"),
    )
    assert numbers_of(after, before) == [0, None, None, None, 3, 1, 2]


def test_a_letter_is_never_matched_with_a_duty() -> None:
    before = Alphabet(tokens=("-", "a"), blank="-")
    after = Alphabet(tokens=("<s>", "-", "a"), blank="<s>")
    assert numbers_of(after, before) == [0, None, 1]


def test_weights_in_another_order_are_equal(tmp_path) -> None:
    bundle = tiny_ctc()
    written = written_as(FAIRSEQ, [0, 1, 2, 3, 4, 5, 6, 7], tmp_path)
    done: list[int] = []
    assert compare_weights(bundle, written, done.append) == []
    assert sum(done) == 4 * sum(weight.numel() for weight in bundle.model.state_dict().values())
    (said,) = compare_settings(bundle, written)
    assert "names and numbers of the symbols: 8 before, 8 after" in said


def test_silent_outputs_are_allowed_and_others_are_not(tmp_path) -> None:
    bundle = tiny_ctc()
    tokens = (*FAIRSEQ.tokens, "madeupword0000")
    after = replace(FAIRSEQ, tokens=tokens, special=(*FAIRSEQ.special, "madeupword0000"))
    rows: list[int | None] = [0, 1, 2, 3, 4, 5, 6, 7]
    assert compare_weights(bundle, written_as(after, [*rows, None], tmp_path), len_of) == []
    with pytest.raises(CheckpointError, match=r"head\.weight, head\.bias"):
        compare_weights(bundle, written_as(after, [*rows, 5], tmp_path), len_of)


def len_of(count: int) -> None:
    assert count > 0


@pytest.mark.parametrize(
    "rows", [[1, 0, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 6, 5, 7], [0, 1, 2, 3, 4, 5, 6, None]]
)
def test_swapped_or_lost_outputs_are_noticed(rows: list[int | None], tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"head\."):
        compare_weights(tiny_ctc(), written_as(FAIRSEQ, rows, tmp_path), len_of)


def test_a_changed_number_is_noticed(tmp_path) -> None:
    bundle = tiny_ctc()
    written = written_as(tiny_alphabet(), None, tmp_path)
    assert compare_weights(bundle, written, len_of) == []
    assert compare_settings(bundle, written) == []
    assert isinstance(written.store, Numbers)
    written.store.values["encoder.projection.weight"][3, 3] += 1e-7
    with pytest.raises(CheckpointError, match=r"encoder\.projection\.weight"):
        compare_weights(bundle, written, len_of)


def test_another_letter_is_an_error(tmp_path) -> None:
    tokens = tuple("n" if token == "ñ" else token for token in LETTERS)
    written = written_as(replace(tiny_alphabet(), tokens=tokens), None, tmp_path)
    with pytest.raises(FormatError, match="lost: ñ; further: n"):
        compare_settings(tiny_ctc(), written)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"heads": 2}, r"encoder\.heads 4"),
        ({"norm_epsilon": 1e-6}, r"encoder\.norm_epsilon 1e-05"),
        ({"norm_first": True}, r"encoder\.norm_first False"),
    ],
)
def test_another_network_is_an_error(change: dict[str, object], said: str, tmp_path) -> None:
    written = written_as(tiny_alphabet(), None, tmp_path)
    encoder = replace(written.config.encoder, **change)
    config = replace(written.config, encoder=encoder)
    with pytest.raises(FormatError, match=said):
        compare_settings(tiny_ctc(), replace(written, config=config))


def test_a_lost_alphabet_and_lost_labels_are_named(tmp_path) -> None:
    written = written_as(None, None, tmp_path)
    bundle = replace(tiny_ctc(), labels=("yes", "no"))
    said = compare_settings(bundle, written)
    assert said == [
        "not kept in the target: the alphabet of 8 symbols",
        "not kept in the target: the names of the classes",
    ]
    with pytest.raises(FormatError, match="names of the classes"):
        compare_settings(bundle, replace(written, labels=("no", "yes")))


def test_every_network_has_a_name() -> None:
    assert len(set(ARCHITECTURES.values())) == len(ARCHITECTURES) == 7
