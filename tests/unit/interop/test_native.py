import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_models import (
    tiny_alphabet,
    tiny_ctc,
    tiny_encoder,
    tiny_masked_units,
    tiny_pretraining,
)

import unheard
from unheard.audio.signal import InputSpec
from unheard.errors import AlphabetError, CheckpointError, ConfigError, FormatError
from unheard.files import sha256_file
from unheard.interop import load, native, storage
from unheard.interop.adapters import new_adapter
from unheard.interop.bundle import NETWORKS, ModelBundle
from unheard.models.config import (
    CtcConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
    TdnnLayer,
)
from unheard.models.ctc import CtcModel
from unheard.models.sequence_classifier import SequenceClassifierModel


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return native.save_model(tiny_ctc(), tmp_path / "model")


def rehash(folder: Path) -> None:
    """Make the hashes fit again, as somebody with bad intentions would."""
    names = ("config.json", "model.safetensors")
    hashes = {name: sha256_file(folder / name) for name in names}
    (folder / "hashes.json").write_text(json.dumps(hashes))


def change_config(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / "config.json").read_text())
    change(data)
    (folder / "config.json").write_text(json.dumps(data))
    rehash(folder)


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    rehash(folder)


@pytest.mark.parametrize("make", [tiny_ctc, tiny_pretraining, tiny_masked_units])
@pytest.mark.parametrize("kind", ["group", "layer"])
def test_what_is_saved_comes_back(
    tmp_path: Path, make: Callable[..., ModelBundle], kind: str
) -> None:
    bundle = make(kind)
    native.save_model(bundle, tmp_path / "a" / "model")
    loaded = load.load_model(tmp_path / "a" / "model")
    assert loaded.config == bundle.config
    assert loaded.alphabet == bundle.alphabet
    assert loaded.input_spec == bundle.input_spec
    assert loaded.provenance == bundle.provenance
    assert not loaded.model.training
    ours, stored = bundle.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[name], stored[name]) for name in ours)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["model"]


@pytest.mark.parametrize(
    "config",
    [
        EncoderOnlyConfig(encoder=tiny_encoder()),
        SequenceClassifierConfig(encoder=tiny_encoder(), classes=3, weighted_layers=True),
        FrameClassifierConfig(encoder=tiny_encoder(), classes=2),
        SpeakerConfig(
            encoder=tiny_encoder(),
            classes=5,
            layers=(TdnnLayer(channels=6, kernel=3, dilation=2),),
            embedding_dim=4,
        ),
    ],
    ids=lambda config: type(config).__name__,
)
def test_networks_with_other_heads_come_back(tmp_path: Path, config: Any) -> None:
    torch.manual_seed(0)
    model: Any = NETWORKS[type(config)](config)
    bundle = ModelBundle(model=model.eval(), alphabet=None, input_spec=InputSpec())
    loaded = load.load_model(native.save_model(bundle, tmp_path / "model"))
    assert loaded.config == config
    ours, stored = model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == stored.keys()
    assert all(torch.equal(ours[name], stored[name]) for name in ours)


def test_reading_a_model_loads_no_compiler(folder: Path) -> None:
    # Initialising weights without memory would import a second's worth of torch.
    program = (
        "import sys; from unheard.interop import load; load.load_model(sys.argv[1]);"
        "print('torch._dynamo' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(unheard.__file__).parents[1])},
    )
    assert result.stdout.split() == ["False"]


