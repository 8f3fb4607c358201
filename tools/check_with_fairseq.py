r"""Check with fairseq itself that it loads what we write, and computes the same from it.

fairseq is no dependency of this project and does not install beside current libraries without
help, so this check is run by hand, in an environment of its own:

    python3.11 -m venv /tmp/fairseq
    /tmp/fairseq/bin/python -m pip install "pip==23.2" "setuptools<81" wheel packaging "cython<3.1"
    /tmp/fairseq/bin/python -m pip install numpy==2.4.6
    /tmp/fairseq/bin/python -m pip install --no-deps omegaconf==2.0.6 hydra-core==1.0.7 \
        antlr4-python3-runtime==4.8 sacrebleu portalocker tabulate bitarray colorama lxml PyYAML
    /tmp/fairseq/bin/python -m pip install --no-deps --no-build-isolation fairseq==0.12.2
    /tmp/fairseq/bin/python -m pip install . -c constraints.txt   # torch and the rest; see below
    /tmp/fairseq/bin/python tools/check_with_fairseq.py

Newer pip refuses the metadata of omegaconf 2.0.6. torch must not be there while fairseq is built,
which would otherwise compile parts that its source archive lacks; install it afterwards, from the
index of CPU builds if there is no CUDA. A newer fairseq (for language adapters) is taken from a
copy of its source: PYTHONPATH=/path/to/fairseq.

For every kind of network: random weights, every tensor drawn anew, are written by
`unheard.interop.fairseq.writer`, loaded by fairseq's own `load_model_ensemble_and_task` (strict),
compared tensor by tensor, and run on a padded batch in float64 and float32, stage by stage.
"""

import dataclasses
import logging
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unheard.audio.signal import InputSpec
from unheard.interop.bundle import ModelBundle
from unheard.interop.fairseq import writer
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel
from unheard.text.alphabet import Alphabet

ALLOWED = {torch.float64: 1e-9, torch.float32: 1e-5}
"""Largest difference, divided by the largest magnitude or 1."""

LENGTHS = (12000, 9200)
"""Samples of the two utterances of the batch."""

ALPHABETS = {
    "fairseq's order": Alphabet(
        tokens=("<s>", "<pad>", "</s>", "<unk>", "|", "A", "B", "C", "É"),
        blank="<s>",
        word_boundary="|",
        unknown="<unk>",
        special=("<pad>", "</s>"),
    ),
    "our own": Alphabet(tokens=("a", "b", "<blank>", " ", "é"), blank="<blank>", word_boundary=" "),
    "transformers' order": Alphabet(
        tokens=("<pad>", "<s>", "</s>", "<unk>", "|", "a", "b"),
        blank="<pad>",
        word_boundary="|",
        unknown="<unk>",
        special=("<s>", "</s>"),
    ),
}


def repair_the_past() -> None:
    """Give fairseq 0.12.2 what Python 3.11, numpy 2 and torch 2.6 took away."""
    make = dataclasses._process_class  # type: ignore[attr-defined]

    def make_hashable(*args: Any, **kwargs: Any) -> Any:
        made = make(*args, **kwargs)
        if made.__hash__ is None:
            made.__hash__ = object.__hash__
        return made

    dataclasses._process_class = make_hashable  # type: ignore[attr-defined]
    for name, kind in {"int": int, "float": float, "bool": bool, "object": object}.items():
        if name not in np.__dict__:
            setattr(np, name, kind)
    load = torch.load
    torch.load = lambda *args, **kwargs: load(*args, **{"weights_only": False, **kwargs})
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)


def keep_float64() -> None:
    """Take the casts to float32 out of fairseq, so that float64 can be compared as such."""
    from fairseq import modules, utils
    from fairseq.modules import Fp32GroupNorm, Fp32LayerNorm

    Fp32GroupNorm.forward = nn.GroupNorm.forward
    Fp32LayerNorm.forward = nn.LayerNorm.forward
    modules.gelu = F.gelu
    utils.softmax = lambda x, dim, **_: F.softmax(x, dim=dim)


def kinds() -> dict[str, EncoderConfig]:
    """Small networks of every kind."""
    convs = ((10, 5), *((3, 2),) * 4, *((2, 2),) * 2)

    def layers(channels: int) -> tuple[ConvLayer, ...]:
        return tuple(ConvLayer(channels=channels, kernel=k, stride=s) for k, s in convs)

    shape: dict[str, Any] = {
        "dim": 32, "ffn_dim": 64, "heads": 4, "positional_kernel": 16, "positional_groups": 4,
    }  # fmt: skip
    large: dict[str, Any] = {"conv_norm": "layer", "conv_bias": True, "norm_first": True}
    return {
        "base": EncoderConfig(conv_layers=layers(24), layers=2, **shape),
        "large, LibriSpeech": EncoderConfig(
            conv_layers=layers(16), layers=3, feature_grad_scale=0.1, layer_drop=0.2, **shape
        ),
        "large, Libri-Light, XLSR, XLS-R": EncoderConfig(
            conv_layers=layers(16), layers=3, **shape, **large
        ),
        "odd positional kernel, no projection": EncoderConfig(
            conv_layers=layers(32), layers=2, **(shape | {"positional_kernel": 15}), **large
        ),
    }


