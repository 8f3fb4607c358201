"""Fine-tuning of a language adapter: nothing else changes, and transformers loads the result."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests import tones
from tests.closeness import FLOAT64, assert_close, largest_difference
from tests.parity.hf_models import KINDS, SMALL, make_samples, redraw
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2ForCTC

from unheard.errors import ConfigError
from unheard.interop.adapter_folder import list_adapters, save_adapter
from unheard.interop.adapters import is_of_language
from unheard.interop.load import load_model
from unheard.tasks.finetune import finetune

ENGLISH = ("<pad>", "<s>", "</s>", "<unk>", "|", *"abcdefgh")
NARROW = SMALL | KINDS["large-lv60"] | {"adapter_attn_dim": 6}
TRUE_WIDTH = KINDS["large-lv60"] | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 16,
    "num_hidden_layers": 2,
    "adapter_attn_dim": 16,
}
"""MMS-1B but for its 46 other layers."""


def write_model(folder: Path, settings: dict[str, Any], *, seed: int = 0) -> Path:
    """Write a random network and its English, as transformers does."""
    torch.manual_seed(seed)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**(settings | {"vocab_size": len(ENGLISH)})))
    if settings["hidden_size"] < 100:
        redraw(model, seed=seed)
    model.save_pretrained(folder)
    source = folder / "source.json"
    source.write_text(json.dumps({"eng": {token: n for n, token in enumerate(ENGLISH)}}))
    Wav2Vec2CTCTokenizer(str(source), target_lang="eng").save_pretrained(folder)
    source.unlink()
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tones.ToneCorpus:
    folder = tmp_path_factory.mktemp("corpus")
    return tones.write_corpus(folder, labelled=6, unlabelled=0, test=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", NARROW)


def tune(corpus: tones.ToneCorpus, out: Path, start: Path, **options: Any) -> Any:
    settings = {
        "training.batch_seconds": 4.0,
        "training.accumulation": 1,
        "training.precision": "float32",
        "training.validate_every_steps": 1000,
        **options.pop("set", {}),
    }
    defaults = {"language": "lug", "max_steps": 3, "recipe": "mms-adapter"}
    return finetune(
        corpus.transcripts,
        out=out,
        start=start,
        valid=corpus.test,
        set=settings,
        device="cpu",
        quiet=True,
        **(defaults | options),
    )


def narrow(**more: Any) -> dict[str, Any]:
    return {"set": {"finetune.adapter_dim": 6, "training.learning_rate": 0.01}, **more}


def theirs(folder: Path, language: str | None = None) -> Any:
    options = {} if language is None else {"target_lang": language, "ignore_mismatched_sizes": True}
    return Wav2Vec2ForCTC.from_pretrained(folder, local_files_only=True, **options).double().eval()


def logits(model: Any) -> Tensor:
    samples, _, _ = make_samples((9000,), seed=1)
    with torch.no_grad():
        return model(samples).logits


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_only_the_language_changes_and_transformers_reads_it(
    corpus: tones.ToneCorpus, model: Path
) -> None:
    whole = (model / "model.safetensors").read_bytes()
    result = tune(corpus, model.parent / "run", model, into=model, **narrow())
    assert result.model == model
    assert (model / "model.safetensors").read_bytes() == whole
    assert set(list_adapters(model)) == {"eng", "lug"}
    english, luganda = load_model(model, adapter="eng"), load_model(model, adapter="lug")
    before, after = english.model.state_dict(), luganda.model.state_dict()
    base = {name for name in before if not is_of_language(name)}
    assert not changed({n: before[n] for n in base}, {n: after[n] for n in base})
    # Every weight of the adapter has learnt something: it began at other, known values.
    for name in set(after) - base:
        if name.endswith("adapter.norm.weight"):
            assert not torch.equal(after[name], torch.ones_like(after[name])), name
        elif name.endswith(("bias", "up.weight")):
            assert not torch.equal(after[name], torch.zeros_like(after[name])), name
    found = logits(theirs(model, "lug"))
    assert_close("logits", logits(luganda.model.double()), found, FLOAT64)
    assert largest_difference("English", logits(theirs(model))[..., :7], found) > 1e-3
    assert luganda.alphabet is not None
    assert "ŋ" in luganda.alphabet.tokens


def test_a_network_as_wide_as_mms_1b(corpus: tones.ToneCorpus, tmp_path: Path) -> None:
    """True width, two layers, two updates; the file has what the 1B model's would have a layer."""
    model = write_model(tmp_path / "model", TRUE_WIDTH)
    before = load_model(model, adapter="eng").model.state_dict()
    tune(corpus, tmp_path / "run", model, into=model, max_steps=2)
    bundle = load_model(model, adapter="lug")
    after = bundle.model.state_dict()
    base = [name for name in before if not is_of_language(name)]
    assert all(torch.equal(before[name], after[name]) for name in base)
    stored = load_file(model / "adapter.lug.safetensors")
    adapter = sum(weight.numel() for name, weight in stored.items() if "lm_head" not in name)
    assert adapter * 48 // 2 == 2_151_168
    assert any(weight.abs().sum() > 0 for name, weight in after.items() if "adapter.up" in name)
    assert_close("logits", logits(bundle.model.double()), logits(theirs(model, "lug")), FLOAT64)


