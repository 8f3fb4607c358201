"""The runs whose losses are kept in tests/assets/losses, and how to make those files again.

    python -m tests.golden_losses          compare, and say how far off each file is
    python -m tests.golden_losses --write  write the files anew

Everything that decides a loss is spelt out here, so that no other test's change moves them.
"""

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unheard.audio.signal import InputSpec
from unheard.data.dataset import LabelledSource, UnlabelledSource
from unheard.data.pcm import PcmStore, open_store
from unheard.files import write_json_atomic
from unheard.models.config import (
    ConvLayer,
    CtcConfig,
    EncoderConfig,
    MaskingConfig,
    PretrainingConfig,
    QuantizerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.pretraining import PretrainingModel
from unheard.objectives.contrastive import contrastive_objective
from unheard.objectives.ctc import ctc_objective
from unheard.training.config import TrainingConfig
from unheard.training.loop import Validation, train
from unheard.training.schedule import Budget, ScheduleConfig

Kind = Literal["pretrain", "ctc"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FOLDER = Path(__file__).parent / "assets" / "losses"
STEPS = 100
LETTERS = 4
"""Besides the blank."""
_PERIODS = (40, 24, 15, 9)
"""Of each letter's square wave [samples at 16 kHz]."""


def machine() -> dict[str, str]:
    """What decides the last bits of a sum: torch and the processor."""
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "processor": _processor(),
    }


def _processor() -> str:
    """Name of the processor's model, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def say(letters: list[int], generator: np.random.Generator) -> NDArray[np.int16]:
    """A square wave a letter and noise, in whole numbers: the same on every machine."""
    pieces = [np.zeros(800, dtype=np.int64)]
    for letter in letters:
        wave = (np.arange(1600) // _PERIODS[letter - 1]) % 2 * 6000 - 3000
        pieces += [wave, np.zeros(800, dtype=np.int64)]
    sound = np.concatenate(pieces)
    return (sound + generator.integers(-100, 101, size=len(sound))).astype(np.int16)


def write_store(folder: Path) -> tuple[PcmStore, list[list[int]]]:
    """Write a store of decoded sound, without any recordings to decode."""
    store = open_store([], folder, root=folder)
    del store
    generator = np.random.default_rng(7)
    targets = [
        generator.integers(1, LETTERS + 1, size=generator.integers(3, 9)).tolist()
        for _ in range(30)
    ]
    sounds = [say(target, generator) for target in targets]
    # Means and variances from whole numbers: a rounding that no machine does otherwise.
    means = [int(sound.astype(np.int64).sum()) / len(sound) for sound in sounds]
    squares = [int((sound.astype(np.int64) ** 2).sum()) / len(sound) for sound in sounds]
    (folder / "samples.i16").write_bytes(b"".join(sound.tobytes() for sound in sounds))
    index = json.loads((folder / "index.json").read_text())
    index |= {
        "ids": [f"u{number:02d}" for number in range(len(sounds))],
        "num_samples": [len(sound) for sound in sounds],
        "means": [mean / 32767 for mean in means],
        "variances": [
            (square - mean * mean) / 32767**2 for square, mean in zip(squares, means, strict=True)
        ],
    }
    (folder / "index.json").write_text(json.dumps(index))
    return PcmStore(folder), targets


def encoder() -> EncoderConfig:
    return EncoderConfig(
        conv_layers=(
            ConvLayer(channels=32, kernel=400, stride=160),
            ConvLayer(channels=32, kernel=3, stride=2),
        ),
        norm_first=True,
        dim=32,
        ffn_dim=64,
        layers=2,
        heads=2,
        positional_kernel=8,
        positional_groups=4,
        dropout=0.1,
        attention_dropout=0.1,
        layer_drop=0.1,
    )


def settings(**more: Any) -> TrainingConfig:
    config = TrainingConfig(
        budget=Budget(max_steps=STEPS),
        schedule=ScheduleConfig(shape="linear", warmup=0.1),
        learning_rate=5e-4,
        betas=(0.9, 0.98),
        epsilon=1e-6,
        weight_decay=0.01,
        batch_seconds=2.5,
        accumulation=2,
        min_seconds=0.1,
        max_seconds=0.5,
        clip_norm=5.0,
        precision="float32",
        log_every_steps=1,
        validate_every_steps=STEPS,
        checkpoint_every_seconds=1e9,
    )
    return replace(config, **more)


def losses(kind: Kind, **more: Any) -> list[float]:
    """Train for a hundred updates; the loss of each."""
    config = settings(**more)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            _train(kind, config, Path(folder))
            lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    finally:
        torch.set_num_threads(threads)
    rows = [json.loads(line) for line in lines]
    return [row["loss"] for row in rows if row["kind"] == "train"]


def _train(kind: Kind, config: TrainingConfig, folder: Path) -> None:
    store, targets = write_store(folder / "store")
    torch.manual_seed(5)
    more: dict[str, Any] = {
        "folder": folder / "run",
        "name": kind,
        "validate": lambda: Validation(metric=0.0, values={}),
        "quiet": True,
    }
    if kind == "pretrain":
        shape = PretrainingConfig(
            encoder=encoder(),
            quantizer=QuantizerConfig(entries=8, dim=16),
            masking=MaskingConfig(time_span_frames=4),
            projection_dim=16,
            distractors=10,
        )
        source = UnlabelledSource(
            store,
            input_spec=InputSpec(),
            batch_seconds=config.batch_seconds,
            min_seconds=config.min_seconds,
            max_seconds=config.max_seconds,
            seed=config.seed,
        )
        train(PretrainingModel(shape), contrastive_objective, source, config, **more)
        return
    masking = MaskingConfig(time_probability=0.2, time_span_frames=3)
    model = CtcModel(CtcConfig(encoder=encoder(), vocab=LETTERS + 1, masking=masking))
    head: nn.Module = model.head
    labelled = LabelledSource(
        store,
        targets,
        input_spec=InputSpec(),
        batch_seconds=config.batch_seconds,
        seed=config.seed,
    )
    train(model, partial(ctc_objective, blank=0), labelled, config, head=head, **more)


def golden(kind: Kind) -> dict[str, Any]:
    return json.loads((FOLDER / f"{kind}.json").read_text())


def furthest(found: list[float], expected: list[float]) -> float:
    """Largest difference, over the expected loss."""
    pairs = zip(found, expected, strict=True)
    return max(abs(one - other) / abs(other) for one, other in pairs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    for kind in KINDS:
        found = losses(kind)
        if write:
            write_json_atomic(FOLDER / f"{kind}.json", {**machine(), "losses": found})
        expected = golden(kind)["losses"]
        print(
            f"{kind}: {found[0]:.4f} to {found[-1]:.4f}; furthest {furthest(found, expected):.1e}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
