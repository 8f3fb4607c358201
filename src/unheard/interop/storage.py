"""What all model folders have in common: guarded readers and an atomic writer.

A stored model is untrusted input. Nothing here runs code from a file, every size is checked
before memory is taken for it, and a file that is cut, altered or not what it says is refused.
"""

import contextlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unheard.errors import CheckpointError, ConfigError, FormatError
from unheard.interop.bundle import Network, NetworkConfig
from unheard.models.config import CtcConfig, MaskedUnitConfig
from unheard.models.ctc import CtcModel
from unheard.models.masked_prediction import MaskedUnitModel
from unheard.models.pretraining import PretrainingModel

CONFIG_FILE = "config.json"
"""The file that says what a model folder holds, in our folders and those of transformers."""

MAX_JSON_BYTES = 16 << 20
"""Largest settings or vocabulary file that is read [bytes]."""

FLOAT_TYPES = ("F16", "BF16", "F32", "F64")
"""Types of numbers that weights may have, as safetensors spells them."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor is and what its file says of it."""

    file: Path
    shape: tuple[int, ...]
    kind: str
    """Type of its numbers, as safetensors spells it."""


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file that nobody vouches for.

    Raises:
        FormatError: if the file is too large, not JSON, nested too deeply, not an object, or
            names a key twice.
        OSError: if it cannot be read at all.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise FormatError(
            f"{path} is too large: expected at most {MAX_JSON_BYTES} bytes of settings, found "
            f"{size}. This is not a file of a model folder."
        )
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_unique_keys)
    except RecursionError:
        raise FormatError(f"{path} is nested too deeply to be settings.") from None
    except ValueError as error:
        raise FormatError(
            f"{path} is not a JSON file: {error}. Restore it from a copy of the model."
        ) from error
    if not isinstance(data, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(data).__name__}.")
    return data


def list_tensors(files: Sequence[Path]) -> dict[str, StoredTensor]:
    """Read the headers of safetensors files; takes no memory for tensors.

    Raises:
        CheckpointError: if a file is not a sound safetensors file, or two hold one name.
    """
    stored: dict[str, StoredTensor] = {}
    for file in files:
        _check_header(file)
        with _opened(file) as source:
            for name in source.keys():  # noqa: SIM118 - not a dict
                if name in stored:
                    raise CheckpointError(
                        f"The tensor {name} is stored twice: in {stored[name].file} and {file}."
                    )
                part = source.get_slice(name)
                stored[name] = StoredTensor(
                    file=file, shape=tuple(part.get_shape() or ()), kind=str(part.get_dtype())
                )
    return stored


def build(config: NetworkConfig, *, source: object) -> Network:
    """Make the network of a configuration without memory for its weights (see `fill`).

    Raises:
        ConfigError: if a size is beyond what any model has, before time or memory goes into it.
    """
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
    if isinstance(config, CtcConfig):
        sizes["vocab"] = (config.vocab, 1_000_000)
    elif isinstance(config, MaskedUnitConfig):
        sizes["units"] = (config.units, 1_000_000)
    else:
        sizes["quantizer groups"] = (config.quantizer.groups, 1_000)
        sizes["quantizer entries"] = (config.quantizer.entries, 1_000_000)
        sizes["quantizer dim"] = (config.quantizer.dim, 100_000)
        sizes["projection_dim"] = (config.projection_dim, 100_000)
    for name, (size, largest) in sizes.items():
        if not 1 <= size <= largest:
            raise ConfigError(
                f"{source}: {name} is out of range: expected 1 to {largest}, found {size}."
            )
    with torch.device("meta"), _NoDraws():
        if isinstance(config, CtcConfig):
            return CtcModel(config)
        if isinstance(config, MaskedUnitConfig):
            return MaskedUnitModel(config)
        return PretrainingModel(config)


