"""Networks stored as bare names and numbers, whose settings must be told from their shapes.

What torchaudio and fairseq2 store says nothing of a network's settings. Most of them are in the
shapes of the tensors: all sizes, the kind of norm, the kernel and the groups of the positional
convolution. What is not is taken from tables of published networks, where it is a fact, and
otherwise asked for (`unheard.interop.sidecar`), never guessed:

- the number of attention heads, which follows from the width in every published network;
- the strides of the convolutions, which follow from their kernels in every published network.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unheard.audio.signal import InputSpec
from unheard.errors import CheckpointError, ConfigError, FormatError
from unheard.interop.pickle_store import open_pickle
from unheard.interop.safetensors_store import SafetensorsStore
from unheard.interop.sidecar import Sidecar
from unheard.interop.stored import Place, StoredTensor, TensorStore
from unheard.models.config import ConvLayer, EncoderConfig

HEADS: Mapping[int, int] = {768: 12, 1024: 16, 1280: 16, 1920: 16, 2048: 16}
"""Width -> heads, in every network that Meta has published. Base; Large, XLS-R 300M; XLS-R 1B and
omniASR 1B (heads of 80); XLS-R 2B (of 120); omniASR 3B and 7B (of 128).
Source: torchaudio pipelines/_wav2vec2/impl.py 2.11; omnilingual_asr models/wav2vec2_ssl/config.py
@ 81f51e2."""

STRIDES: Mapping[tuple[int, ...], tuple[int, ...]] = {
    (10, 3, 3, 3, 3, 2, 2): (5, 2, 2, 2, 2, 2, 2),
}
"""Kernels of the convolutions -> their strides, in every published network."""

NORMALIZE_EPSILON = 1e-5
"""Both peers normalise a recording with torch's `layer_norm`, whose default this is."""

_NUMBER = re.compile(r"(?<=\.)(0|[1-9][0-9]{0,5})(?=\.)")
"""The number of a module in a dotted name."""


