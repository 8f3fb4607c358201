"""Networks without memory: built for their names and shapes, to be filled from files."""

import math
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unheard.errors import ConfigError
from unheard.interop.bundle import NETWORKS, Network, NetworkConfig
from unheard.models.config import (
    CtcConfig,
    EncoderOnlyConfig,
    FrameClassifierConfig,
    MaskedUnitConfig,
    PretrainingConfig,
    SequenceClassifierConfig,
    SpeakerConfig,
)
from unheard.tensors import derived_generator


def build(config: NetworkConfig, *, source: object) -> Network:
    """Make the network of a configuration without memory for its weights (see `load`).

    Raises:
        ConfigError: if a size is beyond what any model has, before time or memory goes into it.
    """
    _check_sizes(config, source=source)
    with torch.device("meta"), NoDraws():
        return cast("Network", NETWORKS[type(config)](config))


def shapes_of(config: NetworkConfig, *, source: object) -> Mapping[str, tuple[int, ...]]:
    """Name and shape of every weight of a configuration's network.

    Raises:
        ConfigError: as `build`.
    """
    _check_sizes(config, source=source)
    return _shapes_of(config)


def draw(name: str, shape: tuple[int, ...]) -> Tensor:
    """Initialise one weight that no file has, always the same for a name and shape.

    Weights of layers are uniform within the inverse root of their inputs, as torch draws them.
    """
    generator = derived_generator(0, name)
    last = name.rpartition(".")[2]
    if name in ("encoder.mask_embedding", "quantizer.codebook"):
        return torch.rand(shape, generator=generator)
    if name in ("quantizer.scores.weight", "class_vectors"):
        return torch.randn(shape, generator=generator)
    if name == "quantizer.scores.bias":
        return torch.zeros(shape)
    if name == "layer_weights":
        return torch.zeros(shape)
    if "norm" in name.split(".")[-2:-1]:
        return torch.ones(shape) if last == "weight" else torch.zeros(shape)
    bound = math.prod(shape[1:] or shape) ** -0.5
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound


_DRAWS = frozenset(
    {
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_normal_,
        nn.init.kaiming_uniform_,
    }
)


class NoDraws(TorchFunctionMode):
    """Leaves random initialisation out.

    Without memory it does nothing but import a second of code: torch computes what it means for a
    tensor without content in Python.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Return the tensor as it is instead of drawing into it, and a norm's shape for a norm."""
        kwargs = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else kwargs["tensor"]
        if func is Tensor.norm and kwargs.get("keepdim") and "dim" in kwargs:
            shape = [1 if n in kwargs["dim"] else size for n, size in enumerate(args[0].shape)]
            return torch.empty(shape, device="meta")
        return func(*args, **kwargs)


@lru_cache(maxsize=8)
def _shapes_of(config: NetworkConfig) -> Mapping[str, tuple[int, ...]]:
    """Build a network once to learn its shapes."""
    weights = build(config, source="the network").state_dict()
    return MappingProxyType({name: tuple(weight.shape) for name, weight in weights.items()})


def _check_sizes(config: NetworkConfig, *, source: object) -> None:
    """Refuse sizes beyond reason."""
    for name, (size, largest) in _sizes(config).items():
        if not 1 <= size <= largest:
            raise ConfigError(
                f"{source}: {name} is out of range: expected 1 to {largest}, found {size}."
            )


def _sizes(config: NetworkConfig) -> dict[str, tuple[int, int]]:
    """Every size of a configuration, with the largest that is built."""
    encoder = config.encoder
    sizes = {
        "layers": (encoder.layers, 1_000),
        "convolutions": (len(encoder.conv_layers), 100),
        "dim": (encoder.dim, 100_000),
        "ffn_dim": (encoder.ffn_dim, 1_000_000),
        "positional_kernel": (encoder.positional_kernel, 100_000),
        "convolution channels": (max(layer.channels for layer in encoder.conv_layers), 100_000),
        "convolution kernel": (max(layer.kernel for layer in encoder.conv_layers), 100_000),
        "convolution stride": (max(layer.stride for layer in encoder.conv_layers), 100_000),
    }
    if encoder.adapter_dim:
        sizes["adapter_dim"] = (encoder.adapter_dim, 100_000)
    match config:
        case CtcConfig():
            sizes["vocab"] = (config.vocab, 1_000_000)
        case MaskedUnitConfig():
            sizes["units"] = (config.units, 1_000_000)
        case PretrainingConfig():
            sizes["quantizer groups"] = (config.quantizer.groups, 1_000)
            sizes["quantizer entries"] = (config.quantizer.entries, 1_000_000)
            sizes["quantizer dim"] = (config.quantizer.dim, 100_000)
            sizes["projection_dim"] = (config.projection_dim, 100_000)
        case EncoderOnlyConfig():
            pass
        case SequenceClassifierConfig():
            sizes["classes"] = (config.classes, 1_000_000)
            sizes["projection_dim"] = (config.projection_dim, 100_000)
        case FrameClassifierConfig():
            sizes["classes"] = (config.classes, 1_000_000)
        case SpeakerConfig():
            sizes["classes"] = (config.classes, 1_000_000)
            sizes["embedding_dim"] = (config.embedding_dim, 100_000)
            sizes["time-delay layers"] = (len(config.layers), 100)
            for number, layer in enumerate(config.layers):
                sizes[f"channels of layers[{number}]"] = (layer.channels, 100_000)
                sizes[f"kernel of layers[{number}]"] = (layer.kernel, 100_000)
                sizes[f"dilation of layers[{number}]"] = (layer.dilation, 100_000)
    return sizes
