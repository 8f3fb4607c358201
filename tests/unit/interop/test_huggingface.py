import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import LETTERS, tiny_ctc, tiny_pretraining

from unheard.audio.signal import InputSpec
from unheard.errors import (
    AlphabetError,
    CheckpointError,
    ConfigError,
    FormatError,
    MissingExtraError,
    UnheardError,
)
from unheard.interop import load
from unheard.interop.bundle import ModelBundle
from unheard.interop.huggingface import keymap, networks, writer
from unheard.interop.huggingface.hub import fetch, is_hub_name
from unheard.interop.huggingface.reader import open_model
from unheard.interop.huggingface.settings import Settings
from unheard.models.config import CtcConfig, EncoderOnlyConfig, MaskingConfig, PretrainingConfig

POSITIONAL = "wav2vec2.encoder.pos_conv_embed.conv."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return writer.save(tiny_ctc(), tmp_path / "model")


def change_json(folder: Path, name: str, change: dict[str, Any]) -> None:
    path = folder / name
    data = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**data, **change}))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def same_weights(first: ModelBundle, second: ModelBundle) -> bool:
    ours, theirs = first.model.state_dict(), second.model.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize("make", [tiny_ctc, tiny_pretraining])
@pytest.mark.parametrize("kind", ["group", "layer"])
def test_what_is_written_comes_back(
    tmp_path: Path, make: Callable[..., ModelBundle], kind: str
) -> None:
    bundle = make(kind)
    folder = writer.save(bundle, tmp_path / "model")
    loaded = load.load_model(str(folder))
    assert same_weights(bundle, loaded)
    assert loaded.config.encoder == bundle.config.encoder
    assert loaded.alphabet == bundle.alphabet
    assert loaded.provenance["source"] == str(folder)
    assert "initialised" not in loaded.provenance
    writer.save(bundle, folder)


def test_input_spec_of_a_written_model(folder: Path) -> None:
    assert load.load_model(folder).input_spec == InputSpec(
        normalize=False, normalize_epsilon=1e-7, padding="masked", attention_mask=False
    )


def test_every_name_has_one_translation() -> None:
    theirs = list(keymap.TRANSFORMERS_NAMES.values())
    assert len(set(theirs)) == len(theirs)
    names = {*tiny_ctc("layer").model.state_dict(), *tiny_pretraining("layer").model.state_dict()}
    translated = {keymap.transformers_name(name) for name in names}
    assert len(translated) == len(names)


def test_newer_spelling_of_weight_normalisation(folder: Path) -> None:
    before = load.load_model(folder)

    def rename(weights: dict[str, Any]) -> None:
        for number, letter in enumerate("gv"):
            new = f"{POSITIONAL}parametrizations.weight.original{number}"
            weights[new] = weights.pop(f"{POSITIONAL}weight_{letter}")

    change_weights(folder, rename)
    assert same_weights(before, load.load_model(folder))


def shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {}
    for number in (0, 1):
        name = f"model-0000{number + 1}-of-00002.safetensors"
        part = {key: tensor for n, (key, tensor) in enumerate(weights.items()) if n % 2 == number}
        save_file(part, folder / name)
        table |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_weights_in_several_files(folder: Path) -> None:
    before = load.load_model(folder)
    shard(folder)
    assert same_weights(before, load.load_model(folder))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00002"):
        load.load_model(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "x.bin"])
