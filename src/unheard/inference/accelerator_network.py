"""A CTC network for CUDA, MPS and whatever `CpuNetwork` does not do: the plain one, in batches.

The weights are a copy in the format of the products, made once, so that no weight is converted
while it runs. Samples go to the device from pinned memory, without waiting for the copy.
"""

import copy
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unheard.audio.signal import InputSpec
from unheard.inference.number_format import RunningDtype
from unheard.models.ctc import CtcModel
from unheard.models.transformer import PositionalConv

TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class AcceleratorNetwork:
    """Encoder and head, ready to run; holds its own copy of the weights."""

    def __init__(self, model: CtcModel, *, spec: InputSpec, dtype: RunningDtype) -> None:
        """Copy the weights of a model.

        Args:
            model: the network; later changes to its weights are not seen.
            spec: how it hears padding.
            dtype: of the matrix products; not int8.
        """
        self.spec = spec
        self.dtype = TYPES[dtype]
        self.wide = torch.promote_types(self.dtype, torch.float32)
        kernel = model.encoder.transformer.positional.kernel_weight().detach()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        transformer = self.model.encoder.transformer
        transformer.positional = _FixedPositional(transformer.positional, kernel)
        self.model.to(self.dtype)
        self.device = next(self.model.parameters()).device

    def log_probs(self, sounds: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Run one batch.

        Args:
            sounds: samples (samples,) of each recording, normalised.

        Returns:
            Of each (frames, vocab) natural log-probabilities on the CPU, float32 or wider, with
            frames of padding behind.
        """
        return list(torch.log_softmax(self.logits(sounds), dim=-1).cpu())

    def logits(self, sounds: Sequence[NDArray[np.float32]]) -> Tensor:
        """Run one batch: (batch, frames, vocab) on the device, float32 or wider."""
        inputs, lengths = self._collate(sounds)
        return self.model(inputs, lengths, padding=self.spec.padding).logits.to(self.wide)

    def _collate(self, sounds: Sequence[NDArray[np.float32]]) -> tuple[Tensor, Tensor | None]:
        """Pad with zeros and copy to the device at once."""
        lengths = [sound.shape[0] for sound in sounds]
        longest = max(lengths)
        pinned = self.device.type == "cuda"
        inputs = torch.zeros(len(sounds), longest, pin_memory=pinned)
        for row, sound in zip(inputs.numpy(), sounds, strict=True):
            row[: sound.shape[0]] = sound
        inputs = inputs.to(device=self.device, non_blocking=pinned).to(self.dtype)
        sees_padding = self.spec.padding == "zeros" and not self.spec.attention_mask
        if sees_padding or min(lengths) == longest:
            return inputs, None
        return inputs, torch.tensor(lengths, device=self.device)


class _FixedPositional(PositionalConv):
    """The positional convolution with its weight norm worked out once."""

    def __init__(self, positional: PositionalConv, kernel: Tensor) -> None:
        nn.Module.__init__(self)
        self.kernel = positional.kernel
        self.groups = positional.groups
        self.weight = nn.Parameter(kernel.clone(), requires_grad=False)
        self.bias = positional.bias

    def kernel_weight(self) -> Tensor:
        """The effective kernel, (dim, dim / groups, kernel)."""
        return self.weight
