"""torchaudio's and fairseq2's reference models and numbers, and the layouts of published ones."""

import functools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from unheard.interop.stored import StoredTensor

ASSETS = Path(__file__).parents[1] / "assets"

FRAMES = (0, 3, 6, 10, 13, 15)
"""Frames of each stage that the assets keep."""

REAL_FRAMES = (16, 11)

KERNELS = (10, 3, 3, 3, 3, 2, 2)


def copy_asset(kind: str, name: str, folder: Path, **settings: Any) -> Path:
    """Put a model of the assets into a folder, with settings beside it."""
    path = folder / f"{name}.safetensors"
    shutil.copyfile(ASSETS / kind / path.name, path)
    settings.setdefault("heads", 2 if name.startswith("base") else 4)
    (folder / f"{path.name}.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


@functools.cache
def weights(kind: str, name: str) -> dict[str, Tensor]:
    """Return a model's weights under the peer's names."""
    return load_file(ASSETS / kind / f"{name}.safetensors")


@functools.cache
def expected(kind: str, name: str) -> dict[str, Tensor]:
    """Return the peer's numbers."""
    return load_file(ASSETS / kind / f"{name}.expected.safetensors")


def batch(kind: str, name: str, case: str) -> tuple[Tensor, Tensor | None, list[int]]:
    """Return samples, lengths and the real frames of each row of a case."""
    numbers = expected(kind, name)
    audio = [numbers[f"audio.{row}"].double() for row in range(2)]
    if case != "batch":
        row = int(case.removeprefix("utt"))
        return audio[row][None], None, [REAL_FRAMES[row]]
    longest = audio[0].shape[0]
    samples = torch.stack([F.pad(a, (0, longest - a.shape[0])) for a in audio])
    return samples, torch.tensor([a.shape[0] for a in audio]), list(REAL_FRAMES)


def run_stages(model: Any, samples: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
    """Run one of our networks as the peers run theirs, keeping what they keep."""
    kept: dict[str, Tensor] = {}
    encoder = model.encoder
    places = {"features_projected": encoder.projection, "pos_conv": encoder.transformer.positional}
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: kept.update({name: output}))
        for name, module in places.items()
    ]
    with torch.no_grad():
        output = encoder(samples, lengths, padding="zeros", keep_layers=True)
    for handle in handles:
        handle.remove()
    kept |= {"conv_features": output.conv_features, "features_normed": output.normed_features}
    kept |= {f"layer.{n}": layer for n, layer in enumerate(output.layers[1:])}
    kept["final"] = output.frames
    if hasattr(model, "head"):
        kept["logits"] = model.head(output.frames)
    return kept


