"""What a person may hand over as a recording or a model, made one of two things each."""

import hashlib
import json
import os
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unheard.audio.signal import SAMPLE_RATE, Waveform
from unheard.config import to_dict
from unheard.errors import AudioError, ConfigError, ShapeError
from unheard.inference.pipeline import Source
from unheard.interop.adapters import with_adapter
from unheard.interop.bundle import ModelBundle
from unheard.interop.load import load_model, model_fingerprint

ModelLike = ModelBundle | str | os.PathLike[str]
"""A loaded model, or the folder or name that `load_model` takes."""

AudioLike = str | os.PathLike[str] | bytes | bytearray | BinaryIO | Waveform | NDArray[Any] | Tensor
"""A path, the bytes of a file, a binary file object, a waveform, or samples at 16 kHz."""


def as_bundle(model: ModelLike, *, adapter: str | None = None, device: str = "cpu") -> ModelBundle:
    """Load a model unless it is one already, and switch it to a language if one is named.

    Args:
        model: see `ModelLike`; a loaded one stays as and where it is.
        adapter: language of a model with an adapter for each; None keeps what it is opened for.
        device: where to load it.
    """
    if not isinstance(model, ModelBundle):
        return load_model(model, device=device, adapter=adapter)
    return model if adapter in (None, model.adapter) else with_adapter(model, adapter)


def identify(model: ModelLike) -> str:
    """Hash all of a model that decides what it writes; equal for equal models.

    A stored model is told by its files, without loading it; a loaded one by its weights, shape,
    alphabet and input spec. The two never agree.
    """
    if not isinstance(model, ModelBundle):
        return model_fingerprint(model)
    described = {
        "config": to_dict(model.config),
        "alphabet": None if model.alphabet is None else model.alphabet.to_dict(),
        "input_spec": to_dict(model.input_spec),
    }
    hashed = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name, weights in sorted(model.model.state_dict().items()):
        values = weights.detach().cpu().contiguous()
        hashed.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        hashed.update(values.reshape(-1).view(torch.uint8).numpy())
    return hashed.hexdigest()


def as_source(audio: AudioLike) -> Source:
    """Make a source of anything that holds one recording.

    Args:
        audio: see `AudioLike`. Arrays and tensors are (samples,) of a floating type, at 16 kHz,
            nominally within -1 .. 1.

    Raises:
        ShapeError: if samples are not one-dimensional.
        AudioError: if samples are not finite (reason "nonfinite").
        ConfigError: if it is something else, or samples are integers.
    """
    if isinstance(audio, Waveform):
        return Source(audio=audio)
    if isinstance(audio, np.ndarray):
        return Source(audio=_from_samples(audio))
    if isinstance(audio, Tensor):
        is_float = torch.is_floating_point(audio)
        values = audio.detach().to("cpu", torch.float32) if is_float else audio.cpu()
        return Source(audio=_from_samples(values.numpy()))
    is_file = callable(getattr(audio, "read", None))
    if is_file or isinstance(audio, str | os.PathLike | bytes | bytearray):
        return Source(audio=audio)
    raise ConfigError(
        "A recording was given as something unknown: expected a path, bytes, a binary file "
        f"object, a Waveform, or samples as an array or tensor, found {type(audio).__name__}."
    )


def _from_samples(samples: NDArray[Any]) -> Waveform:
    """Check samples in memory."""
    if samples.ndim != 1:
        raise ShapeError(
            f"Samples must be one recording: expected shape (samples,), found {samples.shape}. "
            "Average the channels, and give several recordings as a list."
        )
    if not np.issubdtype(samples.dtype, np.floating):
        raise ConfigError(
            f"Samples must be floating point within -1 .. 1, found {samples.dtype}. "
            "Divide 16-bit samples by 32768."
        )
    samples = np.ascontiguousarray(samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise AudioError(
            "Samples must be finite: expected none, found NaN or infinity among them. "
            "Mend the recording before it is transcribed.",
            reason="nonfinite",
        )
    return Waveform(samples=samples, sample_rate=SAMPLE_RATE)
