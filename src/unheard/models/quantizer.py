"""The product quantiser Z -> Q with Gumbel softmax.

Source: Baevski et al. 2020, sec. 2 "Quantization module", eq. 1; fairseq
modules/gumbel_vector_quantizer.py @ 3d262bb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.models.config import QuantizerConfig


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """Quantised frames.

    Attributes:
        vectors: (frames, dim), one entry of each group side by side.
        codes: (frames, groups) int64, the chosen entry of each group.
        logits: (frames, groups, entries) float32.
    """

    vectors: Tensor
    codes: Tensor
    logits: Tensor

    def code_perplexity(self) -> Tensor:
        """Exponential of the entropy of the best-scoring codes, summed over groups.

        Without the noise of training, as fairseq counts: `codes` themselves are noisy there.
        """
        entries = self.logits.shape[-1]
        used = nn.functional.one_hot(self.logits.argmax(dim=-1), entries).to(self.logits.dtype)
        return _perplexity(used.mean(dim=0))

    def soft_perplexity(self) -> Tensor:
        """The same from the mean softmax over frames, without noise; this one has a gradient."""
        return _perplexity(torch.softmax(self.logits, dim=-1).mean(dim=0))


class Quantizer(nn.Module):
    """Choose one of `entries` learned vectors in each of `groups` groups for every frame."""

    def __init__(self, in_dim: int, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.scores = nn.Linear(in_dim, config.groups * config.entries)
        self.codebook = nn.Parameter(
            torch.rand(config.groups, config.entries, config.dim // config.groups)
        )
        nn.init.normal_(self.scores.weight, mean=0.0, std=1.0)
        nn.init.zeros_(self.scores.bias)

    def temperature(self, progress: float) -> float:
        """Gumbel temperature at a share of the run: exponential decay down to a floor."""
        config = self.config
        share = min(1.0, progress / config.temperature_floor_at)
        ratio = config.temperature_end / config.temperature_start
        return config.temperature_start * ratio**share

    def forward(
        self,
        features: Tensor,
        *,
        temperature: float = 1.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Quantized:
        """Quantise (frames, in_dim).

        In training a code is drawn by the Gumbel-max trick and the gradient is that of the
        softmax at `temperature` (straight through); in evaluation it is the best-scoring code.
        All of it runs in float32 or wider.

        Args:
            features: (frames, in_dim).
            temperature: of the softmax whose gradient is used.
            generator: draws the Gumbel noise, on the device of `features`.
            noise: (frames, groups, entries) Gumbel noise to use instead of drawing it.
        """
        config = self.config
        wide = torch.promote_types(features.dtype, torch.float32)
        with torch.autocast(features.device.type, enabled=False):
            logits = self.scores(features.to(wide))
            logits = logits.view(-1, config.groups, config.entries)
            if self.training:
                if noise is None:
                    noise = _gumbel_noise(logits, generator)
                noisy = (logits + noise) / temperature
                codes = noisy.argmax(dim=-1)
                soft = torch.softmax(noisy, dim=-1)
                hard = nn.functional.one_hot(codes, config.entries).to(wide)
                choice = hard - soft.detach() + soft
                # (frames, groups, entries) x (groups, entries, size) -> (frames, groups, size)
                vectors = torch.einsum("fge,ged->fgd", choice, self.codebook.to(wide))
            else:
                codes = logits.argmax(dim=-1)
                groups = torch.arange(config.groups, device=codes.device)
                vectors = self.codebook.to(wide)[groups, codes]
        return Quantized(vectors=vectors.flatten(1), codes=codes, logits=logits)


def _gumbel_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard Gumbel noise: -log(-log u), five times faster than from an exponential."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    smallest = torch.finfo(like.dtype).tiny  # u may be zero, whose logarithm is not finite
    return uniform.clamp_min_(smallest).log_().neg_().log_().neg_()


def _perplexity(mean_probabilities: Tensor) -> Tensor:
    """Sum over groups of exp(entropy) of (groups, entries); 1e-7 inside the log as fairseq."""
    entropy = -(mean_probabilities * (mean_probabilities + 1e-7).log()).sum(dim=-1)
    return entropy.exp().sum()
