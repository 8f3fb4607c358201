"""Whether weights are numbers."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from unheard.errors import CheckpointError

_EXPONENTS: Mapping[torch.dtype, int] = MappingProxyType(
    {
        torch.float16: 0x7C00,
        torch.bfloat16: 0x7F80,
        torch.float32: 0x7F80_0000,
        torch.float64: 0x7FF0_0000_0000_0000,
    }
)
"""Bits of the exponent in each type of numbers: IEEE 754, table 3.5; bfloat16 is the upper half of
binary32."""

_SCAN_BYTES = 1 << 18


def check_finite(tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Refuse weights that are not numbers.

    Raises:
        CheckpointError: naming the tensors.
    """
    broken = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    refuse_broken(broken, len(tensors), source=source)


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are, at the speed of memory and in a megabyte of it.

    NaN and infinity have all bits of the exponent set. The bits are looked at rather than the
    numbers because `isfinite` takes thirty times as long for half precision, and by one thread
    because handing out small pieces to several costs more than it saves on a busy machine.
    """
    tensor = tensor.detach()
    if tensor.device.type != "cpu" or tensor.dtype not in _EXPONENTS:
        return bool(torch.isfinite(tensor).all())
    exponent = np.array(_EXPONENTS[tensor.dtype], dtype=f"u{tensor.itemsize}")
    bits = tensor.contiguous().view(-1).view(torch.uint8).numpy().view(exponent.dtype)
    count = _SCAN_BYTES // tensor.itemsize
    spare = np.empty(min(count, len(bits)), exponent.dtype)
    for begin in range(0, len(bits), count):
        piece = bits[begin : begin + count]
        if np.bitwise_and(piece, exponent, out=spare[: len(piece)]).max() == exponent:
            return False
    return True


def refuse_broken(broken: Sequence[str], number: int, *, source: object) -> None:
    """Refuse tensors that hold what is no number.

    Args:
        broken: their names.
        number: of all that were looked at.
        source: what to call the model in messages.

    Raises:
        CheckpointError: if there are any.
    """
    if broken:
        raise CheckpointError(
            f"Weights of {source} are not finite: expected numbers, found NaN or infinity in "
            f"{len(broken)} of {number} tensors, first {broken[0]}. The model diverged in "
            "training or its file is damaged; use an earlier checkpoint."
        )
