import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_models import tiny_alphabet, tiny_ctc, tiny_masked_units, tiny_pretraining

from unheard.errors import AlphabetError, CheckpointError, FormatError
from unheard.interop import load
from unheard.interop.adapters import is_of_language, new_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import card, language_model, languages, tokenizer, writer
from unheard.interop.huggingface.reader import open_model
from unheard.interop.stored import Place, StoredAdapter, StoredTensor
from unheard.text.alphabet import Alphabet


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_a_masked_unit_model_loses_its_head_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = replace(tiny_masked_units(), provenance={"task": "pretrain", "licence": "CC0-1.0"})
    with caplog.at_level(logging.WARNING):
        writer.save(bundle, tmp_path / "model")
    assert "without head.weight, head.bias: transformers has no such head" in caplog.text
    assert config_of(tmp_path / "model")["architectures"] == ["Wav2Vec2Model"]
    text = (tmp_path / "model" / "README.md").read_text()
    assert "Left out, because transformers has no such head: head.weight, head.bias" in text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loaded = load.load_model(tmp_path / "model")
    assert caplog.text == ""
    ours = bundle.model.state_dict()
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, ours[name]), name


# ------------------------------------------------------------------------------ cards


def test_a_card_says_licence_and_provenance(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    bundle.provenance["sources"] = ["/home/somebody/secret/model", "data/a.jsonl"]
    bundle.provenance["parent"] = {"source": "hf:org/name", "note": "``` <script>\n# A heading"}
    folder = writer.save(bundle, tmp_path / "model")
    text = (folder / "README.md").read_text()
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    assert 'license: "CC0-1.0"' in head.splitlines()
    assert 'pipeline_tag: "automatic-speech-recognition"' in head.splitlines()
    assert body.count("```") == 2
    assert "\n# A heading" not in body
    block = body.partition("```json\n")[2].partition("\n```")[0]
    said = json.loads(block)
    assert said.pop("sources") == ["model", "data/a.jsonl"]
    assert said == {name: bundle.provenance[name] for name in said}
    assert len(said) == len(bundle.provenance) - 1
    loaded = load.load_model(folder)
    assert loaded.provenance["licence"] == "CC0-1.0"
    assert loaded.provenance["source"] == str(folder)


def test_no_card_without_provenance(tmp_path: Path) -> None:
    folder = writer.save(tiny_pretraining(), tmp_path / "model")
    assert not (folder / "README.md").exists()


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("---\nlicense: apache-2.0\nlanguage: sw\n---\n# A model", {"licence": "apache-2.0"}),
        ('---\nlicense: "cc-by-nc-4.0" # all of it\n---\n', {"licence": "cc-by-nc-4.0"}),
        ("---\nbase_model: org/name\n---\n", {"base_model": "org/name"}),
        ("---\r\nlicense: mit\r\n---\r\n", {"licence": "mit"}),
        ("---\nlicense:\n- mit\n- other\n---\n", {}),
        ("---\nlicense: [mit]\n---\n", {}),
        ("---\nlicense: mit\n", {}),
        ("license: mit\n", {}),
        ("", {}),
        ("---\nmodel-index:\n  license: mit\n---\n", {}),
    ],
)
def test_facts_of_a_card(tmp_path: Path, text: str, facts: dict[str, str]) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert card.read_card(tmp_path) == facts


