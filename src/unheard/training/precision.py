"""Which number format the matrix products of training run in."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from unheard.tensors import cpu_multiplies_bfloat16

Precision = Literal["auto", "float32", "bfloat16"]


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Choose the type for matrix products: bfloat16 where the hardware multiplies it.

    "auto" takes bfloat16 on a CPU with AVX512-BF16 or AMX and on CUDA of compute capability 8
    or higher, float32 elsewhere. Norms, softmax, cosines and losses stay in float32.
    """
    if precision == "float32":
        return torch.float32
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if fast else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    return torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Context in which matrix products run in `dtype`."""
    if dtype == torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)