def test_a_loaded_model_owns_its_weights(folder: Path) -> None:
    loaded = load.load_model(folder, mapped=False)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-400:] = bytes(400)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(data)
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_model_whose_weights_stay_in_their_file_outlives_the_file(folder: Path) -> None:
    before = tiny_ctc().model.state_dict()
    loaded = load.load_model(folder, mapped=True)
    native.save_model(tiny_ctc(seed=1), folder)
    after = loaded.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(weight.data_ptr() % 64 == 0 for weight in after.values())
    shutil.rmtree(folder)
    samples = torch.randn(1, 800, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(
            loaded.model(samples, None).logits, tiny_ctc().model(samples, None).logits
        )


def test_the_language_in_use_is_kept(tmp_path: Path) -> None:
    bundle = new_adapter(
        tiny_ctc("layer"), "kmr", tiny_alphabet(), generator=torch.Generator().manual_seed(0)
    )
    folder = native.save_model(bundle, tmp_path / "model")
    for asked in (None, "kmr"):
        loaded = load.load_model(folder, adapter=asked)
        assert loaded.adapter == "kmr"
        ours, stored = bundle.model.state_dict(), loaded.model.state_dict()
        assert ours.keys() == stored.keys()
        assert all(torch.equal(ours[name], stored[name]) for name in ours)
    with pytest.raises(ConfigError, match=r"'deu'.*kmr"):
        load.open_model(folder, adapter="deu")
    plain = native.save_model(tiny_ctc(), tmp_path / "plain")
    with pytest.raises(ConfigError, match="no adapter for the language 'kmr'"):
        load.open_model(plain, adapter="kmr")
    change_config(folder, lambda data: data.update(adapter=["kmr"]))
    with pytest.raises(FormatError, match="name of a language"):
        load.open_model(folder)


def test_labels_are_kept_and_fit_the_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SequenceClassifierModel(SequenceClassifierConfig(encoder=tiny_encoder(), classes=3))
    bundle = ModelBundle(
        model=model.eval(), alphabet=None, input_spec=InputSpec(), labels=("ko", "ñu", "x")
    )
    folder = native.save_model(bundle, tmp_path / "model")
    loaded = load.load_model(folder)
    assert loaded.labels == ("ko", "ñu", "x")
    assert loaded.config == bundle.config
    for wrong, message in ((["ko"], "expected 3 names, found 1"), ("koñ", "list of names")):
        change_config(folder, lambda data, wrong=wrong: data.update(labels=wrong))
        with pytest.raises((CheckpointError, FormatError), match=message):
            load.open_model(folder)
    with pytest.raises(CheckpointError, match="expected 3 names, found 2"):
        native.save_model(replace(bundle, labels=("a", "b")), tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_weights_take_the_type_that_is_asked_for(folder: Path, dtype: torch.dtype) -> None:
    assert load.load_model(folder, dtype=dtype).dtype == dtype


def test_types_of_stored_weights(tmp_path: Path) -> None:
    for stored, read in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        bundle = tiny_ctc()
        bundle.model.to(stored)
        folder = native.save_model(bundle, tmp_path / str(stored))
        loaded = load.load_model(folder)
        assert {parameter.dtype for parameter in loaded.model.parameters()} == {read}
        assert torch.equal(
            loaded.model.state_dict()["head.weight"],
            bundle.model.state_dict()["head.weight"].to(read),
        )


def flipped(path: Path, places: Iterable[tuple[int, int]]) -> Iterator[None]:
    """Flip one bit of a file at a time: at each place (byte, bit)."""
    data = path.read_bytes()
    for byte, bit in places:
        changed = bytearray(data)
        changed[byte] ^= 1 << bit
        path.write_bytes(changed)
        yield
    path.write_bytes(data)


def test_a_flipped_bit_of_the_configuration_is_named_wherever_it_is(folder: Path) -> None:
    path = folder / "config.json"
    for _ in flipped(path, ((byte, byte % 8) for byte in range(0, path.stat().st_size, 3))):
        with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
            load.open_model(folder)


def test_a_flipped_bit_of_the_weights_is_named_wherever_it_is(folder: Path) -> None:
    path = folder / "model.safetensors"
    size = path.stat().st_size
    header = 8 + int.from_bytes(path.read_bytes()[:8], "little")
    places = [*range(0, header, 211), *range(header, size, size // 60), size - 2, size - 1]
    for mapped in (False, True):
        for _ in flipped(path, ((byte, byte % 8) for byte in places)):
            with pytest.raises(CheckpointError, match=r"model\.safetensors"):
                load.load_model(folder, mapped=mapped)
    load.load_model(folder)


def test_a_flipped_bit_of_the_hashes_is_found_or_means_nothing(folder: Path) -> None:
    path = folder / "hashes.json"
    meant = json.loads(path.read_text())
    found = harmless = 0
    for _ in flipped(path, itertools.product(range(path.stat().st_size), range(0, 8, 2))):
        data = path.read_bytes()
        if b"\r" in data or data.count(b"\t"):  # white space for white space
            assert json.loads(data) == meant
            harmless += 1
            continue
        with pytest.raises((CheckpointError, FormatError), match=r"hashes\.json"):
            load.load_model(folder)
        found += 1
    assert found > 500
    assert harmless < 5


@pytest.mark.parametrize("name", ["config.json", "hashes.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load.load_model(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "hashes.json"])
def test_a_cut_file_is_refused(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises((CheckpointError, FormatError), match=name):
        load.load_model(folder)


def test_hashes_cannot_point_elsewhere(folder: Path) -> None:
    hashes = json.loads((folder / "hashes.json").read_text())
    (folder / "hashes.json").write_text(json.dumps({**hashes, "../x": "0"}))
    (folder.parent / "x").write_text("x")
    with pytest.raises(CheckpointError, match=r"\.\./x"):
        load.load_model(folder)


def test_names_and_shapes_must_fit_exactly(folder: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["extra"] = weights.pop("head.bias")
        weights["head.weight"] = weights["head.weight"].t().contiguous()

    change_weights(folder, change)
    with pytest.raises(CheckpointError) as caught:
        load.load_model(folder)
    assert caught.value.missing == ("head.bias",)
    assert caught.value.unexpected == ("extra",)
    assert caught.value.mismatched == ("head.weight: expected (8, 16), found (16, 8)",)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_neither_written_nor_read(
    folder: Path, tmp_path: Path, value: float
) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["encoder.projection.bias"][3] = value

    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"encoder\.projection\.bias"):
        load.load_model(folder)
    bundle = tiny_ctc()
    with torch.no_grad():
        bundle.model.encoder.projection.bias[3] = value
    with pytest.raises(CheckpointError, match=r"encoder\.projection\.bias"):
        native.save_model(bundle, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_weights_must_be_floating_point(folder: Path) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["head.bias"] = weights["head.bias"].to(torch.int32)

    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"head\.bias: I32"):
        load.load_model(folder)


def test_an_older_model_is_replaced_whole(folder: Path) -> None:
    (folder / "part-of-another.safetensors").write_text("x")
    bundle = tiny_ctc(seed=1)
    native.save_model(bundle, folder)
    loaded = load.load_model(folder)
    assert torch.equal(
        loaded.model.state_dict()["head.weight"], bundle.model.state_dict()["head.weight"]
    )
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["config.json", "hashes.json", "model.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_nothing_else_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings" / "a.wav").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("recordings", "file"):
        with pytest.raises(FormatError, match="not a model folder"):
            native.save_model(tiny_ctc(), tmp_path / name)
    assert (tmp_path / "recordings" / "a.wav").read_bytes() == b"x"
    assert (tmp_path / "file").read_bytes() == b"x"
    (tmp_path / "empty").mkdir()
    native.save_model(tiny_ctc(), tmp_path / "empty")
    load.load_model(tmp_path / "empty")


def test_a_failure_while_writing_leaves_the_old_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = native.fingerprint(folder)

    def fail(*arguments: Any) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(storage, "write_tensors", fail)
    with pytest.raises(OSError, match="disk is full"):
        native.save_model(tiny_ctc(seed=1), folder)
    assert native.fingerprint(folder) == before
    load.load_model(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_provenance_must_be_plain_data(tmp_path: Path) -> None:
    bundle = tiny_ctc()
    bundle.provenance["score"] = float("nan")
    with pytest.raises(FormatError):
        native.save_model(bundle, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_the_alphabet_must_fit_the_head(tmp_path: Path) -> None:
    good = tiny_ctc()
    model = CtcModel(CtcConfig(encoder=tiny_encoder(), vocab=9))
    bundle = ModelBundle(model=model, alphabet=good.alphabet, input_spec=good.input_spec)
    with pytest.raises(CheckpointError, match="expected 9 tokens, found 8"):
        native.save_model(bundle, tmp_path / "new")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"version": 2}, FormatError, "newer release"),
        ({"version": None}, FormatError, "another version"),
        ({"format": "other"}, FormatError, "expected format 'unheard-model'"),
        ({"architecture": "conformer"}, FormatError, "'conformer'"),
        ({"architecture": ["ctc"]}, FormatError, "ctc or pretraining"),
        ({"input_spec": {"normalise": True}}, ConfigError, "config.json.*normalise"),
        ({"input_spec": {"padding": "reflect"}}, ConfigError, "reflect"),
        ({"config": {}}, ConfigError, "config.json"),
        ({"alphabet": {"tokens": []}}, AlphabetError, "config.json"),
    ],
)
def test_settings_that_are_not_valid(
    folder: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    change_config(folder, lambda data: data.update(change))
    with pytest.raises(error, match=message):
        load.load_model(folder)


def test_a_missing_key_is_named(folder: Path) -> None:
    change_config(folder, lambda data: data.pop("input_spec"))
    with pytest.raises(FormatError, match="input_spec"):
        load.load_model(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [("layers", 10**6), ("dim", 16 * 10**9), ("ffn_dim", 10**12), ("layers", 0)],
)
@pytest.mark.timeout(10)
def test_sizes_beyond_reason_are_refused_at_once(folder: Path, name: str, value: int) -> None:
    change_config(folder, lambda data: data["config"]["encoder"].update({name: value}))
    with pytest.raises(ConfigError, match=name):
        load.load_model(folder)


def test_fingerprint(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    other = native.save_model(tiny_ctc(seed=1), tmp_path / "other")
    assert load.model_fingerprint(folder) == load.model_fingerprint(tmp_path / "copy")
    assert load.model_fingerprint(folder) != load.model_fingerprint(other)


def test_what_else_lies_in_a_model_folder_stays(tmp_path: Path) -> None:
    """Regression: saving a model again deleted a page about it, and its history."""
    folder = tmp_path / "model"
    native.save_model(tiny_ctc(), folder)
    (folder / "README.md").write_text("about the recordings")
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref: main")
    (folder / "pytorch_model.bin").write_bytes(b"of another model")
    native.save_model(tiny_ctc(seed=1), folder)
    assert (folder / "README.md").read_text() == "about the recordings"
    assert (folder / ".git" / "HEAD").read_text() == "ref: main"
    assert not (folder / "pytorch_model.bin").exists()
    assert load.load_model(folder).config == tiny_ctc().config