def test_checkpoints_and_optimiser_hold_the_language_alone(
    corpus: tones.ToneCorpus, model: Path
) -> None:
    run = model.parent / "run"
    tune(corpus, run, model, **narrow())
    newest = max((run / "checkpoints").iterdir())
    weights = load_file(newest / "model.safetensors")
    assert weights
    assert all(is_of_language(name) for name in weights)
    moments = load_file(newest / "optimizer.safetensors")
    numbers = sum(weight.numel() for weight in weights.values())
    assert sum(tensor.numel() for tensor in moments.values() if tensor.dim()) == 2 * numbers
    assert weights.keys() == load_file(run / "best" / "model.safetensors").keys()


def test_the_whole_model_and_the_adapter_alone_are_written(
    corpus: tones.ToneCorpus, model: Path
) -> None:
    run = model.parent / "run"
    result = tune(corpus, run, model, **narrow())
    assert result.model == run / "model"
    bundle = load_model(run / "model")
    assert bundle.adapter == "lug"
    # From there it can be put beside the network later.
    save_adapter(bundle, model)
    alone = load_file(run / "adapter" / "adapter.lug.safetensors")
    added = load_file(model / "adapter.lug.safetensors")
    assert not changed(alone, added)
    vocabulary = json.loads((run / "adapter" / "vocab.json").read_text())
    assert vocabulary["lug"] == json.loads((model / "vocab.json").read_text())["lug"]
    assert_close("logits", logits(bundle.model.double()), logits(theirs(model, "lug")), FLOAT64)


def test_a_run_goes_on_where_it_was_stopped(corpus: tones.ToneCorpus, model: Path) -> None:
    """The weights that are in no checkpoint come from the start again."""
    tune(corpus, model.parent / "whole", model, max_steps=4, **narrow())
    expected = load_file(model.parent / "whole" / "adapter" / "adapter.lug.safetensors")
    run = model.parent / "run"
    tune(corpus, run, model, max_steps=4, **narrow())
    # As if it had been killed after its last checkpoint and before its result.
    for name in ("result.json", "model", "adapter"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    tune(corpus, run, model, max_steps=4, **narrow())
    found = load_file(run / "adapter" / "adapter.lug.safetensors")
    assert not changed(expected, found)


def test_a_language_that_is_there_is_gone_on_from(corpus: tones.ToneCorpus, model: Path) -> None:
    tune(corpus, model.parent / "first", model, into=model, **narrow())
    before = load_file(model / "adapter.lug.safetensors")
    other = {"set": {"finetune.adapter_dim": 6, "training.learning_rate": 1e-12}}
    tune(corpus, model.parent / "second", model, into=model, max_steps=1, **other)
    after = load_file(model / "adapter.lug.safetensors")
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=0, atol=1e-9)
    fresh = model.parent / "fresh"
    shutil.copytree(model, fresh)
    (fresh / "adapter.lug.safetensors").unlink()
    vocabulary = json.loads((fresh / "vocab.json").read_text())
    del vocabulary["lug"]
    (fresh / "vocab.json").write_text(json.dumps(vocabulary))
    tune(corpus, model.parent / "third", fresh, into=fresh, max_steps=1, **other)
    assert changed(before, load_file(fresh / "adapter.lug.safetensors"))