def test_an_index_names_safetensors_beside_it_only(folder: Path, name: str) -> None:
    shard(folder)
    index = {"weight_map": {"a": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(FormatError, match="nothing else"):
        load.load_model(folder)


def test_a_pickle_is_read_where_there_is_nothing_better(folder: Path) -> None:
    before = load.load_model(folder)
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    assert open_model(folder).store.tensors["lm_head.bias"].file.name == "model.safetensors"
    (folder / "model.safetensors").unlink()
    reading = open_model(folder)
    assert reading.store.tensors["lm_head.bias"].file.name == "pytorch_model.bin"
    assert same_weights(before, load.load_model(folder))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load.load_model(folder)


def test_pickles_in_several_files(folder: Path) -> None:
    before = load.load_model(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {}
    for number in (0, 1):
        name = f"pytorch_model-0000{number + 1}-of-00002.bin"
        part = {key: tensor for n, (key, tensor) in enumerate(weights.items()) if n % 2 == number}
        torch.save(part, folder / name)
        table |= dict.fromkeys(part, name)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": table}))
    assert same_weights(before, load.load_model(folder))
    torch.save(weights, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match="stored twice"):
        load.load_model(folder)


def test_an_index_and_its_files_must_agree(folder: Path) -> None:
    shard(folder)
    path = folder / "model.safetensors.index.json"
    table = json.loads(path.read_text())["weight_map"]
    lost = table.pop("lm_head.bias")
    path.write_text(json.dumps({"weight_map": {**table, "lm_head.extra": lost}}))
    with pytest.raises(CheckpointError, match="disagree") as caught:
        load.load_model(folder)
    assert caught.value.missing == ("lm_head.extra",)
    assert caught.value.unexpected == ("lm_head.bias",)


@pytest.mark.parametrize("number", range(4))
def test_left_over_missing_and_misshapen_weights(folder: Path, number: int) -> None:
    def change(weights: dict[str, Any]) -> None:
        if number == 0:
            weights["wav2vec2.adapter.proj.weight"] = torch.zeros(2)
        elif number == 1:
            del weights["wav2vec2.encoder.layers.1.layer_norm.bias"]
        elif number == 2:
            weights["lm_head.weight"] = torch.zeros(7, 16)
        else:
            for name in list(weights):
                if name.startswith(POSITIONAL):
                    del weights[name]

    change_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load.load_model(folder)
    error = caught.value
    expected = [
        ((), ("wav2vec2.adapter.proj.weight",), ()),
        (("wav2vec2.encoder.layers.1.layer_norm.bias",), (), ()),
        ((), (), ("lm_head.weight: expected (8, 16), found (7, 16)",)),
        (tuple(f"{POSITIONAL}{end}" for end in ("weight_g", "weight_v", "bias")), (), ()),
    ][number]
    assert (error.missing, error.unexpected, error.mismatched) == expected


def test_a_model_trained_without_masking_has_no_mask_embedding(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    loaded = []
    for path in (folder, tmp_path / "copy"):
        change_weights(path, lambda weights: weights.pop("wav2vec2.masked_spec_embed"))
        loaded.append(load.load_model(path))
        assert loaded[-1].provenance["initialised"] == ["encoder.mask_embedding"]
    assert same_weights(*loaded)
    embedding = loaded[0].model.encoder.mask_embedding
    assert embedding.shape == (16,)
    assert embedding.requires_grad


def test_a_pretraining_model_must_have_its_mask_embedding(tmp_path: Path) -> None:
    folder = writer.save(tiny_pretraining(), tmp_path / "model")
    change_weights(folder, lambda weights: weights.pop("wav2vec2.masked_spec_embed"))
    with pytest.raises(CheckpointError, match="masked_spec_embed"):
        load.load_model(folder)


def test_a_model_without_heads_is_an_encoder(tmp_path: Path) -> None:
    bundle = tiny_pretraining()
    folder = writer.save(bundle, tmp_path / "model")

    def strip(weights: dict[str, Any]) -> None:
        for name in list(weights):
            tensor = weights.pop(name)
            if name.startswith("wav2vec2."):
                weights[name.removeprefix("wav2vec2.")] = tensor

    change_weights(folder, strip)
    change_json(folder, "config.json", {"architectures": ["Wav2Vec2Model"]})
    loaded = load.load_model(folder)
    assert loaded.config == EncoderOnlyConfig(encoder=bundle.config.encoder)
    assert same_weights(loaded, load.load_model(folder))
    ours, theirs = bundle.model.state_dict(), loaded.model.state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert "initialised" not in loaded.provenance
    change_json(folder, "config.json", {"architectures": None})
    assert load.load_model(folder).provenance["architecture"] == "Wav2Vec2Model"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"add_adapter": True}, "add_adapter"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"feat_extract_activation": "swish"}, "feat_extract_activation"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "wav2vec2-conformer"}, "wav2vec2-conformer"),
        ({"model_type": None}, "model_type"),
        ({"architectures": ["Wav2Vec2ForMaskedLM"]}, "Wav2Vec2ForMaskedLM"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads"),
        ({"architectures": "Wav2Vec2ForCTC"}, "architecture"),
    ],
)
def test_what_is_not_supported_is_named(folder: Path, change: dict[str, Any], name: str) -> None:
    change_json(folder, "config.json", change)
    with pytest.raises(FormatError, match=name):
        load.load_model(folder)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"vocab_size": 10**9}, "vocab"),
        ({"vocab_size": None}, "vocab_size"),
        ({"vocab_size": 8.0}, "vocab_size"),
        ({"num_hidden_layers": 10**6}, "layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"hidden_size": 7, "num_attention_heads": 2}, "dim"),
        ({"hidden_size": 16 * 10**12}, "dim"),
        ({"conv_stride": [5, 0, 2]}, "conv_stride"),
        ({"conv_stride": [5, -2, 2]}, "conv_stride"),
        ({"conv_kernel": [10, 3]}, "equally long"),
        ({"conv_dim": []}, "conv_dim"),
        ({"conv_dim": "[512] * 7"}, "conv_dim"),
        ({"conv_kernel": [10**9, 3, 4]}, "kernel"),
        ({"feat_extract_norm": "batch"}, "feat_extract_norm"),
        ({"do_stable_layer_norm": "yes"}, "do_stable_layer_norm"),
        ({"num_conv_pos_embedding_groups": 3}, "positional_groups"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps"),
        ({"hidden_dropout": 1.5}, "hidden_dropout"),
        ({"mask_time_prob": -1}, "mask_time_prob"),
    ],
)
@pytest.mark.timeout(10)
def test_settings_out_of_range_are_refused_before_memory_is_taken(
    folder: Path, change: dict[str, Any], name: str
) -> None:
    change_json(folder, "config.json", change)
    with pytest.raises(ConfigError, match=name):
        load.load_model(folder)


