"""Small rules shared by models, training and inference: lengths, masks, generators, formats."""

import hashlib

import torch
from torch import Tensor


def padding_mask(lengths: Tensor, frames: int) -> Tensor:
    """Mark padding.

    Args:
        lengths: (batch,) integers.
        frames: length of the padded axis.

    Returns:
        (batch, frames) bool, True on padding.
    """
    positions = torch.arange(frames, device=lengths.device)
    return positions[None, :] >= lengths[:, None]


def conv_lengths(lengths: Tensor, *, kernel: int, stride: int) -> Tensor:
    """Lengths after an unpadded convolution; never below zero.

    Args:
        lengths: (batch,) integers.
        kernel: taps of the convolution.
        stride: step between outputs.

    Returns:
        (batch,) integers, floor((length - kernel) / stride) + 1.
    """
    return (torch.div(lengths - kernel, stride, rounding_mode="floor") + 1).clamp_min(0)


def derive_seed(seed: int, *keys: int | str) -> int:
    """Derive an independent 63-bit seed from a seed and any keys, stable across machines.

    Example: `derive_seed(seed, "mask", step, rank)`.
    """
    text = "/".join(str(part) for part in (seed, *keys))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derived_generator(
    seed: int, *keys: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Make a generator seeded by `derive_seed(seed, *keys)`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive_seed(seed, *keys))
    return generator


def cpu_multiplies_bfloat16() -> bool:
    """Whether the processor itself multiplies bfloat16 (AVX512-BF16 or AMX), and torch uses it."""
    from torch.cpu import _is_amx_tile_supported, _is_avx512_bf16_supported

    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return bool(_is_avx512_bf16_supported() or _is_amx_tile_supported())
