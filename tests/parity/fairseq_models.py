"""fairseq's reference models and numbers, from tests/assets/fairseq (see its README)."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tests.closeness import FLOAT64, assert_close
from torch import Tensor

from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel

MAX_UPDATES = 400_000
"""Length of the run whose temperature the checkpoints record; any number would do."""

ASSETS = Path(__file__).parents[1] / "assets" / "fairseq"

PRETRAINING = ("wav2vec2_base", "wav2vec2_large")
CTC = ("wav2vec2_base_ctc", "wav2vec2_large_ctc")

FRAMES = (0, 9, 18, 27, 36)
"""Frames of each stage that are kept."""

NAMES = {
    "mask_emb": "encoder.mask_embedding",
    "layer_norm": "encoder.feature_norm",
    "post_extract_proj": "encoder.projection",
    "encoder.pos_conv.0": "encoder.transformer.positional",
    "encoder.layer_norm": "encoder.transformer.norm",
    "encoder.layers.{}.self_attn.q_proj": "encoder.transformer.layers.{}.attention.query",
    "encoder.layers.{}.self_attn.k_proj": "encoder.transformer.layers.{}.attention.key",
    "encoder.layers.{}.self_attn.v_proj": "encoder.transformer.layers.{}.attention.value",
    "encoder.layers.{}.self_attn.out_proj": "encoder.transformer.layers.{}.attention.output",
    "encoder.layers.{}.self_attn_layer_norm": "encoder.transformer.layers.{}.attention_norm",
    "encoder.layers.{}.fc1": "encoder.transformer.layers.{}.inner",
    "encoder.layers.{}.fc2": "encoder.transformer.layers.{}.outer",
    "encoder.layers.{}.final_layer_norm": "encoder.transformer.layers.{}.ffn_norm",
    "quantizer.vars": "quantizer.codebook",
    "quantizer.weight_proj": "quantizer.scores",
    "project_q": "project_targets",
    "final_proj": "project_context",
    "w2v_encoder.proj": "head",
}
"""fairseq's name of a module or parameter -> ours; "{}" is a layer."""


def our_name(name: str) -> str:
    """Translate a fairseq parameter name."""
    name = name.removeprefix("w2v_encoder.w2v_model.")
    if name.startswith("feature_extractor.conv_layers."):
        _, _, number, *place, kind = name.split(".")
        block = f"encoder.feature_encoder.blocks.{number}"
        # conv.0 is the convolution; conv.2 the group norm; conv.2.1 the layer norm
        return f"{block}.{kind}" if place == ["0"] else f"{block}.norm.{kind}"
    if name in NAMES:
        return NAMES[name]
    module, kind = name.rsplit(".", 1)
    parts = module.split(".")
    number = next((part for part in parts[:3] if part.isdigit()), "")
    if module not in NAMES:
        module = ".".join("{}" if part.isdigit() else part for part in parts)
    return f"{NAMES[module].replace('{}', number)}.{kind}"


@functools.cache
def facts(model: str) -> dict[str, Any]:
    """Return what the manifest says of a model."""
    return json.loads((ASSETS / "manifest.json").read_text())["models"][model]


@functools.cache
def expected(model: str) -> dict[str, Tensor]:
    """Return fairseq's numbers."""
    return load_file(ASSETS / f"{model}.expected.safetensors")


@functools.cache
def conv_layers(model: str) -> tuple[ConvLayer, ...]:
    """Read "[(24,10,5)]+[(24,3,2)]*4+[(24,2,2)]*2" without evaluating it."""
    layers: list[ConvLayer] = []
    for part in facts(model)["encoder"]["conv_feature_layers"].split("+"):
        triple, _, times = part.partition("*")
        channels, kernel, stride = (int(number) for number in triple.strip("[()]").split(","))
        layer = ConvLayer(channels=channels, kernel=kernel, stride=stride)
        layers += [layer] * int(times or 1)
    return tuple(layers)


