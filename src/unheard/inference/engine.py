"""Waveforms in, log-probabilities out: normalisation, padding and number format in one place."""

import contextlib
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
from unheard.interop.bundle import ModelBundle
from unheard.models.ctc import CtcModel
from unheard.text.alphabet import Alphabet

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
"""Type of the matrix products; "auto" is the type of the model's weights."""

CPU_BATCH_SECONDS = 30.0
"""Padded audio in one batch on a CPU [seconds]: more does not run faster there."""
ACCELERATOR_BATCH_SECONDS = 480.0
"""Padded audio in one batch on an accelerator [seconds]."""


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
            dtype: "bfloat16" and "float16" run the matrix products in that type; the
                softmax stays in float32.
            padding: instead of the one in the model's input spec.
            batch_seconds: padded audio in one batch; None chooses by device.
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
            on_cpu = bundle.device.type == "cpu"
            batch_seconds = CPU_BATCH_SECONDS if on_cpu else ACCELERATOR_BATCH_SECONDS
        if not batch_seconds > 0:
            raise ConfigError(f"batch_seconds must be more than 0, got {batch_seconds}.")
        self.bundle = bundle
        self.model = model
        self.spec = bundle.input_spec
        self.encoder_config = bundle.encoder_config
        self.dtype: Dtype = dtype
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
        wide = torch.float64 if self.bundle.dtype == torch.float64 else torch.float32
        results = [torch.zeros(0, self.model.config.vocab, dtype=wide)] * len(batch)
        if not heard:
            return results
        inputs, lengths = self._collate([batch[index] for index in heard])
        with torch.inference_mode(), _evaluating(self.model), self._autocast():
            logits = self.model(inputs, lengths, padding=self.spec.padding).logits
            outputs = torch.log_softmax(logits.to(wide), dim=-1).cpu()
        for row, index in enumerate(heard):
            # A copy, so that a short result does not keep the whole padded batch alive.
            results[index] = outputs[row, : frames[index]].clone()
        return results

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

    def _collate(self, batch: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor | None]:
        """Normalise each waveform by itself, then pad with zeros; one copy to the device."""
        longest = max(samples.shape[0] for samples in batch)
        padded = np.zeros((len(batch), longest), np.float32)
        for row, samples in zip(padded, batch, strict=True):
            row[: samples.shape[0]] = (
                signal.normalize(samples, epsilon=self.spec.normalize_epsilon)
                if self.spec.normalize
                else samples
            )
        inputs = torch.from_numpy(padded).to(device=self.bundle.device, dtype=self.bundle.dtype)
        lengths = [samples.shape[0] for samples in batch]
        sees_padding = self.spec.padding == "zeros" and not self.spec.attention_mask
        if sees_padding or min(lengths) == longest:
            return inputs, None
        return inputs, torch.tensor(lengths, device=self.bundle.device)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        """Run matrix products in the number format asked for."""
        types = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        if self.dtype not in types:
            return contextlib.nullcontext()
        return torch.autocast(self.bundle.device.type, dtype=types[self.dtype])


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


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module):
    """Hold a model in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
