"""A model with all that is needed to use it."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from unheard.audio.signal import InputSpec
from unheard.models.config import CtcConfig, EncoderConfig, MaskedUnitConfig, PretrainingConfig
from unheard.models.ctc import CtcModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.text.alphabet import Alphabet

Network = CtcModel | PretrainingModel | MaskedUnitModel
"""Every network that a model folder can hold."""
NetworkConfig = CtcConfig | PretrainingConfig | MaskedUnitConfig
"""Their configurations."""


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """What `load_model` returns and every verb takes.

    Attributes:
        model: the network, in evaluation mode unless somebody trains it.
        alphabet: symbols of the CTC head; None for a pre-trained model.
        input_spec: what the network expects to hear.
        provenance: where the model came from, as plain data (source, parent, licence, recipe).
    """

    model: Network
    alphabet: Alphabet | None
    input_spec: InputSpec
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> NetworkConfig:
        """Shape of the whole network."""
        return self.model.config

    @property
    def encoder_config(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.model.config.encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.model.parameters()).dtype

    def with_input_spec(self, **changes: Any) -> "ModelBundle":
        """Return the same model with another input spec, for example `padding="zeros"`."""
        return replace(self, input_spec=replace(self.input_spec, **changes))