def test_defaults_are_those_of_transformers(folder: Path) -> None:
    settings = Settings(values={}, source=folder / "config.json")
    config = networks.network_config(settings, networks.CTC)
    assert isinstance(config, CtcConfig)
    assert config.vocab == 32
    assert config.head_dropout == 0.1
    assert config.encoder.conv_norm == "group"
    assert config.encoder.layer_drop == 0.1
    assert config.encoder.activation_dropout == 0.1
    assert config.masking == MaskingConfig(
        time_probability=0.05,
        time_span_frames=10,
        time_min_spans=2,
        channel_probability=0.0,
        channel_span=10,
        channel_min_spans=0,
    )
    pretraining = networks.network_config(settings, networks.PRETRAINING)
    assert pretraining == PretrainingConfig(encoder=config.encoder)


def test_masking_settings_are_kept(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    masking = MaskingConfig(
        time_probability=0.4, time_span_frames=7, channel_probability=0.2, channel_span=5
    )
    config = CtcConfig(encoder=bundle.config.encoder, vocab=8, masking=masking, head_dropout=0.2)
    bundle.model.config = config
    folder = writer.save(bundle, tmp_path / "model")
    assert load.load_model(folder).config == config


def test_spec_augment_can_be_off(folder: Path) -> None:
    change_json(folder, "config.json", {"mask_time_prob": 0.3, "apply_spec_augment": False})
    config = load.load_model(folder).config
    assert config.masking.time_probability == 0


# ------------------------------------------------------------------------------ input


@pytest.mark.parametrize("kind", ["group", "layer"])
def test_without_a_feature_extractor(tmp_path: Path, kind: Any) -> None:
    folder = writer.save(tiny_ctc(kind), tmp_path / "model")
    (folder / "preprocessor_config.json").unlink()
    assert load.load_model(folder).input_spec == InputSpec(
        normalize=True, normalize_epsilon=1e-7, attention_mask=kind == "layer"
    )


def test_feature_extractor_within_the_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").rename(folder / "inner.json")
    inner = json.loads((folder / "inner.json").read_text())
    change_json(
        folder,
        "processor_config.json",
        {"feature_extractor": inner | {"return_attention_mask": True, "sampling_rate": 8000}},
    )
    spec = load.load_model(folder).input_spec
    assert (spec.normalize, spec.attention_mask, spec.sample_rate) == (False, True, 8000)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"feature_extractor_type": "SeamlessM4TFeatureExtractor"}, "SeamlessM4T"),
        ({"feature_size": 80}, "feature_size 80"),
        ({"padding_value": 1.0}, "padding_value 1.0"),
        ({"padding_side": "left"}, "left"),
        ({"do_normalize": 1}, "do_normalize"),
        ({"sampling_rate": 0}, "sampling_rate"),
    ],
)
def test_input_that_is_not_supported(folder: Path, change: dict[str, Any], name: str) -> None:
    change_json(folder, "preprocessor_config.json", change)
    with pytest.raises((FormatError, ConfigError), match=name):
        load.load_model(folder)


