"""Make the test assets under tests/assets/fairseq2 with fairseq2's own model code.

    git clone https://github.com/facebookresearch/fairseq2 SOURCE
    python tools/make_fairseq2_assets.py SOURCE

fairseq2's networks are plain Python over torch. Its compiled half (fairseq2n) and two packages that
only its data and asset code use stay out: stand-ins take their place on import.
"""

import argparse
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

ABSENT = ("fairseq2n", "importlib_resources", "ruamel")
CONVOLUTIONS = [(8, 10, 5), *[(8, 3, 2)] * 4, *[(8, 2, 2)] * 2]
LENGTHS = (5200, 3900)
FRAMES = (0, 3, 6, 10, 13, 15)
"""Those kept of each stage: each frame depends on all others."""
MASKED = ((1, 2, 3, 9), (0, 1, 6, 7))
"""Masked frames of each utterance in the pre-training case."""
SHAPE = {
    "model_dim": 16,
    "feature_dim": 8,
    "feature_extractor_layer_descs": CONVOLUTIONS,
    "num_encoder_layers": 2,
    "ffn_inner_dim": 24,
}
BASE = {"pos_conv_kernel_size": 16, "num_pos_conv_groups": 4, "num_encoder_attn_heads": 2}
LARGE = {
    "pos_conv_kernel_size": 9,
    "num_pos_conv_groups": 2,
    "num_encoder_attn_heads": 4,
    "layer_norm_features": False,
    "feature_extractor_bias": True,
    "feature_extractor_layer_norm_convs": True,
    "first_pass_dropout_p": 0.1,
}
MODELS = ("base_ssl", "large_ssl", "base_ctc", "large_ctc")
VOCABULARY = 11


def main() -> int:
    """Make every model and write its weights and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    source = parser.parse_args().source
    import_fairseq2(source / "src")
    assets = Path(__file__).parents[1] / "tests" / "assets" / "fairseq2"
    assets.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(MODELS):
        generator = torch.Generator().manual_seed(2000 + seed)
        model = make(name).eval()
        randomise(model, generator)
        weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        save_file(weights, assets / f"{name}.safetensors")
        expected = record(model.double(), generator)
        save_file(expected, assets / f"{name}.expected.safetensors")
    return 0


class StandIn(types.ModuleType):
    """A module in which every name is an empty class."""

    __path__: list[str] = []  # noqa: RUF012 - as the import system wants it

    def __getattr__(self, name: str) -> Any:
        """Make the class."""
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda *_, **__: None})


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds a stand-in for every module of the packages in `ABSENT`."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:  # noqa: ARG002
        """Answer for these packages alone."""
        if name.split(".")[0] not in ABSENT:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> types.ModuleType:
        """Make an empty stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing to run."""


def import_fairseq2(source: Path) -> None:
    """Import fairseq2 for one process, without compiling, and casting to float64, not float32."""
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    sys.meta_path.insert(0, StandIns())
    sys.path.insert(0, str(source))
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    projection = importlib.import_module("fairseq2.nn.projection")
    alone = importlib.import_module("fairseq2.gang").create_fake_gangs(torch.device("cpu"))
    projection.get_current_gangs = lambda _=None: alone
    projection.get_current_device = lambda: torch.device("cpu")


def make(name: str) -> Any:
    """Make one of the networks."""
    ssl = importlib.import_module("fairseq2.models.wav2vec2")
    asr = importlib.import_module("fairseq2.models.wav2vec2.asr")
    config_code = importlib.import_module("fairseq2.models.wav2vec2.config")
    orders = config_code.TransformerNormOrder
    is_large = name.startswith("large")
    options = {**SHAPE, **(LARGE if is_large else BASE)}
    options["norm_order"] = orders.PRE if is_large else orders.POST
    encoder = config_code.Wav2Vec2EncoderConfig(**options)
    if name.endswith("ctc"):
        config = asr.Wav2Vec2AsrConfig(
            encoder_config=encoder, target_vocab_size=VOCABULARY, use_masking=not is_large
        )
        return asr.create_wav2vec2_asr_model(config)
    config = config_code.Wav2Vec2Config(
        encoder_config=encoder,
        final_dim=12,
        quantized_dim=20,
        num_codebooks=2,
        num_codebook_entries=5,
    )
    return ssl.create_wav2vec2_model(config)


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw every weight anew, norms and biases too, so that none is trivial."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        is_scale = name.endswith(("norm.weight", "weight_g"))
        fan_in = parameter[0].numel() if parameter.dim() > 1 and "entries" not in name else 4
        with torch.no_grad():
            parameter.copy_(1 + 0.2 * noise if is_scale else noise / fan_in**0.5)
    for name, buffer in model.named_buffers():
        if name == "quantizer.num_updates":
            buffer.fill_(7)


def record(model: Any, generator: torch.Generator) -> dict[str, Tensor]:
    """Run on both utterances in one batch and on the second alone, keeping every stage."""
    layout = importlib.import_module("fairseq2.nn").BatchLayout
    audio = [0.1 * torch.randn(length, generator=generator) for length in LENGTHS]
    batch = torch.stack([nn.functional.pad(a, (0, LENGTHS[0] - a.shape[0])) for a in audio])
    kept: dict[str, Tensor] = {f"audio.{number}": a for number, a in enumerate(audio)}
    frontend = model.encoder_frontend
    stages = {
        "conv_features": frontend.feature_extractor,
        "features_normed": frontend.post_extract_layer_norm,
        "features_projected": frontend.model_dim_proj,
        "positioned": frontend.pos_encoder,
        **{f"layer.{n}": layer for n, layer in enumerate(model.encoder.layers)},
        "final": model.encoder,
    }
    cases = {"batch": (batch, list(LENGTHS)), "utt1": (audio[1][None], None)}
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
        samples = samples.double()
        with torch.no_grad():
            if hasattr(model, "quantizer"):
                seqs, inner, _ = frontend.extract_features(samples, layout.of(samples, lengths))
                seqs, _ = frontend.process_features(seqs, inner)
                model.encoder(seqs, inner)
            else:
                output, _ = model(samples, layout.of(samples, lengths))
                keep(f"{case}.logits", output)
        for handle in handles:
            handle.remove()
    if hasattr(model, "quantizer"):
        kept |= pretrain(model, batch.double(), layout.of(batch, list(LENGTHS)))
    return {name: tensor.contiguous() for name, tensor in kept.items()}


def pretrain(model: Any, samples: Tensor, layout: Any) -> dict[str, Tensor]:
    """Run what the objective compares, with a mask that is known."""
    frames = 16
    mask = torch.zeros(len(MASKED), frames, dtype=torch.bool)
    for row, places in enumerate(MASKED):
        mask[row, list(places)] = True
    model.masker.mask_factory = lambda **_: mask
    with torch.no_grad():
        features = model.extract_features(samples, layout)
        masked = features.seqs[features.temporal_mask]
        quantized = model.quantizer(features.targets)
        return {
            "pretrain.mask": mask,
            "pretrain.predictions": model.final_proj(masked),
            "pretrain.quantized": quantized.quantized_vectors.flatten(0, 1),
            "pretrain.targets": model.final_target_proj(quantized.quantized_vectors).flatten(0, 1),
            "pretrain.code_perplexity": quantized.code_perplexity,
            "pretrain.prob_perplexity": quantized.prob_perplexity,
        }


if __name__ == "__main__":
    sys.exit(main())