def fill(
    model: nn.Module,
    stored: Mapping[str, StoredTensor],
    names: Mapping[str, str],
    *,
    source: object,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    stored_shapes: Mapping[str, tuple[int, ...]] | None = None,
    drawn: Mapping[str, Tensor] | None = None,
) -> None:
    """Give a network made by `build` its weights, strictly: every name, every shape.

    All names, shapes and types are compared before the first tensor is read. Weights are copied,
    so that a file that changes later changes nothing here.

    Args:
        model: on the meta device.
        stored: what the files hold.
        names: name in the model -> name in the files, for all that shall come from files.
        source: what to call the files in messages.
        device: where the weights go.
        dtype: type of the weights; None keeps float64 and makes everything else float32.
        stored_shapes: shapes in the files of tensors that the model shapes otherwise.
        drawn: weights that do not come from the files, by name in the model.

    Raises:
        CheckpointError: on a missing, unexpected or mis-shaped name, numbers that are not
            floating point, or weights that are not finite.
    """
    drawn = drawn or {}
    stored_shapes = stored_shapes or {}
    parameters = model.state_dict()
    wanted = {
        name: stored_shapes[name] if name in stored_shapes else tuple(parameter.shape)
        for name, parameter in parameters.items()
        if name not in drawn
    }
    _compare(wanted, stored, names, source=source)
    state: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        files = {
            file: stack.enter_context(_opened(file))
            for file in {stored[names[name]].file for name in wanted}
        }
        for name in wanted:
            place = stored[names[name]]
            try:
                tensor = files[place.file].get_tensor(names[name])
            except SafetensorError as error:
                raise CheckpointError(f"{place.file} cannot be read: {error}.") from error
            state[name] = _placed(tensor, device, dtype).reshape(parameters[name].shape)
    for name, tensor in drawn.items():
        state[name] = _placed(tensor, device, dtype)
    check_finite(state, source=source)
    # A widest-first choice of one type for all: a file may mix them.
    if dtype is None and len({tensor.dtype for tensor in state.values()}) > 1:
        state = {name: tensor.to(torch.float64) for name, tensor in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    model.eval()


def check_finite(tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Refuse weights that are not numbers.

    Raises:
        CheckpointError: naming the tensors.
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(
            f"Weights of {source} are not finite: expected numbers, found NaN or infinity in "
            f"{len(broken)} of {len(tensors)} tensors, first {broken[0]}. The model diverged in "
            "training or its file is damaged; use an earlier checkpoint."
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, each with memory of its own, and wait for the disk."""
    owned = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # "pt" is what transformers demands of files that it reads.
    safetensors.torch.save_file(owned, path, metadata={"format": "pt"})
    sync(path)


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_folder(folder: Path, *, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Give a temporary sibling folder that becomes `folder` when the block succeeds.

    A reader sees the old folder or the whole new one. A folder that is there is replaced only if
    it is empty or `is_ours` says it is a model folder of the same kind.

    Args:
        folder: where the finished folder shall be.
        is_ours: whether an existing folder may be replaced.

    Raises:
        FormatError: if `folder` is something else; nothing is written then.
    """
    if folder.exists() and not (folder.is_dir() and (not any(folder.iterdir()) or is_ours(folder))):
        raise FormatError(
            f"{folder} is not a model folder: expected a new or empty folder, or a model to "
            "replace, found other files. Choose another folder."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
    retired = folder.with_name(f"{folder.name}.old-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if folder.exists():
            folder.rename(retired)
        try:
            temporary.rename(folder)
        except OSError:
            if retired.exists():
                retired.rename(folder)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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


class _NoDraws(TorchFunctionMode):
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


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object, refusing a key that comes twice."""
    result = dict(pairs)
    if len(result) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice!r} comes twice")
    return result


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a safetensors file for reading."""
    try:
        source = safe_open(file, framework="pt", device="cpu")
    except SafetensorError as error:
        raise CheckpointError(
            f"{file} is not a sound safetensors file: {error}. Fetch or copy it again."
        ) from error
    with source:
        yield source


def _check_header(file: Path) -> None:
    """Refuse a header with repeated names, which the library reads as if the last one counted."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(100_000_000, file.stat().st_size):
            raise CheckpointError(
                f"{file} is not a sound safetensors file: its header claims {length} bytes, the "
                f"file has {file.stat().st_size}. Fetch or copy it again."
            )
        header = stream.read(length)
    try:
        json.loads(header, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} is not a sound safetensors file: its header is not JSON ({error}). Fetch or "
            "copy it again."
        ) from None


def _compare(
    wanted: Mapping[str, tuple[int, ...]],
    stored: Mapping[str, StoredTensor],
    names: Mapping[str, str],
    *,
    source: object,
) -> None:
    """Compare names, shapes and types; raise with the whole lists."""
    missing = [names.get(name, name) for name in wanted if names.get(name) not in stored]
    used = {names[name] for name in wanted if name in names}
    unexpected = [name for name in stored if name not in used]
    mismatched = [
        f"{names[name]}: expected {shape}, found {stored[names[name]].shape}"
        for name, shape in wanted.items()
        if names.get(name) in stored and stored[names[name]].shape != shape
    ]
    if missing or unexpected or mismatched:
        raise CheckpointError(
            f"The weights of {source} do not fit their configuration: expected {len(wanted)} "
            f"tensors, found {len(stored)}. The files belong to different models or are "
            "incomplete.",
            missing=missing,
            unexpected=unexpected,
            mismatched=mismatched,
        )
    odd = [
        f"{names[name]}: {stored[names[name]].kind}"
        for name in wanted
        if stored[names[name]].kind not in FLOAT_TYPES
    ]
    if odd:
        raise CheckpointError(
            f"The weights of {source} are not floating-point numbers: expected "
            f"{', '.join(FLOAT_TYPES)}, found {odd[0]} and {len(odd) - 1} more. Quantised models "
            "are not read; use the original."
        )
    numbers = sum(math.prod(shape) for shape in wanted.values())
    if numbers == 0:
        raise CheckpointError(f"The weights of {source} are empty.")


def _placed(tensor: Tensor, device: torch.device | str, dtype: torch.dtype | None) -> Tensor:
    """Copy a tensor to where and as what it is wanted."""
    kind = dtype or (torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    return tensor.to(device=device, dtype=kind, copy=True).contiguous()
