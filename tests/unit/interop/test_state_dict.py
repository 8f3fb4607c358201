import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.parity.state_dict_models import NamesOnly, torchaudio_layout

from unheard.errors import CheckpointError, ConfigError, FormatError
from unheard.interop import state_dict, storage, torchaudio
from unheard.models.config import EncoderConfig, EncoderOnlyConfig

Layout = dict[str, tuple[int, ...]]
CONVOLUTION = "feature_extractor.conv_layers.{}.conv.weight"


def base(**changes: Any) -> Layout:
    options = {"layer_norm": False, "conv_bias": False, **changes}
    return torchaudio_layout(768, 2, 3072, **options)


def understand(layout: Layout, folder: Path, **settings: Any) -> EncoderConfig:
    path = folder / "model.pth"
    if settings:
        path.with_name("model.pth.json").write_text(json.dumps(settings))
    return torchaudio.understand(NamesOnly(layout), path=path).config.encoder


@pytest.mark.parametrize("conv_norm", ["group", "layer"])
@pytest.mark.parametrize("conv_bias", [True, False])
def test_the_names_are_those_of_our_encoder(conv_norm: Any, conv_bias: bool) -> None:
    config = EncoderConfig(
        dim=16, heads=2, layers=3, ffn_dim=8, conv_norm=conv_norm, conv_bias=conv_bias
    )
    network = storage.build(EncoderOnlyConfig(encoder=config), source="test")
    names = state_dict.encoder_names(config)
    assert sorted([*names, "encoder.mask_embedding"]) == sorted(network.state_dict())


def test_kernels_that_nobody_published_need_strides(tmp_path: Path) -> None:
    layout = base() | {CONVOLUTION.format(6): (512, 512, 5)}
    with pytest.raises(ConfigError, match=r"kernels \(10, 3, 3, 3, 3, 2, 5\).*model\.pth\.json"):
        understand(layout, tmp_path)
    with pytest.raises(ConfigError, match="names 2 convolutions, the file has 7"):
        understand(layout, tmp_path, conv_strides=[5, 2])
    config = understand(layout, tmp_path, conv_strides=[5, 2, 2, 2, 2, 2, 3])
    assert config.stride_samples == 480


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (CONVOLUTION.format(3), (512, 512)),
        (CONVOLUTION.format(0), (512, 1, 0)),
        ("encoder.feature_projection.projection.weight", (768,)),
        ("encoder.transformer.layers.0.feed_forward.intermediate_dense.weight", ()),
        ("encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1", (0, 0, 0)),
    ],
)
def test_shapes_that_no_network_has(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        understand(base() | {name: shape}, tmp_path)
    assert error.value.mismatched[0].startswith(f"{name}: expected")


@pytest.mark.parametrize(
    "name",
    [
        CONVOLUTION.format(0),
        "encoder.feature_projection.projection.weight",
        "encoder.transformer.layers.0.feed_forward.intermediate_dense.weight",
        "encoder.transformer.pos_conv_embed.conv.parametrizations.weight.original1",
    ],
)
def test_tensors_without_which_nothing_can_be_told(name: str, tmp_path: Path) -> None:
    layout = base()
    del layout[name]
    with pytest.raises(CheckpointError) as error:
        understand(layout, tmp_path)
    # The older spelling of the weight norm is named where the file has neither.
    spelled = name.replace("parametrizations.weight.original1", "weight_v")
    assert error.value.missing == (spelled,)


def test_settings_that_do_not_fit_the_tensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.pth.*dim 768 and heads 7"):
        understand(base(), tmp_path, heads=7)


@pytest.mark.parametrize("number", ["01", "٣", "-1", "1.2", pytest.param("9" * 5000, id="huge")])
def test_odd_numbers_are_no_layers(number: str, tmp_path: Path) -> None:
    odd = f"encoder.transformer.layers.{number}.layer_norm.bias"
    with pytest.raises(CheckpointError) as error:
        understand(base() | {odd: (768,)}, tmp_path)
    assert error.value.unexpected == (odd,)


def test_whole_numbers_are_not_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not floating-point"):
        torchaudio.understand(NamesOnly(base(), kind="I8"), path=tmp_path / "quantised.pth")


def test_files_are_told_by_content(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2)}
    save_file(tensors, tmp_path / "a.pth")
    torch.save({"model": tensors, "optimizer": {"b": torch.ones(3)}}, tmp_path / "a.safetensors")
    assert state_dict.is_safetensors(tmp_path / "a.pth")
    assert not state_dict.is_safetensors(tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        assert list(state_dict.open_store(tmp_path / name).tensors) == ["a"]


def test_paths_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        state_dict.open_store(tmp_path / "none.pth")
    with pytest.raises(FormatError, match="expected"):
        state_dict.open_store(tmp_path)
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises((FormatError, CheckpointError), match=r"empty\.pth"):
        state_dict.open_store(tmp_path / "empty.pth")
    (tmp_path / "text.pth").write_text("not a model at all")
    with pytest.raises((FormatError, CheckpointError), match=r"text\.pth"):
        state_dict.open_store(tmp_path / "text.pth")