def test_the_head_keeps_the_rows_of_letters_it_knew(corpus: tones.ToneCorpus, model: Path) -> None:
    """English has a to h and no ŋ: its other rows go on under their new numbers."""
    options = {"set": {"finetune.adapter_dim": 6, "training.learning_rate": 1e-12}}
    before = load_model(model, adapter="eng")
    result = tune(corpus, model.parent / "run", model, language="eng", max_steps=1, **options)
    after = load_model(result.model)
    assert before.alphabet is not None
    assert after.alphabet is not None
    old, new = before.alphabet, after.alphabet
    pairs = [
        (old.blank, new.blank),
        (old.word_boundary, new.word_boundary),
        *((letter, letter) for letter in "abcd"),
    ]
    rows = before.model.state_dict()["head.weight"], after.model.state_dict()["head.weight"]
    for one, other in pairs:
        row = rows[1][new.tokens.index(str(other))]
        torch.testing.assert_close(row, rows[0][old.tokens.index(str(one))], rtol=0, atol=1e-9)
    drawn = rows[1][new.tokens.index("ŋ")]
    assert all(not torch.allclose(drawn, row, atol=1e-3) for row in rows[0])


def test_a_run_without_learning_rate_would_be_seen(corpus: tones.ToneCorpus, model: Path) -> None:
    """The negative control of the tests above: no update, no change of the adapter."""
    still = {"set": {"finetune.adapter_dim": 6, "training.learning_rate": 0.0}}
    tune(corpus, model.parent / "run", model, into=model, **still)
    weights = load_file(model / "adapter.lug.safetensors")
    ups = [weight for name, weight in weights.items() if "linear_2" in name]
    assert ups
    assert all(not weight.any() for weight in ups)


def test_what_cannot_be_adapted_is_refused_before_anything_is_done(
    corpus: tones.ToneCorpus, model: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="name of a language, got no language"):
        tune(corpus, run, model, **narrow(language=None))
    with pytest.raises(ConfigError, match=r"adapters of width 6.*set finetune.adapter_dim=6"):
        tune(corpus, tmp_path / "other", model)
    with pytest.raises(ConfigError, match="cannot name a language"):
        tune(corpus, tmp_path / "third", model, **narrow(language="../lug"))
    with pytest.raises(ConfigError, match="trains the whole network"):
        tune(corpus, tmp_path / "fourth", model, recipe="nano")
    plain = write_model(tmp_path / "base", SMALL | KINDS["base"])
    with pytest.raises(ConfigError, match="cannot have language adapters"):
        tune(corpus, tmp_path / "fifth", plain, **narrow())
    assert not (run / "checkpoints").exists()


def test_an_adapter_learns_to_write(corpus: tones.ToneCorpus, model: Path) -> None:
    """Twelve updates on a frozen random network bring the loss down."""
    run = model.parent / "run"
    options = {"finetune.adapter_dim": 6, "training.learning_rate": 0.03}
    options["training.log_every_steps"] = 1
    tune(corpus, run, model, max_steps=12, set=options)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if row["kind"] == "train"]
    assert np.mean(losses[-3:]) < 0.7 * losses[0]