def draw_anew(model: nn.Module, seed: int) -> None:
    """Draw every tensor, so that no norm, bias or mask embedding is trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            spread = 0.3 if weight.dim() > 1 else 0.2
            weight.copy_(torch.randn(weight.shape, generator=generator) * spread)
            if name.endswith(("norm.weight", "weight_g", "ln_W", ".2.1.weight")):
                weight.add_(1)


def make_bundle(encoder: EncoderConfig, alphabet: Alphabet | None, seed: int) -> ModelBundle:
    """Make a random model: a recogniser if there is an alphabet."""
    model: CtcModel | PretrainingModel
    if alphabet is not None:
        model = CtcModel(CtcConfig(encoder=encoder, vocab=len(alphabet)))
    else:
        quantizer = QuantizerConfig(groups=2, entries=8, dim=24)
        model = PretrainingModel(
            PretrainingConfig(encoder=encoder, quantizer=quantizer, projection_dim=16)
        )
    draw_anew(model, seed)
    if encoder.conv_channels == encoder.dim:  # fairseq has no projection then
        nn.init.eye_(model.encoder.projection.weight)
        nn.init.zeros_(model.encoder.projection.bias)
    return ModelBundle(
        model=model.eval(),
        alphabet=alphabet,
        input_spec=InputSpec(normalize=encoder.conv_norm == "layer", padding="zeros"),
        adapter="eng" if encoder.adapter_dim else None,
    )


def load_with_fairseq(folder: Path) -> nn.Module:
    """Load as a user of fairseq does; strict is its default, and said here."""
    from fairseq import checkpoint_utils

    models, _, task = checkpoint_utils.load_model_ensemble_and_task(
        [str(folder / writer.CHECKPOINT_FILE)], arg_overrides={"data": str(folder)}, strict=True
    )
    if task.target_dictionary is not None:
        theirs, ours = task.target_dictionary.symbols, folder / writer.DICTIONARY_FILE
        assert theirs[4:] == [line.rsplit(" ", 1)[0] for line in ours.read_text().splitlines()]
    return models[0].eval()


def largest_difference(ours: Tensor, theirs: Tensor, real: list[int] | None = None) -> float:
    """Compare real frames of (batch, frames, size), relative to the largest magnitude or 1."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    rows = [slice(None)] * len(ours) if real is None else [slice(0, frames) for frames in real]
    pairs = [
        (a[row].double(), b[row].double()) for a, b, row in zip(ours, theirs, rows, strict=True)
    ]
    scale = max(1.0, *(float(b.abs().max()) for _, b in pairs))
    return max(float((a - b).abs().max()) for a, b in pairs) / scale


