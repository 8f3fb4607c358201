"""What a hidden layer of a trained network makes of a recording, as features to be clustered.

Source: Hsu et al. 2021 (HuBERT), sec. III-D: from the second round on, targets are clusters of a
Transformer layer of the round before.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

from unheard.data.store import SampleStore
from unheard.errors import ConfigError
from unheard.interop.bundle import ModelBundle
from unheard.models.config import EncoderConfig


class HiddenFeatures:
    """Output of one Transformer layer, frame by frame."""

    def __init__(self, bundle: ModelBundle, *, layer: int) -> None:
        """Prepare.

        Args:
            bundle: a model of any kind, in evaluation mode.
            layer: which Transformer layer, from 1 on; 0 is what enters the first.

        Raises:
            ConfigError: if there is no such layer.
        """
        if not 0 <= layer <= bundle.encoder_config.layers:
            raise ConfigError(
                f"There is no layer {layer}: expected 0 to {bundle.encoder_config.layers}."
            )
        self.bundle = bundle
        self.layer = layer
        digest = hashlib.sha256()
        for name, weight in sorted(bundle.model.encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        self.fingerprint = f"layer {layer} of {digest.hexdigest()}"

    @property
    def frame_rule(self) -> EncoderConfig:
        """Where the frames lie: those of the network."""
        return self.bundle.encoder_config

    def of(self, store: SampleStore, number: int) -> NDArray[np.float32]:
        """Describe one utterance of a store, (frames, dim)."""
        spec = self.bundle.input_spec
        if self.frame_rule.num_frames(int(store.num_samples[number])) == 0:
            return np.zeros((0, self.frame_rule.dim), np.float32)
        samples = (
            store.normalized(number, epsilon=spec.normalize_epsilon)
            if spec.normalize
            else store.samples(number)
        )
        inputs = torch.from_numpy(samples)[None].to(self.bundle.device, self.bundle.dtype)
        with torch.inference_mode():
            output = self.bundle.model.encoder(inputs, keep_layers=True)
        return output.layers[self.layer][0].float().cpu().numpy()
