"""A model with all that is needed to use it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from unheard.audio.signal import InputSpec
from unheard.interop.stored import StoredAdapter
from unheard.models.config import (
    CtcConfig,
    EncoderConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    PretrainingConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)
from unheard.models.ctc import CtcModel
from unheard.models.encoder_only import EncoderOnlyModel
from unheard.models.feature_encoder import Padding
from unheard.models.frame_classifier import FrameClassifierModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel
from unheard.models.sequence_classifier import SequenceClassifierModel
from unheard.models.speaker import SpeakerModel
from unheard.text.alphabet import Alphabet

Network = (
    CtcModel
    | PretrainingModel
    | MaskedUnitModel
    | EncoderOnlyModel
    | SequenceClassifierModel
    | FrameClassifierModel
    | SpeakerModel
)
"""Every network that a stored model can be."""
NetworkConfig = (
    CtcConfig
    | PretrainingConfig
    | MaskedUnitConfig
    | EncoderOnlyConfig
    | SequenceClassifierConfig
    | FrameClassifierConfig
    | SpeakerConfig
)
"""Their configurations."""

NETWORKS: Mapping[type[NetworkConfig], type[nn.Module]] = MappingProxyType(
    {
        CtcConfig: CtcModel,
        PretrainingConfig: PretrainingModel,
        MaskedUnitConfig: MaskedUnitModel,
        EncoderOnlyConfig: EncoderOnlyModel,
        SequenceClassifierConfig: SequenceClassifierModel,
        FrameClassifierConfig: FrameClassifierModel,
        SpeakerConfig: SpeakerModel,
    }
)
"""The network of each configuration."""


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """What `load_model` returns and every verb takes.

    Attributes:
        model: the network, in evaluation mode unless somebody trains it.
        alphabet: symbols of the CTC head; None for a pre-trained model.
        input_spec: what the network expects to hear.
        provenance: where the model came from, as plain data (source, parent, licence, recipe).
        labels: classes of a classification head, in order; empty without one, or when nobody named
            them.
        adapters: language -> adapter and head that can be switched to; empty for most models.
        adapter: the language whose adapter and head `model` has; None without adapters.
    """

    model: Network
    alphabet: Alphabet | None
    input_spec: InputSpec
    provenance: dict[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    adapters: Mapping[str, StoredAdapter] = field(default_factory=dict)
    adapter: str | None = None

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

    def with_padding(self, padding: Padding) -> "ModelBundle":
        """Return the same model with another way to treat the padding of batches."""
        return replace(self, input_spec=replace(self.input_spec, padding=padding))
