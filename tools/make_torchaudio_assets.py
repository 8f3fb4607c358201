"""Make the test assets under tests/assets/torchaudio with torchaudio's own model code.

    pip download --no-deps torchaudio==2.11.0 && unzip torchaudio-2.11.0-*.whl -d SOURCE
    python tools/make_torchaudio_assets.py SOURCE

The wheel itself cannot be imported without the graphics driver's libraries that it links, but
torchaudio/models/wav2vec2 and torchaudio/pipelines/_wav2vec2 are plain Python: they are imported
from the unpacked wheel under stand-ins for the packages around them.
"""

import argparse
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

CONVOLUTIONS = [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2]
LENGTHS = (5200, 3900)
FRAMES = (0, 3, 6, 10, 13, 15)
"""Those kept of each stage: each frame depends on all others."""
SHAPE = {
    "extractor_conv_layer_config": CONVOLUTIONS,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.1,
    "encoder_num_layers": 2,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 24,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_drop": 0.1,
}
BASE = {
    "extractor_mode": "group_norm",
    "extractor_conv_bias": False,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_heads": 2,
    "encoder_layer_norm_first": False,
}
LARGE = {
    "extractor_mode": "layer_norm",
    "extractor_conv_bias": True,
    "encoder_pos_conv_kernel": 9,
    "encoder_pos_conv_groups": 2,
    "encoder_num_heads": 4,
    "encoder_layer_norm_first": True,
}
MODELS: dict[str, dict[str, Any]] = {
    "base": {**BASE, "aux_num_out": None},
    "base_asr": {**BASE, "aux_num_out": 29},
    "large": {**LARGE, "extractor_conv_bias": False, "aux_num_out": None},
    "large_aligner": {**LARGE, "aux_num_out": 28},
}
"""The third has the layers of HUBERT_LARGE, the last those of MMS_FA, with its wrapper."""


def main() -> int:
    """Make every model and write its weights and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    models, pipelines = import_torchaudio(source)
    assets = Path(__file__).parents[1] / "tests" / "assets" / "torchaudio"
    assets.mkdir(parents=True, exist_ok=True)
    for seed, (name, options) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(1000 + seed)
        model = models.wav2vec2_model(**SHAPE, **options).eval()
        randomise(model, generator)
        body = model
        if name == "large_aligner":
            model = pipelines._extend_model(
                model, normalize_waveform=True, apply_log_softmax=True, append_star=True
            )
        weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        save_file(weights, assets / f"{name}.safetensors")
        expected = record(model.double(), body, generator)
        save_file(expected, assets / f"{name}.expected.safetensors")
    return 0


def import_torchaudio(source: Path) -> tuple[Any, Any]:
    """Import the model code and the bundles' helpers without torchaudio's own `__init__`."""
    for name in ("torchaudio", "torchaudio.pipelines"):
        package = types.ModuleType(name)
        package.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules[name] = package
    internal = types.ModuleType("torchaudio._internal")
    internal.load_state_dict_from_url = None  # type: ignore[attr-defined]
    sys.modules["torchaudio._internal"] = internal
    models = types.ModuleType("torchaudio.models")
    models.__path__ = [str(source / "torchaudio" / "models")]
    sys.modules["torchaudio.models"] = models
    code = importlib.import_module("torchaudio.models.wav2vec2.model")
    for name in ("wav2vec2_model", "Wav2Vec2Model", "wavlm_model"):
        setattr(models, name, getattr(code, name))
    pipelines = types.ModuleType("torchaudio.pipelines._wav2vec2")
    pipelines.__path__ = [str(source / "torchaudio" / "pipelines" / "_wav2vec2")]
    sys.modules["torchaudio.pipelines._wav2vec2"] = pipelines
    return code, importlib.import_module("torchaudio.pipelines._wav2vec2.utils")


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight anew, norms and biases too, so that none is trivial."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = name.endswith(("norm.weight", "original0"))
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 4
        with torch.no_grad():
            parameter.copy_(1 + 0.2 * noise if is_scale else noise / fan_in**0.5)


def record(model: nn.Module, body: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Run on both utterances in one batch and on each alone, keeping every stage."""
    audio = [0.1 * torch.randn(length, generator=generator) for length in LENGTHS]
    batch = torch.stack([nn.functional.pad(a, (0, LENGTHS[0] - a.shape[0])) for a in audio])
    cases = {"utt1": (audio[1][None], None)}
    if model is body:
        cases["batch"] = (batch, torch.tensor(LENGTHS))
    else:  # the wrapper normalises a whole batch as if it were one utterance
        cases["utt0"] = (audio[0][None], None)
    stages = {
        "conv_features": body.feature_extractor,
        "features_normed": body.encoder.feature_projection.layer_norm,
        "features_projected": body.encoder.feature_projection.projection,
        "pos_conv": body.encoder.transformer.pos_conv_embed,
        **{f"layer.{n}": layer for n, layer in enumerate(body.encoder.transformer.layers)},
        "final": body.encoder,
    }
    kept: dict[str, Tensor] = {f"audio.{number}": a for number, a in enumerate(audio)}
    for case, (samples, lengths) in cases.items():

        def keep(place: str, output: Any) -> None:
            frames = output[0] if isinstance(output, tuple) else output
            kept[place] = frames[:, [n for n in FRAMES if n < frames.shape[1]]]

        handles = [
            module.register_forward_hook(
                lambda _, __, output, place=f"{case}.{stage}": keep(place, output)
            )
            for stage, module in stages.items()
        ]
        with torch.no_grad():
            output, _ = model(samples.double(), lengths)
        for handle in handles:
            handle.remove()
        if body.aux is not None:
            kept[f"{case}.output"] = output[:, [n for n in FRAMES if n < output.shape[1]]]
    return {name: tensor.contiguous() for name, tensor in kept.items()}


if __name__ == "__main__":
    sys.exit(main())