# ------------------------------------------------------------------------------ alphabet


def write_vocabulary(folder: Path, tokens: dict[str, Any], **roles: Any) -> None:
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens))
    change_json(folder, "config.json", {"pad_token_id": None})
    if roles:
        (folder / "tokenizer_config.json").write_text(json.dumps(roles))


def numbered(*tokens: str) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def test_vocabulary_of_the_original_models(folder: Path) -> None:
    write_vocabulary(folder, numbered("<pad>", "<s>", "</s>", "<unk>", "|", "E", "T", "'"))
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert alphabet.blank == "<pad>"
    assert alphabet.blank_id == 0
    assert alphabet.word_boundary == "|"
    assert alphabet.unknown == "<unk>"
    assert set(alphabet.special) == {"<s>", "</s>"}
    assert alphabet.encode("te t'e") == [6, 5, 4, 6, 7, 5]
    assert alphabet.decode([6, 5, 4, 6, 0, 1, 5]) == "TE TE"


def test_vocabulary_of_a_fine_tuned_community_model(folder: Path) -> None:
    write_vocabulary(
        folder,
        numbered("a", "b", "ጀ", "ñ", "ä", "|", "[UNK]", "[PAD]"),
        pad_token="[PAD]",
        unk_token={"content": "[UNK]", "lstrip": False},
        word_delimiter_token="|",
    )
    (folder / "added_tokens.json").write_text('{"<s>": 8, "</s>": 9}')
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert (alphabet.blank, alphabet.unknown) == ("[PAD]", "[UNK]")
    assert alphabet.special == ()
    assert alphabet.encode("ab ጀ") == [0, 1, 5, 2]


def test_special_tokens_beside_the_tokenizer(folder: Path) -> None:
    write_vocabulary(folder, numbered("_", "a", "b", "c", "d", "e", " ", "?"))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "_", "unk_token": "?"}')
    change_json(folder, "tokenizer_config.json", {"word_delimiter_token": " "})
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert (alphabet.blank, alphabet.unknown, alphabet.word_boundary) == ("_", "?", " ")
    assert alphabet.decode(alphabet.encode("ab  cd")) == "ab cd"


def test_no_word_boundary(folder: Path) -> None:
    write_vocabulary(folder, numbered("<pad>", "a", "b", "c", "d", "e", "f", "g"))
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert alphabet.word_boundary is None
    assert alphabet.unknown is None


def test_lower_case_tokenizer(folder: Path) -> None:
    write_vocabulary(
        folder,
        numbered("<pad>", "|", "<unk>", "A", "Ñ", "B", "C", "c"),
        do_lower_case=True,
        unk_token="<unk>",
    )
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert alphabet.tokens == ("<pad>", "|", "<unk>", "a", "ñ", "b", "C", "c")
    assert alphabet.decode([3, 4, 1, 5]) == "añ b"


