"""An exported model at work: ONNX Runtime in the place of the network, and how far the two differ.

Made to check what `unheard export` writes and to measure it; transcription at full speed, of long
recordings and with a language model, is `Engine`'s.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio import signal
from unheard.audio.signal import Waveform
from unheard.decoding.emissions import Emissions
from unheard.decoding.greedy import GreedyDecoder
from unheard.decoding.hypothesis import Hypothesis
from unheard.errors import CheckpointError, ConfigError, MissingExtraError, ShapeError, shorten
from unheard.files import sha256_file
from unheard.interop.bundle import ModelBundle
from unheard.interop.onnx.folder import GRAPH_FILE, ExportedFolder, GraphSpec, read_description
from unheard.interop.onnx.network import Outputs
from unheard.models.ctc import CtcModel
from unheard.tensors import derived_generator

Scores = Callable[[NDArray[np.float32]], Tensor]
"""(utterances, samples) of one length, as they were recorded -> (utterances, frames, symbols)
natural log-probabilities."""


class ExportedModel:
    """A graph in the folder of an exported model, ready to run on the CPU.

    Attributes:
        folder: what its description says.
        alphabet: of the graph's outputs, which need not be that of the model.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        file: str = GRAPH_FILE,
        threads: int | None = None,
    ) -> None:
        """Open a graph, after comparing it with the hash that was written down.

        Args:
            folder: that `unheard export` wrote.
            file: the graph, "model.onnx" or "model.int8.onnx".
            threads: of ONNX Runtime; as many as torch uses unless given.

        Raises:
            MissingExtraError: if onnxruntime is not installed.
            FormatError: if it is not such a folder.
            ConfigError: if it has no such graph.
            CheckpointError: if a file is missing or not the one that was written.
        """
        path = Path(folder)
        self.folder: ExportedFolder = read_description(path)
        self.alphabet = self.folder.alphabet
        if file not in self.folder.files:
            raise ConfigError(
                f"{path} has no {file}: expected one of {shorten(sorted(self.folder.files))}."
            )
        for name, expected in self.folder.files.items():
            if name.startswith(file) and sha256_file(path / name) != expected:
                raise CheckpointError(
                    f"{path / name} is not the file that was written: expected SHA-256 {expected}. "
                    "Copy it again, or export the model again."
                )
        self._scores = graph_scores(path / file, self.folder.spec, threads=threads)

    def scores(self, samples: NDArray[np.float32]) -> Tensor:
        """Run utterances of one length.

        Args:
            samples: (utterances, samples) at the model's rate, as recorded.

        Returns:
            (utterances, frames, symbols) natural log-probabilities, float32.

        Raises:
            ShapeError: if `samples` has other axes.
        """
        if samples.ndim != 2:
            raise ShapeError(
                f"scores takes utterances of one length: expected (utterances, samples), found "
                f"{samples.shape}."
            )
        return self._scores(samples)

    def log_probs(self, batch: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Run utterances of any lengths, one at a time, as `Engine.log_probs` does batches.

        Args:
            batch: waveforms (samples,) at the model's rate, as recorded.

        Returns:
            For each, (frames, symbols) natural log-probabilities; no frames for one that is
            shorter than the receptive field.
        """
        return [self.scores(samples[None])[0] for samples in batch]

    def transcribe(self, waveform: Waveform) -> Hypothesis:
        """Write what is said, by the most probable symbol of each frame."""
        spec = self.folder.spec
        samples = signal.resample(waveform.samples, waveform.sample_rate, spec.sample_rate)
        emissions = Emissions(
            log_probs=self.log_probs([samples])[0],
            frame_stride_samples=spec.frame_stride_samples,
            frame_offset_samples=spec.frame_offset_samples,
            num_samples=samples.shape[0],
            sample_rate=spec.sample_rate,
            warnings=waveform.warnings,
        )
        return GreedyDecoder(self.alphabet).decode(emissions)[0]


def check_installed() -> None:
    """Refuse to begin what cannot be run.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
    """
    try:
        importlib.import_module("onnxruntime")
    except (ImportError, OSError) as error:
        raise MissingExtraError(
            "onnxruntime", extra="onnx", purpose="Running an exported model"
        ) from error


def open_graph(
    path: Path, *, threads: int | None = None
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Open a graph with one input and one output; returns what runs it.

    Raises:
        MissingExtraError: if onnxruntime is not installed.
        CheckpointError: if it does not take the file.
    """
    check_installed()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise CheckpointError(f"ONNX Runtime does not open {path}: {error}.") from error
    (source,) = session.get_inputs()
    (result,) = session.get_outputs()

    def run(samples: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            return np.asarray(session.run([result.name], {source.name: samples})[0])
        except Exception as error:
            raise CheckpointError(
                f"ONNX Runtime does not run {path} on samples of shape {samples.shape}: {error}."
            ) from error

    return run


def graph_scores(path: Path, spec: GraphSpec, *, threads: int | None = None) -> Scores:
    """Give what a graph says of sound as it was recorded.

    Args:
        path: the graph.
        spec: what it wants to hear.
        threads: of ONNX Runtime; as many as torch uses unless given.

    Raises:
        UnheardError: as `open_graph`.
    """
    run = open_graph(path, threads=threads)

    def scores(samples: NDArray[np.float32]) -> Tensor:
        return torch.log_softmax(torch.from_numpy(run(samples)), dim=-1)

    return scores if spec.normalize_epsilon is None else after_norm(scores, spec.normalize_epsilon)


def after_norm(scores: Scores, epsilon: float) -> Scores:
    """Normalise each utterance before it is heard."""
    return lambda samples: scores(normalize_rows(samples, epsilon=epsilon))


def normalize_rows(samples: NDArray[np.float32], *, epsilon: float) -> NDArray[np.float32]:
    """Normalise each utterance of (utterances, samples) by itself."""
    return np.stack([signal.normalize(row, epsilon=epsilon) for row in samples])


def network_scores(bundle: ModelBundle, outputs: Outputs) -> Scores:
    """Give what the network of a model says, with the outputs that a graph of it has.

    Raises:
        ConfigError: if it is no CTC model.
    """
    model, spec = bundle.model, bundle.input_spec
    if not isinstance(model, CtcModel):
        raise ConfigError("Expected a model with a CTC head, found one without.")
    model.eval()

    def scores(samples: NDArray[np.float32]) -> Tensor:
        if spec.normalize:
            samples = normalize_rows(samples, epsilon=spec.normalize_epsilon)
        if not model.config.encoder.num_frames(samples.shape[1]):
            return torch.zeros(samples.shape[0], 0, len(outputs))
        inputs = torch.from_numpy(samples).to(device=bundle.device, dtype=bundle.dtype)
        with torch.inference_mode():
            logits = model(inputs, padding=spec.padding).logits
        return torch.log_softmax(outputs.pick(logits.float()), dim=-1).cpu()

    return scores


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How near a graph comes to the network it was made of.

    Attributes:
        max_error: largest difference of a log-probability [nats].
        mean_error: mean of them all [nats].
        at: the batch with the largest, as (utterances, samples).
        frames: frames compared.
        same_symbol: share of them in which the same symbol is the best.
        batches: what was compared, as (utterances, samples).
    """

    max_error: float
    mean_error: float
    at: tuple[int, int]
    frames: int
    same_symbol: float
    batches: tuple[tuple[int, int], ...]


def compare(reference: Scores, found: Scores, batches: Sequence[tuple[int, int]]) -> Agreement:
    """Run two networks over made sound and compare what they say.

    Args:
        reference: what is right.
        found: what is to be judged.
        batches: (utterances, samples) of each batch.

    Raises:
        CheckpointError: if they give different numbers of frames, or `found` gives something that
            is not a finite number.
    """
    largest, at, total, count, same, frames = 0.0, batches[0], 0.0, 0, 0, 0
    for batch in batches:
        samples = make_sound(*batch)
        right, judged = reference(samples), found(samples)
        place = f"{batch[0]} utterances of {batch[1]} samples"
        if right.shape != judged.shape:
            raise CheckpointError(
                f"The exported graph gives other frames than the model: expected "
                f"{tuple(right.shape)}, found {tuple(judged.shape)} (for {place}). Nothing was "
                "written."
            )
        if not torch.isfinite(judged).all():
            raise CheckpointError(
                f"The exported graph gives numbers that are not finite ({place})."
            )
        if not right.numel():
            continue
        error = (right.double() - judged.double()).abs()
        if float(error.max()) > largest:
            largest, at = float(error.max()), batch
        total, count = total + float(error.sum()), count + error.numel()
        same += int((right.argmax(dim=-1) == judged.argmax(dim=-1)).sum())
        frames += right.shape[0] * right.shape[1]
    return Agreement(
        max_error=largest,
        mean_error=total / max(count, 1),
        at=at,
        frames=frames,
        same_symbol=same / max(frames, 1),
        batches=tuple(batches),
    )


def batches_to_compare(bundle: ModelBundle) -> list[tuple[int, int]]:
    """Choose batches that show whether a graph is right at every length and batch size.

    From one sample too short for a frame to 200 frames, 4 s of most networks; the longest alone.
    """
    encoder = bundle.encoder_config
    least, stride = encoder.receptive_field_samples, encoder.stride_samples
    return [
        (2, least - 1),
        (1, least),
        (3, least + 2 * stride + 1),
        (2, least + 43 * stride + stride // 2),
        (1, least + 199 * stride),
    ]


def make_sound(utterances: int, samples: int) -> NDArray[np.float32]:
    """Make something with the loudness, the pauses and the spectrum of speech, always the same.

    Returns:
        (utterances, samples) float32 within -1 .. 1.
    """
    generator = derived_generator(0, "sound", utterances, samples)
    shape = (utterances, samples)
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    # Differences of a random walk that forgets: more low sound than high.
    sound = noise.clone()
    for shift in (1, 2, 3):
        sound[:, shift:] += (1 - shift / 4) * noise[:, : max(samples - shift, 0)]
    place = torch.linspace(0, samples / 3000, samples, dtype=torch.float64)
    phase = torch.rand((utterances, 1), generator=generator, dtype=torch.float64)
    loudness = 0.02 + torch.sin(3.1 * (place + phase)).clamp_min(0) ** 2
    return (0.1 * sound * loudness).clamp(-1, 1).numpy().astype(np.float32)