def test_a_card_of_any_bytes_and_size(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: \xff\xfe\n---\n")
    assert card.read_card(tmp_path) == {"licence": "\ufffd\ufffd"}
    (tmp_path / "README.md").write_bytes(b"---\n" + b"x" * (1 << 22))
    assert card.read_card(tmp_path) == {}


# ------------------------------------------------------------------------------ refusals


def test_what_does_not_fit_is_not_written(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    short = Alphabet(tokens=("<pad>", "a", "b"), blank="<pad>")
    with pytest.raises(AlphabetError, match="expected 8 tokens, found 3"):
        writer.save(replace(bundle, alphabet=short), tmp_path / "model")
    with torch.no_grad():
        bundle.model.encoder.projection.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        writer.save(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_small_letters_become_capitals_only_where_they_come_back() -> None:
    letters = tiny_alphabet()
    assert tokenizer.can_lower(letters)
    assert "Ñ" in tokenizer.describe_vocabulary(letters, lowers=True)
    assert "<pad>" in tokenizer.describe_vocabulary(letters, lowers=True)
    for odd in ("ß", "ı", "ŉ"):
        assert not tokenizer.can_lower(replace(letters, tokens=(*letters.tokens, odd)))
    assert not tokenizer.can_lower(replace(letters, tokens=(*letters.tokens, "σ", "ς")))
    assert not tokenizer.can_lower(replace(letters, case="keep"))


# ------------------------------------------------------------------------------ language models


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Make a model folder with a language model, as pyctcdecode saves it."""
    folder = writer.save(tiny_ctc(), tmp_path / "spoken")
    (folder / "alphabet.json").write_text('{"labels": ["", "a"], "is_bpe": false}')
    (folder / "language_model").mkdir()
    attributes = {"alpha": 0.5, "beta": 1.5, "unk_score_offset": -10.0, "score_boundary": True}
    (folder / "language_model" / "attrs.json").write_text(json.dumps(attributes))
    (folder / "language_model" / "unigrams.txt").write_text("a\nab\n")
    (folder / "language_model" / "3gram.bin").write_bytes(b"mmap lm")
    return folder


FILES = [
    "alphabet.json",
    "language_model/3gram.bin",
    "language_model/attrs.json",
    "language_model/unigrams.txt",
]


def test_a_language_model_is_recognised_and_carried(spoken: Path, tmp_path: Path) -> None:
    reading = open_model(spoken)
    assert reading.provenance["language_model"] == {
        "alpha": 0.5,
        "beta": 1.5,
        "unk_score_offset": -10.0,
        "score_boundary": True,
        "files": FILES,
    }
    target = writer.save(load.load_model(spoken), tmp_path / "target")
    copied = language_model.carry(reading, target)
    assert [path.relative_to(target).as_posix() for path in copied] == FILES
    for name in FILES:
        assert (target / name).read_bytes() == (spoken / name).read_bytes()
    extractor = json.loads((target / "preprocessor_config.json").read_text())
    assert extractor["processor_class"] == "Wav2Vec2ProcessorWithLM"
    facts = ("alpha", "beta", "files")
    again = open_model(target).provenance["language_model"]
    assert [again[name] for name in facts] == [0.5, 1.5, FILES]


def test_without_a_language_model_nothing_is_carried(
    spoken: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = writer.save(tiny_ctc(), tmp_path / "target")
    assert language_model.carry(open_model(target), target) == []
    (spoken / "language_model" / "3gram.bin").unlink()
    with caplog.at_level(logging.WARNING):
        assert language_model.carry(open_model(spoken), target) == []
    assert "does not hold it" in caplog.text
    assert not (target / "language_model").exists()


def test_no_file_from_elsewhere_is_published_with_a_model(spoken: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    (spoken / "language_model" / "key.bin").symlink_to(tmp_path / "secret")
    target = writer.save(tiny_ctc(), tmp_path / "target")
    with pytest.raises(FormatError, match=r"key\.bin is a link out of its folder"):
        language_model.carry(open_model(spoken), target)


def test_links_of_the_hub_are_followed(spoken: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--org--name"
    (cache / "snapshots").mkdir(parents=True)
    (cache / "blobs").mkdir()
    folder = spoken.rename(cache / "snapshots" / "abc")
    for number, name in enumerate(FILES):
        blob = (folder / name).rename(cache / "blobs" / str(number))
        (folder / name).symlink_to(blob)
    target = writer.save(tiny_ctc(), tmp_path / "target")
    assert len(language_model.carry(open_model(folder), target)) == len(FILES)
    assert not any(path.is_symlink() for path in target.rglob("*"))


@pytest.mark.parametrize("value", ["0.5", None, True, float("nan")])
def test_weights_of_a_language_model_are_numbers(spoken: Path, value: Any) -> None:
    path = spoken / "language_model" / "attrs.json"
    path.write_text(json.dumps({"alpha": value}))
    with pytest.raises(FormatError, match=r"attrs\.json: alpha is not a finite number"):
        open_model(spoken)


# ------------------------------------------------------------------------------ languages


class Stack:
    """Adapters of several languages, each weight stacked in one tensor."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights
        self.reads: list[str] = []

    @property
    def tensors(self) -> dict[str, StoredTensor]:
        return {
            name: StoredTensor(file=Path("x"), shape=tuple(tensor.shape), kind="F32")
            for name, tensor in self.weights.items()
        }

    def verify(self) -> None:
        pass

    def read(self, name: str, *, out: torch.Tensor | None = None) -> torch.Tensor:
        self.reads.append(name)
        return self.weights[name]


def with_stack(names: list[str]) -> tuple[ModelBundle, Stack]:
    """Make a model with languages stacked, the first in use."""
    generator = torch.Generator().manual_seed(0)
    bundle = new_adapter(
        tiny_ctc("layer"), names[0], tiny_alphabet(), generator=generator, adapter_dim=3
    )
    own = {n: t for n, t in bundle.model.state_dict().items() if is_of_language(n)}
    stack = Stack(
        {
            name: torch.randn(len(names), *weight.shape, generator=generator)
            for name, weight in own.items()
        }
    )
    adapters = {
        language: StoredAdapter(
            alphabet=tiny_alphabet(),
            places={name: Place(name=name, row=row) for name in own},
            store=stack,
        )
        for row, language in enumerate(names)
    }
    return replace(bundle, adapters=adapters), stack


def test_stacked_languages_are_read_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(languages, "STACKED_AT_ONCE", 3)
    names = [f"l{number:02}" for number in range(8)]
    bundle, stack = with_stack(names)
    folder = writer.save(bundle, tmp_path / "model")
    assert len(stack.reads) == 3 * len(stack.weights)  # seven others, three at a time
    loaded = load.load_model(folder, adapter="l00")
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name
    assert list(loaded.adapters) == names
    for row, name in enumerate(names[1:], start=1):
        state = load.load_model(folder, adapter=name).model.state_dict()
        for weight, stacked in stack.weights.items():
            assert torch.equal(state[weight], stacked[row]), (name, weight)


def test_languages_share_the_names_of_their_special_tokens(tmp_path: Path) -> None:
    bundle, _ = with_stack(["eng", "lug"])
    other = Alphabet(tokens=("a", "b", "c", "_", "?", "#", "d", "e"), blank="#", word_boundary="_")
    adapters = dict(bundle.adapters)
    adapters["lug"] = replace(adapters["lug"], alphabet=replace(other, unknown="?"))
    folder = writer.save(replace(bundle, adapters=adapters), tmp_path / "model")
    vocabularies = json.loads((folder / "vocab.json").read_text())
    assert list(vocabularies["lug"]) == ["a", "b", "c", "|", "<unk>", "<pad>", "d", "e"]
    clash = replace(other, unknown="?", tokens=("a", "b", "|", "_", "?", "#", "d", "e"))
    adapters["lug"] = replace(adapters["lug"], alphabet=clash)
    with pytest.raises(AlphabetError, match=r"'\|' once, found it for the numbers 2 and 3"):
        writer.save(replace(bundle, adapters=adapters), tmp_path / "other")


def test_a_broken_language_is_not_written(tmp_path: Path) -> None:
    bundle, stack = with_stack(["eng", "lug"])
    stack.weights["head.bias"][1, 0] = float("nan")
    with pytest.raises(CheckpointError, match="the adapter 'lug' are not finite"):
        writer.save(bundle, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