def test_decomposed_keys_and_long_tokens(folder: Path) -> None:
    write_vocabulary(folder, numbered("<pad>", "|", "n\u0303", "sh", "s", "h", "a", "ɛ\u0301"))
    alphabet = load.load_model(folder).alphabet
    assert alphabet is not None
    assert alphabet.encode("ña shas ɛ\u0301") == [2, 6, 1, 3, 6, 4, 1, 7]


def test_without_a_vocabulary_there_are_emissions_only(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "vocab.json").unlink()
    for architectures in (["Wav2Vec2ForCTC"], None):
        change_json(folder, "config.json", {"architectures": architectures})
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load.load_model(folder).alphabet is None
        assert "vocab.json is not there" in caplog.text


def test_a_tokenizer_that_writes_no_letters(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    kind = "Wav2Vec2PhonemeCTCTokenizer"
    change_json(folder, "tokenizer_config.json", {"tokenizer_class": kind})
    with caplog.at_level(logging.WARNING):
        assert load.load_model(folder).alphabet is None
    assert kind in caplog.text


@pytest.mark.parametrize(
    ("tokens", "roles", "message"),
    [
        (numbered("|", *"abcdefg"), {}, "no blank.*'<pad>'"),
        (numbered("<pad>", *"abcdefg"), {"pad_token": "[PAD]"}, r"no blank.*'\[PAD\]'"),
        (numbered("<pad>", *"abc"), {}, "expected 8 tokens.*found 4.*token: 4, 5, 6, 7"),
        (numbered("<pad>", *"abcdefgh"), {}, r"found 9.*without an output: 8 \('h'\)"),
        ({**numbered("<pad>", *"abcdef"), "z": 9}, {}, "vocab.json.*missing 7"),
        ({**numbered("<pad>", *"abcdef"), "z": 3}, {}, "vocab.json.*repeated 3"),
        ({**numbered("<pad>", *"abcdef"), "z": "7"}, {}, "vocab.json.*integer"),
        ({**numbered("<pad>", *"abcdef"), "z": -1}, {}, "vocab.json.*missing 7"),
        (numbered("<pad>", *"abcdef", ""), {}, "vocab.json"),
        (numbered("<pad>", *"abcdef", "<unk>"), {"word_delimiter_token": "<pad>"}, "two duties"),
        ({}, {}, "no blank"),
    ],
)
def test_vocabularies_that_do_not_fit(
    folder: Path, tokens: dict[str, Any], roles: dict[str, Any], message: str
) -> None:
    write_vocabulary(folder, tokens, **roles)
    with pytest.raises((AlphabetError, FormatError), match=message):
        load.load_model(folder)


def test_two_tokens_of_one_name(folder: Path) -> None:
    text = json.dumps(numbered(*LETTERS)).replace('"ñ"', '"a"').replace('"\\u00f1"', '"a"')
    (folder / "vocab.json").write_text(text)
    with pytest.raises(FormatError, match="'a' comes twice"):
        load.load_model(folder)


# ------------------------------------------------------------------------------ finding models


@pytest.mark.parametrize(
    ("name", "is_name"),
    [
        ("facebook/wav2vec2-base-960h", True),
        ("a/b", True),
        ("a.b_c/d-e.f", True),
        ("wav2vec2", False),
        ("a/b/c", False),
        ("../b", False),
        ("./b", False),
        ("~/b", False),
        ("/b", False),
        ("a/", False),
        ("a/.b", False),
        ("a b/c", False),
        ("C:/models", False),
        ("ñ/b", False),
    ],
)
def test_names_on_the_hub(name: str, is_name: bool) -> None:
    assert is_hub_name(name) == is_name


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Pretend that the hub has the model of `folder` under every name."""
    import huggingface_hub

    calls: list[dict[str, Any]] = []

    def download(name: str, **options: Any) -> str:
        calls.append({"name": name, **options})
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


@pytest.mark.parametrize(
    ("source", "revision"), [("org/name", None), ("hf:org/name", None), ("hf:org/name@v2", "v2")]
)
def test_models_on_the_hub(
    hub: list[dict[str, Any]], folder: Path, source: str, revision: str | None
) -> None:
    bundle = load.load_model(source)
    assert bundle.provenance["source"] == "hf:org/name"
    assert bundle.provenance["revision"] == folder.name
    assert [(call["name"], call["revision"]) for call in hub] == [("org/name", revision)]
    patterns = hub[0]["allow_patterns"]
    assert "config.json" in patterns
    assert not any(name.endswith((".bin", ".py", "*")) for name in patterns)
    assert load.model_fingerprint(source) == load.model_fingerprint(folder)


def test_pickles_are_fetched_only_where_there_is_nothing_better(
    hub: list[dict[str, Any]], folder: Path
) -> None:
    (folder / "model.safetensors").rename(folder / "elsewhere")
    with pytest.raises(CheckpointError, match="has no weights"):
        load.load_model("org/name")
    first, second = hub
    assert not any(name.endswith(".bin") for name in first["allow_patterns"])
    assert "pytorch_model.bin" in second["allow_patterns"]
    # The same commit, whatever happened to the branch in between.
    assert (first["revision"], second["revision"]) == (None, folder.name)


def test_of_a_model_with_languages_one_is_fetched(hub: list[dict[str, Any]], folder: Path) -> None:
    assert fetch("org/name", adapter="lug")[0] == folder
    assert "adapter.lug.safetensors" in hub[0]["allow_patterns"]
    assert hub[1]["allow_patterns"] == ["adapter.lug.bin"]
    hub.clear()
    (folder / "adapter.lug.safetensors").touch()
    fetch("org/name", adapter="lug")
    assert len(hub) == 1
    hub.clear()
    fetch("org/name", adapter="*")
    assert "adapter" not in str(hub)


def test_a_folder_goes_before_the_hub(
    hub: list[dict[str, Any]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    (folder.parent / "org").mkdir()
    shutil.copytree(folder, "org/name")
    assert load.load_model("org/name").provenance["source"] == "org/name"
    (folder.parent / "org" / "data").mkdir()
    with pytest.raises(FormatError, match=r'found nothing.*"hf:org/data"'):
        load.load_model("org/data")
    assert hub == []
    load.load_model("hf:org/data")
    assert len(hub) == 1


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def download(name: str, **options: Any) -> str:
        raise LocalEntryNotFoundError("no connection\nand a second line")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ConfigError, match=r"org/name could not be fetched.*no connection") as error:
        load.load_model("org/name")
    assert "second line" not in str(error.value)


def test_hub_client_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r'pip install "unheard\[hub\]"'):
        load.load_model("org/name")


def test_sources_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "recordings").mkdir()
    for number in range(7):
        (tmp_path / "recordings" / f"{number}.wav").touch()
    for name in ("model.pt", "model.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    messages = {
        "empty": "found nothing",
        "recordings": "0.wav.*and 2 more",
        "model.pt": "is empty",
        "model.safetensors": "is empty",
        "notes.txt": "is empty",
        "missing": "no model",
    }
    for name, message in messages.items():
        with pytest.raises(UnheardError, match=message):
            load.load_model(tmp_path / name)
    with pytest.raises(ConfigError, match="not a name on the Hugging Face hub"):
        load.load_model("hf:nothing")


def test_a_loaded_model_is_taken_as_it_is() -> None:
    bundle = tiny_ctc()
    assert load.load_model(bundle, dtype=torch.float64) is bundle
    assert bundle.dtype == torch.float64


def test_fingerprint_of_a_transformers_folder(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("x")
    assert load.model_fingerprint(folder) == load.model_fingerprint(tmp_path / "copy")
    change_weights(tmp_path / "copy", lambda weights: weights["lm_head.bias"].add_(1))
    assert load.model_fingerprint(folder) != load.model_fingerprint(tmp_path / "copy")


def test_nothing_but_older_models_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    with pytest.raises(FormatError, match="not a model folder"):
        writer.save(tiny_ctc(), tmp_path / "texts")
