"""Comparison of tensors with someone else's, at fixed tolerances."""

import torch
from torch import Tensor

FLOAT64 = 1e-9
"""Largest difference allowed in float64, where a real defect has nowhere to hide."""

FLOAT32 = 1e-5
"""Largest difference allowed in float32."""


def largest_difference(name: str, ours: Tensor, theirs: Tensor) -> float:
    """Return max |ours - theirs| / max(1, max |theirs|); infinite where only one is finite."""
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} and {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    finite = theirs.isfinite()
    if not torch.equal(finite, ours.isfinite()) or not torch.equal(ours[~finite], theirs[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    ours, theirs = ours[finite], theirs[finite]
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1))


def assert_close(name: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Fail, naming the place, when two tensors differ by more than `tolerance`."""
    difference = largest_difference(name, ours, theirs)
    assert difference <= tolerance, f"{name}: differs by {difference:.3g}, allowed {tolerance:.3g}"
