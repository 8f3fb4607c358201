"""What can be said of a stored model without reading its weights."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from unheard.audio.signal import InputSpec
from unheard.config import to_dict
from unheard.interop import storage
from unheard.interop.bundle import Network, NetworkConfig
from unheard.interop.native import ARCHITECTURES
from unheard.interop.reading import Reading
from unheard.interop.stored import StoredTensor
from unheard.models.config import EncoderConfig
from unheard.text.alphabet import Alphabet

TYPE_NAMES: Mapping[str, str] = MappingProxyType(
    {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
)
"""Types of weights: as safetensors spells them -> as torch and the command line do."""

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "encoder.feature_encoder": "convolutions",
        "encoder.feature_norm": "projection",
        "encoder.projection": "projection",
        "encoder.mask_embedding": "mask embedding",
        "encoder.transformer.positional": "positional convolution",
        "encoder.transformer": "Transformer",
        "quantizer": "quantiser",
        "project_targets": "pre-training projections",
        "project_context": "pre-training projections",
        "layer_weights": "mixture of layers",
    }
)
"""Start of a weight's name -> the part of the network that it is counted with; the first that
fits. What fits none belongs to the head."""

_ADAPTER_PART = "language adapter"
_HEAD_PART = "head"
_ORDER = (*dict.fromkeys(PARTS.values()), _ADAPTER_PART, _HEAD_PART)


@dataclass(frozen=True, kw_only=True)
class MappedTensor:
    """Where one weight of our network comes from.

    Attributes:
        name: in our network.
        shape: in our network.
        source: name in the files; None if no file has it and it is freshly initialised.
        row: of the stacked tensor in the files, or None for a whole tensor.
        stored_shape: in the files; None where there is no source.
        dtype: type of the stored numbers; None where there is no source.
        file: name of the file; None where there is no source.
    """

    name: str
    shape: tuple[int, ...]
    source: str | None
    row: int | None
    stored_shape: tuple[int, ...] | None
    dtype: str | None
    file: str | None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A stored model, described from its headers and settings; its weights are not read.

    Attributes:
        source: the model, as it was asked for.
        format: "unheard", "transformers", "fairseq", "torchaudio" or "fairseq2".
        architecture: what that format calls the network.
        network: what it is here: "ctc", "pretraining" and so on.
        config: shape of our network.
        parameters: how many numbers the network has.
        parts: the same by part of the network, in its order.
        size_bytes: of the files that hold the weights [bytes].
        files: how many these are.
        dtypes: type of numbers -> how many of the parameters are stored in it.
        input_spec: what the network expects to hear.
        alphabet: symbols of a CTC head, or None.
        labels: classes of a classification head; empty without one, or when nobody named them.
        adapters: languages that the model can be switched to, in order.
        adapter: the language whose alphabet and output layer are described, or None.
        licence: of the weights, as far as the files say.
        provenance: where the model came from, as far as the files say, as plain data.
        initialised: weights that no file has and loading draws afresh.
        ignored: names in the files that the network has no use for, each with the reason.
        tensors: the map of all weights, if it was asked for.
    """

    source: str
    format: str
    architecture: str
    network: str
    config: NetworkConfig
    parameters: int
    parts: Mapping[str, int]
    size_bytes: int
    files: int
    dtypes: Mapping[str, int]
    input_spec: InputSpec
    alphabet: Alphabet | None
    labels: tuple[str, ...]
    adapters: tuple[str, ...]
    adapter: str | None
    licence: str | None
    provenance: Mapping[str, Any]
    initialised: tuple[str, ...]
    ignored: Mapping[str, str]
    tensors: tuple[MappedTensor, ...] | None = None

    @property
    def encoder(self) -> EncoderConfig:
        """Shape of the encoder."""
        return self.config.encoder

    @property
    def frame_stride_samples(self) -> int:
        """Samples from one frame to the next."""
        return self.encoder.stride_samples

    @property
    def receptive_field_samples(self) -> int:
        """Samples that one frame sees."""
        return self.encoder.receptive_field_samples

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain data."""
        facts = {
            "source": self.source,
            "format": self.format,
            "architecture": self.architecture,
            "network": self.network,
            "parameters": self.parameters,
            "parts": dict(self.parts),
            "size_bytes": self.size_bytes,
            "files": self.files,
            "dtypes": dict(self.dtypes),
            "config": to_dict(self.config),
            "frame_stride_samples": self.frame_stride_samples,
            "receptive_field_samples": self.receptive_field_samples,
            "input_spec": to_dict(self.input_spec),
            "alphabet": None if self.alphabet is None else self.alphabet.to_dict(),
            "labels": list(self.labels),
            "adapters": list(self.adapters),
            "adapter": self.adapter,
            "licence": self.licence,
            "provenance": dict(self.provenance),
            "initialised": list(self.initialised),
            "ignored": dict(self.ignored),
        }
        if self.tensors is not None:
            facts["tensors"] = [vars(tensor) for tensor in self.tensors]
        return facts

    def table(self) -> str:
        """Lay it out for a person."""
        from unheard.interop.inspection_table import lay_out

        return lay_out(self)


def describe(reading: Reading, *, source: str, with_map: bool = False) -> Inspection:
    """Describe a stored model that has been understood and not yet read.

    Args:
        reading: what its format's reader returned.
        source: what the person called it.
        with_map: also say of each weight where it comes from.

    Raises:
        CheckpointError: if names, shapes or types in the files do not fit the configuration.
        ConfigError: if a size is beyond what any model has.
    """
    storage.compare(reading)
    network = storage.build(reading.config, source=source)
    stored = _stored(reading, network)
    parts: Counter[str] = Counter()
    dtypes: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parts[part_of(name)] += parameter.numel()
        if (tensor := stored.get(name)) is not None:
            dtypes[_type_name(tensor.kind)] += parameter.numel()
    files = {tensor.file for tensor in reading.store.tensors.values()}
    provenance = dict(reading.provenance)
    return Inspection(
        source=source,
        format=reading.format,
        architecture=reading.architecture,
        network=next(
            name for name, kind in ARCHITECTURES.items() if isinstance(reading.config, kind)
        ),
        config=reading.config,
        parameters=parts.total(),
        parts=MappingProxyType(dict(sorted(parts.items(), key=lambda item: _ORDER.index(item[0])))),
        size_bytes=sum(file.stat().st_size for file in files),
        files=len(files),
        dtypes=MappingProxyType(dict(dtypes.most_common())),
        input_spec=reading.input_spec,
        alphabet=reading.alphabet,
        labels=reading.labels,
        adapters=tuple(sorted(reading.adapters)),
        adapter=reading.adapter,
        licence=_licence(provenance),
        provenance=MappingProxyType(provenance),
        initialised=tuple(sorted(reading.initialised)),
        ignored=MappingProxyType(dict(sorted(reading.ignored.items()))),
        tensors=_map(reading, network, stored) if with_map else None,
    )


def part_of(name: str) -> str:
    """Name the part of a network that a weight of this name belongs to."""
    if ".adapter." in name:
        return _ADAPTER_PART
    return next((part for start, part in PARTS.items() if _starts(name, start)), _HEAD_PART)


def _starts(name: str, start: str) -> bool:
    """Whether a dotted name is `start` or lies below it."""
    return name == start or name.startswith(f"{start}.")


def _stored(reading: Reading, network: Network) -> dict[str, StoredTensor]:
    """Find what the files say of each weight that they have."""
    return {
        name: reading.store.tensors[reading.places[name].name]
        for name in network.state_dict()
        if name not in reading.initialised
    }


def _map(
    reading: Reading, network: Network, stored: Mapping[str, StoredTensor]
) -> tuple[MappedTensor, ...]:
    """List every weight with its source."""
    rows = []
    for name, weight in network.state_dict().items():
        tensor, place = stored.get(name), reading.places.get(name)
        if tensor is None or place is None:
            tensor = place = None
        rows.append(
            MappedTensor(
                name=name,
                shape=tuple(weight.shape),
                source=None if place is None else place.name,
                row=None if place is None else place.row,
                stored_shape=None if tensor is None else tensor.shape,
                dtype=None if tensor is None else _type_name(tensor.kind),
                file=None if tensor is None else tensor.file.name,
            )
        )
    return tuple(rows)


def _type_name(kind: str) -> str:
    """Spell a type of numbers as torch does."""
    return TYPE_NAMES.get(kind, kind)


def _licence(provenance: Mapping[str, Any]) -> str | None:
    """Find the licence in a model's provenance, in either spelling."""
    for key in ("licence", "license"):
        value = provenance.get(key)
        if isinstance(value, str) and value:
            return value
    return None
