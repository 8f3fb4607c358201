"""How fast machines train and decode, and how large stored sound is: figures with their sources.

A figure that is not here is not made up: `plan` says "not measured".
"""

from dataclasses import dataclass
from typing import Literal

from unheard.audio.signal import SAMPLE_RATE
from unheard.models.config import EncoderConfig
from unheard.recipes.catalogue import Objective

Basis = Literal["measured", "published", "extrapolated", "not measured"]
"""Measured by this project, published by others, or computed from one of these."""


@dataclass(frozen=True, kw_only=True)
class TrainingRate:
    """How much sound one device takes in while pre-training.

    Attributes:
        hardware: name of the device.
        recipe: of the network.
        objective: that was trained by.
        devices: that worked together when this was measured.
        audio_seconds_per_second: of each device; None where nobody has measured it.
        basis: where the figure comes from.
        source: of the figure.
    """

    hardware: str
    recipe: str
    objective: Objective
    devices: int
    audio_seconds_per_second: float | None
    basis: Basis
    source: str


@dataclass(frozen=True, kw_only=True)
class StoredSize:
    """What an hour of speech takes on disk.

    Attributes:
        form: how it is stored.
        megabytes_per_hour: [MB].
        basis: where the figure comes from.
        source: of the figure.
    """

    form: str
    megabytes_per_hour: float
    basis: Basis
    source: str


@dataclass(frozen=True, kw_only=True)
class LoaderRate:
    """How much sound one processor core decodes, crops and normalises.

    Attributes:
        form: how it is stored.
        audio_seconds_per_second: of one core.
        source: of the figure.
    """

    form: str
    audio_seconds_per_second: float
    source: str


_NVIDIA = (
    "NVIDIA DeepLearningExamples, PyTorch/SpeechRecognition/wav2vec2, README: 37,610 tokens a "
    "second on 1 GPU, 261,881 on 8 (A100 80 GB, bfloat16); 50 tokens are a second"
)

TRAINING_RATES: tuple[TrainingRate, ...] = (
    TrainingRate(
        hardware="A100 80 GB",
        recipe="base",
        objective="contrastive",
        devices=1,
        audio_seconds_per_second=752.0,
        basis="published",
        source=_NVIDIA,
    ),
    TrainingRate(
        hardware="A100 80 GB",
        recipe="base",
        objective="contrastive",
        devices=8,
        audio_seconds_per_second=655.0,
        basis="published",
        source=_NVIDIA,
    ),
    TrainingRate(
        hardware="H200",
        recipe="base",
        objective="contrastive",
        devices=1,
        audio_seconds_per_second=None,
        basis="not measured",
        source="no run of this project on one is on record",
    ),
    TrainingRate(
        hardware="2 CPU cores",
        recipe="mini",
        objective="contrastive",
        devices=1,
        audio_seconds_per_second=231.0,
        basis="measured",
        source="benchmarks/results/pretrain_step_mini.md",
    ),
)

STORED_SIZES: tuple[StoredSize, ...] = (
    StoredSize(
        form="decoded",
        megabytes_per_hour=115.2,
        basis="measured",
        source="exact: 16,000 samples of 16 bits a second",
    ),
    StoredSize(
        form="FLAC shards",
        megabytes_per_hour=64.8,
        basis="measured",
        source="benchmarks/results/loader.md",
    ),
    StoredSize(
        form="Opus shards, 32 kbit/s",
        megabytes_per_hour=15.2,
        basis="measured",
        source="benchmarks/results/loader.md",
    ),
)

LOADER_RATES: tuple[LoaderRate, ...] = (
    LoaderRate(
        form="FLAC shards",
        audio_seconds_per_second=2338.0,
        source="benchmarks/results/loader.md",
    ),
    LoaderRate(
        form="Opus shards, 32 kbit/s",
        audio_seconds_per_second=568.0,
        source="benchmarks/results/loader.md",
    ),
)


def forward_gflop(encoder: EncoderConfig) -> float:
    """Work of the forward pass for a second of sound: convolutions and linear layers [GFLOP].

    Attention scores, norms and the heads of the objective are left out: a tenth or so at the
    lengths of pre-training. Used to carry a rate over from one network to another.
    """
    work, rate, channels = 0.0, float(SAMPLE_RATE), 1
    for layer in encoder.conv_layers:
        rate /= layer.stride
        work += rate * layer.kernel * channels * layer.channels
        channels = layer.channels
    dim = encoder.dim
    work += rate * channels * dim
    work += rate * encoder.positional_kernel * dim * (dim // encoder.positional_groups)
    work += rate * encoder.layers * (4 * dim * dim + 2 * dim * encoder.ffn_dim)
    return 2 * work / 1e9