def make_model(model: str) -> CtcModel | PretrainingModel:
    """Build our network with fairseq's weights, float64, evaluation mode."""
    settings = facts(model)["encoder"]
    encoder = EncoderConfig(
        conv_layers=conv_layers(model),
        conv_norm="layer" if settings["extractor_mode"] == "layer_norm" else "group",
        conv_bias=settings["conv_bias"],
        dim=settings["encoder_embed_dim"],
        ffn_dim=settings["encoder_ffn_embed_dim"],
        layers=settings["encoder_layers"],
        heads=settings["encoder_attention_heads"],
        norm_first=settings["layer_norm_first"],
        positional_kernel=settings["conv_pos"],
        positional_groups=settings["conv_pos_groups"],
        dropout=0.0,
        attention_dropout=0.0,
        feature_grad_scale=facts(model)["feature_grad_mult"],
    )
    weights = load_file(ASSETS / f"{model}.safetensors")
    network: CtcModel | PretrainingModel
    if model in CTC:
        network = CtcModel(CtcConfig(encoder=encoder, vocab=11))
    else:
        start, end, decay = settings["latent_temp"]
        quantizer = QuantizerConfig(
            groups=settings["latent_groups"],
            entries=settings["latent_vars"],
            dim=settings["latent_dim"] or settings["final_dim"],
            temperature_start=start,
            temperature_end=end,
            temperature_floor_at=math.log(end / start) / math.log(decay) / MAX_UPDATES,
        )
        network = PretrainingModel(
            PretrainingConfig(
                encoder=encoder, quantizer=quantizer, projection_dim=settings["final_dim"]
            )
        )
    shapes = {name: parameter.shape for name, parameter in network.state_dict().items()}
    state = {our_name(name): tensor for name, tensor in weights.items()}
    network.load_state_dict({name: tensor.view(shapes[name]) for name, tensor in state.items()})
    return network.double().eval()


def prepare(model: str, samples: Tensor) -> Tensor:
    """Normalise one utterance as the model wants it, in float64."""
    samples = samples.double()
    if not facts(model)["normalize"]:
        return samples
    variance, mean = torch.var_mean(samples, correction=0)
    return (samples - mean) / (variance + 1e-5).sqrt()


def padded_batch(model: str) -> tuple[Tensor, Tensor]:
    """Return both utterances, zero padded, and their lengths [samples]."""
    utterances = [prepare(model, expected(model)[f"audio.{n}"]) for n in (0, 1)]
    lengths = torch.tensor([utterance.shape[0] for utterance in utterances])
    return torch.nn.utils.rnn.pad_sequence(utterances, batch_first=True), lengths


def cropped_batch(model: str) -> Tensor:
    """Return both utterances cut to the shorter one's length."""
    audio = [expected(model)[f"audio.{n}"] for n in (0, 1)]
    shortest = min(utterance.shape[0] for utterance in audio)
    return torch.stack([prepare(model, utterance[:shortest]) for utterance in audio])


def run_stages(model: Any, samples: Tensor, lengths: Tensor | None) -> dict[str, Tensor]:
    """Run one of our networks and keep every stage that fairseq's numbers have."""
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
    kept |= {"encoder_input": output.layers[0], "final": output.frames}
    kept |= {f"layer.{n}": layer for n, layer in enumerate(output.layers[1:])}
    if hasattr(model, "head"):
        with torch.no_grad():
            kept["logits_raw"] = model(samples, lengths, padding="zeros").logits
    return kept


def compare_stages(model: Any, name: str, case: str, *, tolerance: float = FLOAT64) -> int:
    """Compare every stage with fairseq's numbers; returns how many were compared.

    Args:
        model: our network, in the precision to compare in.
        name: of fairseq's model.
        case: "batch" for both utterances, padded; "utt1" for the second alone.
        tolerance: largest difference allowed.
    """
    if case == "batch":
        samples, lengths = padded_batch(name)
        real = [37, 28]
    else:
        samples, lengths = padded_batch(name)
        samples, lengths, real = samples[1:, : lengths[1]], None, [28]
    dtype = next(model.parameters()).dtype
    stages = run_stages(model, samples.to(dtype), lengths)
    theirs = expected(name)
    compared = 0
    for stage, ours in stages.items():
        for row, frames in enumerate(real):
            kept = [frame for frame in FRAMES if frame < frames]
            reference = theirs[f"{case}.{stage}"][row, : len(kept)]
            assert_close(f"{case} {stage} row {row}", ours[row, kept], reference, tolerance)
            compared += 1
    return compared