@dataclass(frozen=True, kw_only=True)
class StateDict:
    """Named tensors of one network, wherever they are stored.

    Attributes:
        path: the file or folder.
        store: the tensors.
        prefix: what comes before each of the network's own names in the store.
        ours: name in our network -> the network's own name, for all that the keymap knows.
        keymap: name here -> name there, "{}" standing for a number.
    """

    path: Path
    store: TensorStore
    prefix: str
    ours: Mapping[str, str]
    keymap: Mapping[str, str]

    def tensor(self, name: str) -> StoredTensor:
        """Find the tensor of a weight of ours.

        Raises:
            CheckpointError: if it is not there.
        """
        if name not in self.ours:
            theirs = self.stored_name(name)
            raise CheckpointError(
                f"{self.path} is not a whole network: expected a tensor {theirs}, found none "
                f"among {len(self.store.tensors)}. The file is incomplete.",
                missing=[theirs],
            )
        return self.store.tensors[self.stored_name(name)]

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Return the shape of a weight of ours, which must have so many dimensions.

        Raises:
            CheckpointError: if it is not there or has others.
        """
        found = self.tensor(name).shape
        if len(found) != dimensions or 0 in found:
            raise CheckpointError(
                f"{self.path} does not hold the network that its names say.",
                mismatched=[
                    f"{self.stored_name(name)}: expected {dimensions} dimensions, found {found}"
                ],
            )
        return found

    def count(self, module: str) -> int:
        """Count the numbered modules "module.0", "module.1" ...; gaps count as missing ones."""
        start = f"{module}."
        numbers = {
            int(name[len(start) :].partition(".")[0])
            for name in self.ours
            if name.startswith(start)
        }
        whole = next(number for number in range(len(numbers) + 1) if number not in numbers)
        largest = max(numbers, default=-1) + 1
        # A number far beyond the others is no layer of theirs.
        return largest if largest <= len(self.ours) else whole

    def stored_name(self, name: str) -> str:
        """Return the name in the store of a weight of ours, whether it is there or not."""
        if name in self.ours:
            return self.prefix + self.ours[name]
        number = _NUMBER.search(name)
        template = _NUMBER.sub("{}", name)
        theirs = self.keymap[template].replace("{}", number.group() if number else "")
        return self.prefix + theirs

    def places(self, names: Iterable[str]) -> dict[str, Place]:
        """Say where weights of ours are, or would be."""
        return {name: Place(name=self.stored_name(name)) for name in names}


def open_store(path: Path) -> TensorStore:
    """Open a file of tensors, or a folder of safetensors files: told by content, not by name.

    Of a torch file that keeps its state dict under "model" only that part counts: what else is
    there (an optimizer, say) is no part of the network.

    Raises:
        ConfigError: if there is no such file.
        FormatError: if it is neither.
        CheckpointError: if it is damaged.
    """
    if not path.exists():
        raise ConfigError(f"There is no file {path}. Check the path.")
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise FormatError(f"{path} holds no state dict: expected *.safetensors, found none.")
        return SafetensorsStore(files)
    if is_safetensors(path):
        return SafetensorsStore([path])
    pickled = open_pickle(path)
    if isinstance(pickled.objects, dict) and isinstance(pickled.objects.get("model"), dict):
        return pickled.tensors_at("model")
    return pickled.store


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: a length, then an object."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def find_prefix(names: Iterable[str], *, start: str, prefixes: Iterable[str]) -> str | None:
    """Find what comes before the names of a network; None if it is not such a network.

    Args:
        names: all that are stored.
        start: how some of the network's own names begin.
        prefixes: those that are known.
    """
    known = list(names)
    for prefix in prefixes:
        if any(name.startswith(prefix + start) for name in known):
            return prefix
    return None


def read_state_dict(
    path: Path, store: TensorStore, *, prefix: str, keymaps: Iterable[Mapping[str, str]]
) -> StateDict:
    """Translate the names of a store.

    Args:
        path: the file or folder.
        store: its tensors.
        prefix: as `find_prefix` found it.
        keymaps: name here -> name there; where two have one name of ours, the spelling that the
            file has is used, or else the first.
    """
    tables = list(keymaps)
    backwards = {theirs: ours for table in tables for ours, theirs in table.items()}
    found: dict[str, str] = {}
    for stored in store.tensors:
        if not stored.startswith(prefix):
            continue
        theirs = stored[len(prefix) :]
        number = _NUMBER.search(theirs)
        template = _NUMBER.sub("{}", theirs)
        if template in backwards:
            ours = backwards[template].replace("{}", number.group() if number else "")
            found.setdefault(ours, theirs)
    keymap = {ours: theirs for table in reversed(tables) for ours, theirs in table.items()}
    return StateDict(path=path, store=store, prefix=prefix, ours=found, keymap=keymap)


def read_encoder(
    state: StateDict, sidecar: Sidecar, *, norm_first: bool | None
) -> tuple[EncoderConfig, dict[str, Any]]:
    """Tell the settings of an encoder from its tensors.

    Args:
        state: names and shapes.
        sidecar: what has been said beside the file; it wins.
        norm_first: whether layers have their norms first, where the names tell; None where they
            do not: then they do if and only if every convolution has a layer norm, as in every
            published network.

    Returns:
        The settings, and those among them that no tensor shows, with their values.

    Raises:
        CheckpointError: if tensors are missing or of impossible shapes.
        ConfigError: if a setting cannot be told and is not in the sidecar, or the sidecar
            contradicts the tensors.
    """
    inferred: dict[str, Any] = {}
    convolutions = [
        state.shape(f"encoder.feature_encoder.blocks.{number}.weight", 3)
        for number in range(max(1, state.count("encoder.feature_encoder.blocks")))
    ]
    strides = sidecar.conv_strides
    if strides is None:
        strides = _known_strides(state, tuple(shape[2] for shape in convolutions))
        inferred["conv_strides"] = list(strides)
    elif len(strides) != len(convolutions):
        raise ConfigError(
            f"conv_strides for {state.path} names {len(strides)} convolutions, the file has "
            f"{len(convolutions)}."
        )
    conv_norm = "layer"
    if "encoder.feature_encoder.blocks.1.norm.weight" not in state.ours:
        conv_norm = "group"
    dim = state.shape("encoder.projection.weight", 2)[0]
    heads = sidecar.heads
    if heads is None:
        heads = _known_heads(state, dim)
        inferred["heads"] = heads
    if norm_first is None:
        norm_first = sidecar.norm_first
        if norm_first is None:
            norm_first = conv_norm == "layer"
            inferred["norm_first"] = norm_first
    elif sidecar.norm_first not in (None, norm_first):
        raise ConfigError(
            f"norm_first beside {state.path} is {sidecar.norm_first}, but its tensors are those of "
            f"a network with norm_first {norm_first}. Remove the setting."
        )
    _, group_channels, kernel = state.shape("encoder.transformer.positional.weight_v", 3)
    layers = max(1, state.count("encoder.transformer.layers"))
    try:
        config = EncoderConfig(
            conv_layers=tuple(
                ConvLayer(channels=shape[0], kernel=shape[2], stride=stride)
                for shape, stride in zip(convolutions, strides, strict=True)
            ),
            conv_norm=conv_norm,
            conv_bias="encoder.feature_encoder.blocks.0.bias" in state.ours,
            dim=dim,
            ffn_dim=state.shape("encoder.transformer.layers.0.inner.weight", 2)[0],
            layers=layers,
            heads=heads,
            norm_first=norm_first,
            positional_kernel=kernel,
            positional_groups=max(1, dim // group_channels),
        )
    except ConfigError as error:
        raise ConfigError(f"{state.path}: {error}") from error
    return config, inferred


def read_input_spec(sidecar: Sidecar, config: EncoderConfig, inferred: dict[str, Any]) -> InputSpec:
    """Tell what a network expects to hear; what was not told is added to `inferred`.

    Networks with a layer norm in every convolution were trained on normalised recordings, those
    with a group norm on recordings as they are: so it is in every published network.
    """
    normalize = sidecar.normalize
    if normalize is None:
        normalize = config.conv_norm == "layer"
        inferred["normalize"] = normalize
    return InputSpec(normalize=normalize, normalize_epsilon=NORMALIZE_EPSILON)


def encoder_names(config: EncoderConfig) -> list[str]:
    """List the weights of an encoder of ours, but the mask embedding."""
    names: list[str] = []
    for number in range(len(config.conv_layers)):
        block = f"encoder.feature_encoder.blocks.{number}"
        names.append(f"{block}.weight")
        if config.conv_bias:
            names.append(f"{block}.bias")
        if config.conv_norm == "layer" or number == 0:
            names += [f"{block}.norm.weight", f"{block}.norm.bias"]
    modules = ["encoder.feature_norm", "encoder.projection", "encoder.transformer.norm"]
    for number in range(config.layers):
        layer = f"encoder.transformer.layers.{number}"
        modules += [f"{layer}.{module}" for module in _LAYER_MODULES]
    names += [f"{module}.{kind}" for module in modules for kind in ("weight", "bias")]
    positional = "encoder.transformer.positional"
    return [*names, f"{positional}.weight_g", f"{positional}.weight_v", f"{positional}.bias"]


_LAYER_MODULES = (
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.output",
    "attention_norm",
    "inner",
    "outer",
    "ffn_norm",
)


def _known_heads(state: StateDict, dim: int) -> int:
    """Look the heads of a width up."""
    if dim not in HEADS:
        advice = _advice(state, '"heads": 8')
        raise ConfigError(
            f"The number of attention heads of {state.path} is not known: no tensor shows it, and "
            f"no published network has the width {dim} (those that have: "
            f"{', '.join(map(str, HEADS))}). {advice}"
        )
    return HEADS[dim]


def _known_strides(state: StateDict, kernels: tuple[int, ...]) -> tuple[int, ...]:
    """Look the strides of convolutions up."""
    if kernels not in STRIDES:
        advice = _advice(state, '"conv_strides": [5, 2, 2]')
        raise ConfigError(
            f"The strides of the convolutions of {state.path} are not known: no tensor shows them, "
            f"and no published network has the kernels {kernels}. {advice}"
        )
    return STRIDES[kernels]


def _advice(state: StateDict, example: str) -> str:
    """Say where a setting is looked for."""
    return (
        f"Write what they are into {state.path.name}.json beside the file, for example "
        f"{{{example}}}."
    )
