"""Which number format inference runs in: what was asked for, and what the hardware is fast in."""

from typing import Literal

import torch

from unheard.errors import ConfigError
from unheard.inference.products import has_int8_products
from unheard.tensors import cpu_multiplies_bfloat16

Dtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""Number format of the matrix products; "auto" is the one that the hardware is fast in."""

RunningDtype = Literal["float64", "float32", "bfloat16", "float16", "int8"]
"""What "auto" has become; float64 only for models whose weights are float64."""


def choose_dtype(dtype: Dtype, *, device: torch.device, weights: torch.dtype) -> RunningDtype:
    """Choose the format for a device.

    "auto" is bfloat16 on a CPU that multiplies it (AVX512-BF16 or AMX) and on CUDA of compute
    capability 8.0 or higher, float16 on older CUDA and on MPS, float32 elsewhere. It is never
    int8: that is for who has measured that the error rate allows it.

    Args:
        dtype: what was asked for.
        device: where the model is.
        weights: type of the model's weights.

    Raises:
        ConfigError: if int8 is asked for where there is none.
    """
    if dtype == "int8":
        if device.type != "cpu" or not has_int8_products():
            raise ConfigError(
                "int8 runs on x86 processors with VNNI (2019 and later) and torch's oneDNN: found "
                f"{device.type if device.type != 'cpu' else 'a processor or torch without'}. Use "
                'dtype "auto".'
            )
        return "int8"
    if weights == torch.float64 and dtype in ("auto", "float32"):
        return "float64"
    if dtype != "auto":
        return dtype
    if device.type == "cpu":
        return "bfloat16" if cpu_multiplies_bfloat16() else "float32"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if fast else "float16"
    return "float16" if device.type == "mps" else "float32"


def cpu_values(dtype: RunningDtype) -> torch.dtype:
    """Type of the values between the products on a CPU; with int8, the faster one."""
    if dtype == "int8":
        return torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32