def run_ours(bundle: ModelBundle, samples: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """All stages of our network on a padded batch."""
    model: Any = bundle.model
    output = model.encoder(samples, lengths, padding="zeros", keep_layers=True)
    stages = {"conv_features": output.conv_features, "features_normed": output.normed_features}
    stages |= {f"layer.{number}": layer for number, layer in enumerate(output.layers[1:])}
    stages |= {"encoder_input": output.layers[0], "final": output.frames}
    if isinstance(model, CtcModel):
        stages["logits"] = model.head(output.frames)
    else:
        quantized = model.quantizer(output.normed_features.flatten(0, 1)).vectors
        targets = model.project_targets(quantized)
        stages["targets"] = targets.view(*output.frames.shape[:2], -1)
        stages["predictions"] = model.project_context(output.frames)
    return stages


def run_theirs(network: Any, samples: Tensor, lengths: Tensor, **options: Any) -> dict[str, Tensor]:
    """The same stages of fairseq's network."""
    ctc = hasattr(network, "w2v_encoder")
    body = network.w2v_encoder.w2v_model if ctc else network
    stages: dict[str, Tensor] = {}
    wanted = {"conv_features": body.feature_extractor, "features_normed": body.layer_norm}
    wanted |= {f"layer.{number}": layer for number, layer in enumerate(body.encoder.layers)}
    handles = [
        module.register_forward_hook(
            lambda _, __, output, name=name: stages.update(
                {name: output[0] if isinstance(output, tuple) else output}
            )
        )
        for name, module in wanted.items()
    ]
    first = body.encoder.layers[0].register_forward_pre_hook(
        lambda _, inputs: stages.update({"encoder_input": inputs[0]})
    )
    is_padding = torch.arange(samples.shape[1])[None, :] >= lengths[:, None]
    result = body.extract_features(samples, is_padding, mask=False, **options)
    stages["final"] = frames = result["x"]
    for handle in [*handles, first]:
        handle.remove()
    stages["conv_features"] = stages["conv_features"].transpose(1, 2)
    count = frames.shape[1]
    for name in stages:
        if name.startswith(("layer.", "encoder_input")):
            # (frames, batch, dim), with a frame added where their number is odd
            stages[name] = stages[name].transpose(0, 1)[:, :count]
    if ctc:
        output = network.w2v_encoder(source=samples, padding_mask=is_padding, **options)
        stages["logits"] = output["encoder_out"].transpose(0, 1)
    else:
        stages["targets"] = body.project_q(body.quantizer(stages["features_normed"])["x"])
        stages["predictions"] = body.final_proj(frames)
    return stages


def check(name: str, encoder: EncoderConfig, alphabet: Alphabet | None, seed: int) -> None:
    """Write, load with fairseq, compare; prints one line."""
    bundle = make_bundle(encoder, alphabet, seed)
    with tempfile.TemporaryDirectory() as folder:
        target = writer.save(bundle, Path(folder) / "model")
        written = torch.load(target / writer.CHECKPOINT_FILE, weights_only=True)["model"]
        network = load_with_fairseq(target)
    loaded = network.state_dict()
    assert set(loaded) == set(written), set(loaded) ^ set(written)
    assert all(torch.equal(loaded[key], written[key]) for key in written)
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(LENGTHS)
    samples = torch.randn((len(LENGTHS), max(LENGTHS)), generator=generator)
    samples = samples.masked_fill(torch.arange(max(LENGTHS)) >= lengths[:, None], 0)
    real = [encoder.num_frames(length) for length in LENGTHS]
    options = {"corpus_key": [0] * len(LENGTHS)} if encoder.adapter_dim else {}
    differences: list[str] = []
    for dtype, allowed in ALLOWED.items():
        bundle.model.to(dtype)
        with torch.no_grad():
            ours = run_ours(bundle, samples.to(dtype), lengths)
            theirs = run_theirs(network.to(dtype), samples.to(dtype), lengths, **options)
        if "logits" in ours and bundle.alphabet is not None:
            ours["logits"] = reorder(ours["logits"], bundle.alphabet, theirs["logits"].shape[-1])
        assert set(ours) == set(theirs), set(ours) ^ set(theirs)
        worst = {stage: largest_difference(ours[stage], theirs[stage], real) for stage in ours}
        stage = max(worst, key=worst.__getitem__)
        assert worst[stage] <= allowed, f"{name}: {stage} differs by {worst[stage]:.3g} in {dtype}"
        differences.append(f"{str(dtype)[6:]} {worst[stage]:.1e} ({stage})")
    moved = dict(ours)
    moved["final"] = moved["final"] + 1e-4 * moved["final"].abs().max()
    assert largest_difference(moved["final"], theirs["final"], real) > ALLOWED[torch.float32]
    print(f"{name}: {len(written)} tensors equal, {len(ours)} stages; {', '.join(differences)}")


def reorder(logits: Tensor, alphabet: Alphabet, outputs: int) -> Tensor:
    """Put our logits where fairseq has them, by the rule that the writer states."""
    from unheard.interop.fairseq.dictionary import arrange

    rows = arrange(alphabet).rows
    assert len(rows) == outputs
    columns = [
        torch.full_like(logits[..., 0], writer.NEVER) if row is None else logits[..., row]
        for row in rows
    ]
    return torch.stack(columns, dim=-1)


def main() -> int:
    """Check every kind."""
    repair_the_past()
    import fairseq

    keep_float64()
    print(f"fairseq {fairseq.__version__}, torch {torch.__version__}, numpy {np.__version__}")
    for seed, (name, encoder) in enumerate(kinds().items()):
        check(f"{name}, pre-trained", encoder, None, seed)
        for order, alphabet in ALPHABETS.items():
            check(f"{name}, recogniser, alphabet in {order}", encoder, alphabet, 10 + seed)
    from fairseq.models.wav2vec import wav2vec2

    if hasattr(wav2vec2, "AdapterFast"):
        encoder = dataclasses.replace(list(kinds().values())[2], adapter_dim=6)
        check("language adapter", encoder, ALPHABETS["fairseq's order"], 30)
    else:
        print("language adapters: this fairseq has none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
