"""Waveforms in, log-probabilities out: normalisation, padding and number format in one place."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio import signal
from unheard.audio.signal import Waveform
from unheard.decoding.emissions import Emissions, FrameTiming
from unheard.errors import ConfigError
from unheard.inference.accelerator_network import AcceleratorNetwork
from unheard.inference.cpu_network import CpuNetwork
from unheard.inference.number_format import Dtype, RunningDtype, choose_dtype, cpu_values
from unheard.interop.bundle import ModelBundle
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

CPU_BATCH_SECONDS = 30.0
"""Padded audio in one batch on a CPU [seconds]: more does not run faster there."""
ACCELERATOR_BATCH_SECONDS = 480.0
"""Padded audio in one batch on an accelerator [seconds], where its memory holds that."""
SHORTEST_BATCH_SECONDS = 30.0
"""Batch on an accelerator with next to no free memory [seconds]."""
SHARE_OF_FREE_MEMORY = 0.5
"""Of an accelerator's free memory, what a batch may be expected to take."""


class Engine:
    """Runs a CTC model over waveforms.

    With padding "masked", the default, a result does not depend on what else is in its batch.
    With "zeros" it does, as in the original implementations.
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        dtype: Dtype = "auto",
        padding: Literal["masked", "zeros"] | None = None,
        batch_seconds: float | None = None,
        writes_text: bool = True,
    ) -> None:
        """Prepare to run.

        Args:
            bundle: a model with a CTC head, and the alphabet of that head.
            dtype: number format of the matrix products; "auto" is the one that this hardware is
                fast in (`inference.number_format`). Norms and the last softmax stay in float32. A
                float64 model runs in float64, unless asked for less.
            padding: instead of the one in the model's input spec.
            batch_seconds: padded audio in one batch; None chooses by device and its free memory.
            writes_text: whether an alphabet is needed; log-probabilities can be had without.

        Raises:
            ConfigError: if the model has no CTC head, or no alphabet where one is needed, or a
                setting is out of range.
        """
        model = bundle.model
        if not isinstance(model, CtcModel):
            raise ConfigError(
                "Cannot transcribe: expected a model with an alphabet and a CTC head, found a "
                'pre-trained model without them. Fine-tune it first: "unheard finetune".'
            )
        if writes_text and bundle.alphabet is None:
            raise ConfigError(
                "Cannot transcribe: expected a model with an alphabet, found none. Put the "
                "model's vocab.json beside its weights, or list its labels beside a file of "
                "torchaudio or fairseq2 (docs/state-dicts.md); its emissions can be had without."
            )
        if padding is not None:
            bundle = bundle.with_padding(padding)
        if batch_seconds is None:
            batch_seconds = default_batch_seconds(bundle)
        if not batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be more than 0, got {batch_seconds}.")
        self.bundle = bundle
        self.model = model
        self.spec = bundle.input_spec
        self.encoder_config = bundle.encoder_config
        self.dtype: RunningDtype = choose_dtype(dtype, device=bundle.device, weights=bundle.dtype)
        self._network: CpuNetwork | AcceleratorNetwork | None = None
        self.batch_samples = round(batch_seconds * self.spec.sample_rate)

    @property
    def alphabet(self) -> Alphabet:
        """Symbols of the head.

        Raises:
            ConfigError: if the model has none (see `writes_text`).
        """
        if self.bundle.alphabet is None:
            raise ConfigError("This model has no alphabet: it gives emissions, not text.")
        return self.bundle.alphabet

    @property
    def batch_changes_results(self) -> bool:
        """Whether an utterance's result depends on the padding of its batch."""
        return self.spec.padding == "zeros"

    @property
    def timing(self) -> FrameTiming:
        """Where the frames of this model lie in time."""
        return FrameTiming(
            frame_stride_samples=self.encoder_config.stride_samples,
            frame_offset_samples=self.encoder_config.receptive_field_samples // 2,
            sample_rate=self.spec.sample_rate,
        )

    def prepare(self, waveform: Waveform) -> NDArray[np.float32]:
        """Resample to the model's rate; (samples,) float32, not yet normalised."""
        if waveform.sample_rate == self.spec.sample_rate:
            return waveform.samples
        return signal.resample(waveform.samples, waveform.sample_rate, self.spec.sample_rate)

    def log_probs(self, batch: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Run one batch, exactly as given.

        Args:
            batch: waveforms (samples,) at the model's rate, not normalised.

        Returns:
            For each waveform, (frames, vocab) natural log-probabilities on the CPU: float32, or
            float64 from a float64 model. No frames for a waveform shorter than the receptive
            field.
        """
        frames = [self.encoder_config.num_frames(samples.shape[0]) for samples in batch]
        heard = [index for index, count in enumerate(frames) if count]
        wide = torch.float64 if self.dtype == "float64" else torch.float32
        results = [torch.zeros(0, self.model.config.vocab, dtype=wide)] * len(batch)
        if not heard:
            return results
        sounds = [self._normalize(batch[index]) for index in heard]
        kept = [frames[index] for index in heard]
        with torch.inference_mode():
            network = self._network or self._lay_out()
            if isinstance(network, CpuNetwork):
                outputs = network.log_probs(self._as_padded(sounds, kept))
            else:
                outputs = network.log_probs(sounds)
        for row, (index, count) in enumerate(zip(heard, kept, strict=True)):
            # A copy, so that a short result does not keep the whole batch alive.
            results[index] = outputs[row][:count].clone()
        return results

    def _normalize(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Make of samples what the model hears."""
        if not self.spec.normalize:
            return samples
        return signal.normalize(samples, epsilon=self.spec.normalize_epsilon)

    def _lay_out(self) -> "CpuNetwork | AcceleratorNetwork":
        """Prepare the weights on first use: what only reads a model's timing needs none of it."""
        if self.bundle.device.type == "cpu" and self.dtype in ("float32", "bfloat16", "int8"):
            self._network = CpuNetwork(
                self.model,
                dtype=cpu_values(self.dtype),
                int8=self.dtype == "int8",
            )
        else:
            self._network = AcceleratorNetwork(self.model, spec=self.spec, dtype=self.dtype)
        return self._network

    def _as_padded(
        self, sounds: list[NDArray[np.float32]], frames: list[int]
    ) -> list[tuple[NDArray[np.float32], int]]:
        """Give sounds the zeros behind them that their batch would, where those are heard.

        Returns:
            Samples, and how many of their frames the Transformer sees.
        """
        if not self.batch_changes_results:
            return list(zip(sounds, frames, strict=True))
        longest = max(sound.shape[0] for sound in sounds)
        seen = frames
        if not self.spec.attention_mask:
            seen = [self.encoder_config.num_frames(longest)] * len(sounds)
        padded = [np.pad(sound, (0, longest - sound.shape[0])) for sound in sounds]
        return list(zip(padded, seen, strict=True))

    def run(self, waveforms: Sequence[Waveform]) -> list[Emissions]:
        """Run waveforms of utterance length, in length-sorted batches where that is harmless.

        With padding "zeros" the waveforms are one batch, exactly as given.

        Returns:
            Emissions in the order of the waveforms; with no frames and the warning "too_short"
            for those shorter than the receptive field.
        """
        samples = [self.prepare(waveform) for waveform in waveforms]
        lengths = [one.shape[0] for one in samples]
        if self.batch_changes_results:
            batches = [list(range(len(samples)))] if samples else []
        else:
            batches = plan_batches(lengths, budget_samples=self.batch_samples)
        results: dict[int, Emissions] = {}
        for batch in batches:
            for index, log_probs in zip(
                batch, self.log_probs([samples[index] for index in batch]), strict=True
            ):
                results[index] = self.emissions(
                    log_probs, num_samples=lengths[index], warnings=waveforms[index].warnings
                )
        return [results[index] for index in range(len(samples))]

    def emissions(
        self, log_probs: Tensor, *, num_samples: int, warnings: tuple[str, ...]
    ) -> Emissions:
        """Give log-probabilities (frames, vocab) the time base of this model."""
        return Emissions(
            log_probs=log_probs,
            frame_stride_samples=self.encoder_config.stride_samples,
            frame_offset_samples=self.timing.frame_offset_samples,
            num_samples=num_samples,
            sample_rate=self.spec.sample_rate,
            warnings=with_too_short(warnings, frames=log_probs.shape[0]),
        )


def default_batch_seconds(bundle: ModelBundle) -> float:
    """Choose how much padded audio runs at once [seconds].

    On a CPU the values of a batch leave the cache when there are many; on CUDA a batch is as long
    as the free memory allows, up to where more does not run faster.
    """
    if bundle.device.type == "cpu":
        return CPU_BATCH_SECONDS
    if bundle.device.type != "cuda":
        return ACCELERATOR_BATCH_SECONDS
    free_bytes, _ = torch.cuda.mem_get_info(bundle.device)
    fitting = free_bytes * SHARE_OF_FREE_MEMORY / bytes_per_second(bundle)
    return min(ACCELERATOR_BATCH_SECONDS, max(fitting, SHORTEST_BATCH_SECONDS))


def bytes_per_second(bundle: ModelBundle) -> float:
    """Estimate what a second of padded audio needs while it runs [bytes], from above.

    The first convolution has the largest values: in float32 for its norm, twice, and once more
    in the format of the products.
    """
    first = bundle.encoder_config.conv_layers[0]
    return bundle.input_spec.sample_rate / first.stride * first.channels * 12


def plan_batches(lengths: Sequence[int], *, budget_samples: int) -> list[list[int]]:
    """Group utterances of similar length, the longest first.

    Args:
        lengths: of each utterance [samples].
        budget_samples: padded length of a batch [samples]; a longer utterance is a batch alone.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget_samples:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def with_too_short(warnings: tuple[str, ...], *, frames: int) -> tuple[str, ...]:
    """Add the warning "too_short" to those of a recording that gave no frame."""
    if frames or "too_short" in warnings:
        return warnings
    return (*warnings, "too_short")
