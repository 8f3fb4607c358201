"""What an objective returns."""

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossTerms:
    """Sums and counts, never means: the loop divides once by the global count.

    Attributes:
        total: () summed loss with a gradient [nats].
        count: () what the sum runs over (masked frames, utterances, ...).
        parts: detached () sums by name, for logging; divided by `count` too.
        means: detached () values by name that are not sums (perplexities, ratios).
    """

    total: Tensor
    count: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
