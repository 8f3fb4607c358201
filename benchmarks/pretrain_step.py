"""Audio-seconds a second of one pre-training step, beside transformers on the same network.

One step is forward, backward, clip and AdamW on a batch of random sound, with masks and negatives
drawn anew. Both run at their best precision; the steps of all candidates alternate within one run,
so that a busy machine is as unfair to one as to the other. `python -m benchmarks.pretrain_step`.
"""

import argparse
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers.models.wav2vec2 import modeling_wav2vec2 as theirs

from unheard.data.dataset import AudioBatch
from unheard.models.config import WAV2VEC2_CONV_LAYERS, ConvLayer, PretrainingConfig
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.contrastive import contrastive_objective
from unheard.recipes.catalogue import get_recipe
from unheard.tensors import derived_generator
from unheard.training.memory import keep_freed_memory
from unheard.training.optim import finish_gradient, make_optimizer
from unheard.training.precision import autocast, resolve_precision

CPU = torch.device("cpu")
SEVEN = (64, 96, 128, 192, 256, 256, 256)
"""Channels of a seven-convolution front end of the size of the peer runs in the project's notes."""


def network(shape: str) -> PretrainingConfig:
    """The network of recipe mini, the same with seven layer-normed convolutions, or Base.

    Without dropout and skipped layers, on both sides.
    """
    config = get_recipe("base" if shape == "base" else "mini").network
    encoder = replace(
        config.encoder,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        input_dropout=0.0,
        layer_drop=0.0,
    )
    config = replace(config, encoder=encoder, feature_dropout=0.0)
    if shape != "seven":
        return config
    layers = tuple(
        ConvLayer(channels=channels, kernel=layer.kernel, stride=layer.stride)
        for channels, layer in zip(SEVEN, WAV2VEC2_CONV_LAYERS, strict=True)
    )
    return replace(config, encoder=replace(config.encoder, conv_layers=layers, conv_norm="layer"))


def our_step(config: PretrainingConfig, samples: torch.Tensor) -> Callable[[], None]:
    """Make our step."""
    torch.manual_seed(0)
    model = PretrainingModel(config).train()
    settings = get_recipe("mini").pretraining
    optimizer = make_optimizer(model, settings)
    parameters = list(model.parameters())
    dtype = resolve_precision("auto", CPU)
    batch = AudioBatch(samples=samples, ids=("",) * len(samples))
    steps = iter(range(10**9))

    def step() -> None:
        generator = derived_generator(0, next(steps))
        with autocast(dtype, CPU):
            terms = contrastive_objective(model, batch, progress=0.5, generator=generator)
        terms.total.backward()
        finish_gradient(parameters, count=float(terms.count), clip_norm=settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def their_step(
    config: PretrainingConfig, samples: torch.Tensor, *, bfloat16: bool
) -> Callable[[], None]:
    """Make the step of transformers on a network of the same shape."""
    encoder = config.encoder
    peer = transformers.Wav2Vec2Config(
        hidden_size=encoder.dim,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.ffn_dim,
        conv_dim=[layer.channels for layer in encoder.conv_layers],
        conv_kernel=[layer.kernel for layer in encoder.conv_layers],
        conv_stride=[layer.stride for layer in encoder.conv_layers],
        conv_bias=encoder.conv_bias,
        feat_extract_norm=encoder.conv_norm,
        do_stable_layer_norm=encoder.norm_first,
        num_conv_pos_embeddings=encoder.positional_kernel,
        num_conv_pos_embedding_groups=encoder.positional_groups,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        feat_quantizer_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=config.masking.time_probability,
        mask_time_length=config.masking.time_span_frames,
        num_codevectors_per_group=config.quantizer.entries,
        num_codevector_groups=config.quantizer.groups,
        codevector_dim=config.quantizer.dim,
        proj_codevector_dim=config.projection_dim,
        num_negatives=config.distractors,
    )
    torch.manual_seed(0)
    np.random.seed(0)
    model = transformers.Wav2Vec2ForPreTraining(peer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    shape = (len(samples), encoder.num_frames(samples.shape[1]))

    def step() -> None:
        mask = theirs._compute_mask_indices(
            shape, config.masking.time_probability, config.masking.time_span_frames, min_masks=2
        )
        negatives = theirs._sample_negative_indices(shape, config.distractors, mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            output = model(
                samples,
                mask_time_indices=torch.from_numpy(mask).bool(),
                sampled_negative_indices=torch.from_numpy(negatives).long(),
            )
        (output.loss / int(mask.sum())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Measure and print a table; with --write also into benchmarks/results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=("mini", "seven", "base"), default="mini")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)
    config = network(options.shape)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(options.batch, int(16_000 * options.seconds), generator=generator)
    candidates = {
        f"unheard, {str(resolve_precision('auto', CPU)).removeprefix('torch.')}": our_step(
            config, samples
        ),
        "transformers, bfloat16 autocast": their_step(config, samples, bfloat16=True),
        "transformers, float32": their_step(config, samples, bfloat16=False),
    }
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(options.steps + 2):
        for name, step in candidates.items():
            started = time.perf_counter()
            step()
            if number >= 2:
                times[name].append(time.perf_counter() - started)
    sound = options.batch * options.seconds
    medians = {name: statistics.median(listed) for name, listed in times.items()}
    ours, *others = medians.values()
    parameters = sum(p.numel() for p in PretrainingModel(config).parameters())
    lines = [
        f"shape {options.shape}: {parameters:,} parameters, batch {options.batch} x "
        f"{options.seconds:g} s, {options.threads} threads, {options.steps} steps each in turn",
        f"commit {_commit()} | Python {platform.python_version()} | torch {torch.__version__} | "
        f"transformers {transformers.__version__} | {platform.machine()}",
        "",
        f"{'':<34}{'s a step':>10}{'range':>16}{'audio-s a s':>13}",
    ]
    for name, listed in times.items():
        spread = f"{min(listed):.2f} to {max(listed):.2f}"
        lines.append(f"{name:<34}{medians[name]:>10.3f}{spread:>16}{sound / medians[name]:>13.0f}")
    lines += [
        "",
        f"ratio to transformers as it comes (float32): {others[-1] / ours:.2f}",
        f"ratio to the faster of transformers: {min(others) / ours:.2f}",
    ]
    print("\n".join(lines))
    if options.write:
        path = Path(__file__).parent / "results" / f"pretrain_step_{options.shape}.md"
        command = (
            f"python -m benchmarks.pretrain_step --shape {options.shape} --batch {options.batch} "
            f"--seconds {options.seconds:g} --steps {options.steps}"
        )
        body = "\n".join(f"    {line}".rstrip() for line in lines)
        path.write_text(f"# One pre-training step\n\n    {command}\n\n{body}\n", encoding="utf-8")


def _commit() -> str:
    """Name the commit that was measured."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


if __name__ == "__main__":
    main()