class NamesOnly:
    """A store of names and shapes without numbers (a `TensorStore`)."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], *, kind: str = "F32") -> None:
        file = Path("names-only.pt")
        self.tensors = {
            name: StoredTensor(
                file=file, shape=shape, kind="I64" if name.endswith("num_updates") else kind
            )
            for name, shape in shapes.items()
        }

    def verify(self) -> None:
        """Nothing to verify."""

    def read(self, name: str, *, out: Tensor | None = None) -> Tensor:
        """Nothing to read."""
        raise AssertionError(f"{name} was read, expected names and shapes only")


def _linear(name: str, rows: int, columns: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


def torchaudio_layout(
    dim: int,
    layers: int,
    ffn_dim: int,
    *,
    layer_norm: bool,
    conv_bias: bool,
    outputs: int | None = None,
    channels: int = 512,
    kernel: int = 128,
    groups: int = 16,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Wav2Vec2Model, written down from torchaudio's components.py."""
    shapes: dict[str, tuple[int, ...]] = {}
    for number, taps in enumerate(KERNELS):
        block = f"feature_extractor.conv_layers.{number}"
        shapes[f"{block}.conv.weight"] = (channels, channels if number else 1, taps)
        if conv_bias:
            shapes[f"{block}.conv.bias"] = (channels,)
        if layer_norm or number == 0:
            shapes |= _norm(f"{block}.layer_norm", channels)
    shapes |= _norm("encoder.feature_projection.layer_norm", channels)
    shapes |= _linear("encoder.feature_projection.projection", dim, channels)
    positional = "encoder.transformer.pos_conv_embed.conv"
    shapes[f"{positional}.bias"] = (dim,)
    shapes[f"{positional}.parametrizations.weight.original0"] = (1, 1, kernel)
    shapes[f"{positional}.parametrizations.weight.original1"] = (dim, dim // groups, kernel)
    shapes |= _norm("encoder.transformer.layer_norm", dim)
    for number in range(layers):
        layer = f"encoder.transformer.layers.{number}"
        for projection in ("k_proj", "v_proj", "q_proj", "out_proj"):
            shapes |= _linear(f"{layer}.attention.{projection}", dim, dim)
        shapes |= _norm(f"{layer}.layer_norm", dim)
        shapes |= _linear(f"{layer}.feed_forward.intermediate_dense", ffn_dim, dim)
        shapes |= _linear(f"{layer}.feed_forward.output_dense", dim, ffn_dim)
        shapes |= _norm(f"{layer}.final_layer_norm", dim)
    if outputs is not None:
        shapes |= _linear("aux", outputs, dim)
    return shapes


def fairseq2_layout(
    dim: int,
    layers: int,
    ffn_dim: int,
    *,
    large: bool,
    outputs: int | None = None,
    masker: bool = False,
    projection_dim: int | None = None,
    quantized_dim: int = 0,
    entries: int = 640,
    channels: int = 512,
    kernel: int = 128,
    groups: int = 16,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a wav2vec 2.0 network, written down from fairseq2's factory.py."""
    shapes: dict[str, tuple[int, ...]] = {}
    frontend = "encoder_frontend"
    for number, taps in enumerate(KERNELS):
        block = f"{frontend}.feature_extractor.layers.{number}"
        shapes[f"{block}.conv.weight"] = (channels, channels if number else 1, taps)
        if large:
            shapes[f"{block}.conv.bias"] = (channels,)
            shapes |= _norm(f"{block}.layer_norm", channels)
        elif number == 0:
            shapes |= _norm(f"{block}.group_norm", channels)
    shapes |= _norm(f"{frontend}.post_extract_layer_norm", channels)
    shapes |= _linear(f"{frontend}.model_dim_proj", dim, channels)
    positional = f"{frontend}.pos_encoder.conv"
    shapes[f"{positional}.bias"] = (dim,)
    shapes[f"{positional}.weight_g"] = (1, 1, kernel)
    shapes[f"{positional}.weight_v"] = (dim, dim // groups, kernel)
    shapes |= _norm("encoder.layer_norm" if large else f"{frontend}.layer_norm", dim)
    for number in range(layers):
        layer = f"encoder.layers.{number}"
        for projection in ("q_proj", "k_proj", "v_proj", "output_proj"):
            shapes |= _linear(f"{layer}.self_attn.{projection}", dim, dim)
        shapes |= _norm(f"{layer}.self_attn_layer_norm", dim)
        shapes |= _linear(f"{layer}.ffn.inner_proj", ffn_dim, dim)
        shapes |= _linear(f"{layer}.ffn.output_proj", dim, ffn_dim)
        shapes |= _norm(f"{layer}.ffn_layer_norm", dim)
    if masker or projection_dim is not None:
        shapes["masker.temporal_mask_embed"] = (dim,)
    if outputs is not None:
        shapes |= _linear("final_proj", outputs, dim)
    if projection_dim is not None:
        shapes["quantizer.entries"] = (1, entries, quantized_dim // 2)
        shapes["quantizer.num_updates"] = ()
        shapes |= _linear("quantizer.entry_proj", entries, channels)
        shapes |= _linear("final_proj", projection_dim, dim)
        shapes |= _linear("final_target_proj", projection_dim, quantized_dim)
    return shapes
