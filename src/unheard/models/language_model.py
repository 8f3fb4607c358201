"""A causal Transformer over word pieces or characters: what comes next, given what came before.

Layers with their norms first, rotary positions, one matrix for input and output.

Source: Radford et al. 2019 (GPT-2), sec. 2.3, for the layers and how they start; Su et al. 2021
(RoFormer), sec. 3.2, for the positions, with the halves laid out as transformers'
`GPTNeoXForCausalLM` has them; Press and Wolf 2017 for the shared matrix.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unheard.errors import ConfigError
from unheard.models.dropout import dropout
from unheard.models.transformer import BERT_SPREAD, attend, init_linear


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """Shape of a language model.

    Attributes:
        vocab: pieces, the beginning and the end of a text among them.
        context: the longest stretch of pieces that it learns from or looks back on.
        rotary_base: wavelengths of the positions grow from 2 pi to nearly 2 pi times this.
    """

    vocab: int
    context: int = 256
    dim: int = 256
    ffn_dim: int = 1024
    layers: int = 4
    heads: int = 4
    dropout: float = 0.3
    """On the embeddings, on what every sub-layer adds, and inside the feed-forward."""
    attention_dropout: float = 0.1
    norm_epsilon: float = 1e-5
    rotary_base: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuse shapes that no network can have."""
        sizes = (self.vocab, self.context, self.dim, self.ffn_dim, self.layers, self.heads)
        if min(sizes) < 1:
            raise ConfigError(
                f"vocab, context, dim, ffn_dim, layers and heads must be at least 1, got {sizes}."
            )
        if self.dim % (2 * self.heads):
            raise ConfigError(
                "dim must be an even multiple of heads, for rotary positions: got dim "
                f"{self.dim} and heads {self.heads}."
            )
        if not (0 <= self.dropout < 1 and 0 <= self.attention_dropout < 1):
            raise ConfigError(
                "dropout and attention_dropout are shares: expected from 0 to below 1, got "
                f"{self.dropout} and {self.attention_dropout}."
            )
        if not (self.rotary_base > 1 and self.norm_epsilon > 0):
            raise ConfigError(
                "rotary_base must be above 1 and norm_epsilon above 0, got "
                f"{self.rotary_base} and {self.norm_epsilon}."
            )


class LanguageModel(nn.Module):
    """Embedding, causal layers, a last norm, and scores by the embedding again."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab, config.dim)
        nn.init.normal_(self.embedding.weight, mean=0.0, std=BERT_SPREAD)
        self.layers = nn.ModuleList(CausalLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)

    def forward(self, tokens: Tensor) -> Tensor:
        """Score what follows each token.

        What follows is never looked at, so padding at the end of a row changes nothing before it.

        Args:
            tokens: (batch, length) int64.

        Returns:
            (batch, length, vocab) logits, not normalised, in the type of the matrix products.
        """
        config = self.config
        hidden = dropout(self.embedding(tokens), config.dropout, self.training)
        rotation = rotary_positions(
            tokens.shape[1],
            config.dim // config.heads,
            base=config.rotary_base,
            like=self.embedding.weight,
        )
        for layer in self.layers:
            hidden = layer(hidden, rotation)
        return F.linear(self.norm(hidden), self.embedding.weight)

    def step(self, tokens: Tensor, positions: Tensor, past: "Past", unseen: Tensor) -> "Step":
        """Read one further token of each of several texts whose beginnings were read before.

        Gives what `forward` gives at the place of the token, up to rounding; for evaluation.

        Args:
            tokens: (batch,) int64.
            positions: (batch,) int64, their places in their texts, from 0.
            past: keys and values of a layer for the tokens before, (batch, places, dim) each, in
                any order, as earlier steps gave them.
            unseen: (batch, places) bool, True where there is no token: texts may differ in length.
        """
        config = self.config
        hidden = self.embedding(tokens)
        turns = rotary_positions(
            int(positions.max()) + 1,
            config.dim // config.heads,
            base=config.rotary_base,
            like=self.embedding.weight,
        )
        rotation = turns[:, positions, None, None]  # beside (batch, heads, 1, head_dim)
        unseen = F.pad(unseen, (0, 1), value=False)[:, None, None, :]  # each place sees itself
        keys: list[Tensor] = []
        values: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            hidden, key, value = cast("CausalLayer", layer).step(
                hidden, rotation, past(number), unseen
            )
            keys.append(key)
            values.append(value)
        return Step(hidden=self.norm(hidden), keys=torch.stack(keys), values=torch.stack(values))


Past = Callable[[int], tuple[Tensor, Tensor]]
"""Keys and values of what was read before, by the number of the layer."""


class Step(NamedTuple):
    """What one token of each text gives.

    Attributes:
        hidden: (batch, dim), whose product with the embedding scores what follows.
        keys: (layers, batch, dim), turned by their places.
        values: (layers, batch, dim).
    """

    hidden: Tensor
    keys: Tensor
    values: Tensor


class CausalLayer(nn.Module):
    """Self-attention to what came before, and feed-forward, each with its norm first."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.attention = CausalAttention(config)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.inner = nn.Linear(config.dim, config.ffn_dim)
        self.outer = nn.Linear(config.ffn_dim, config.dim)
        for linear in (self.inner, self.outer):
            init_linear(linear)
        # The more layers add to the residual stream, the less each does at first.
        with torch.no_grad():
            for linear in (self.attention.output, self.outer):
                linear.weight.mul_((2 * config.layers) ** -0.5)

    def forward(self, hidden: Tensor, rotation: Tensor) -> Tensor:
        """Apply to (batch, length, dim); `rotation` as `rotary_positions` gives it."""
        attended = self.attention(self.attention_norm(hidden), rotation)
        hidden = hidden + dropout(attended, self.dropout, self.training)
        return self._feed_forward(hidden)

    def step(
        self, hidden: Tensor, rotation: Tensor, past: tuple[Tensor, Tensor], unseen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Apply to one place of each text, (batch, dim); returns its key and value too."""
        attended, key, value = self.attention.step(
            self.attention_norm(hidden), rotation, past, unseen
        )
        return self._feed_forward(hidden + attended), key, value

    def _feed_forward(self, hidden: Tensor) -> Tensor:
        """Add the second sub-layer."""
        inner = dropout(F.gelu(self.inner(self.ffn_norm(hidden))), self.dropout, self.training)
        return hidden + dropout(self.outer(inner), self.dropout, self.training)


class CausalAttention(nn.Module):
    """Multi-head self-attention of each place to itself and what came before."""

    def __init__(self, config: LanguageModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.output = nn.Linear(config.dim, config.dim)
        for linear in (self.query, self.key, self.value, self.output):
            init_linear(linear)

    def forward(self, hidden: Tensor, rotation: Tensor) -> Tensor:
        """Apply to (batch, length, dim); `rotation` as `rotary_positions` gives it."""
        batch, length, dim = hidden.shape
        split = (batch, length, self.heads, dim // self.heads)
        # (batch, length, dim) -> (batch, heads, length, head_dim)
        query = rotate(self.query(hidden).view(split).transpose(1, 2), rotation)
        key = rotate(self.key(hidden).view(split).transpose(1, 2), rotation)
        value = self.value(hidden).view(split).transpose(1, 2)
        later = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        mixed = attend(query, key, value, later, dropped=self.dropout if self.training else 0.0)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dim)  # heads side by side again
        return self.output(mixed)

    def step(
        self, hidden: Tensor, rotation: Tensor, past: tuple[Tensor, Tensor], unseen: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let one place of each text attend to itself and what came before.

        Args:
            hidden: (batch, dim).
            rotation: (2, batch, 1, 1, head_dim / 2), by the places.
            past: keys and values, (batch, places, dim).
            unseen: (batch, 1, 1, places + 1) bool.

        Returns:
            (batch, dim) mixed, key and value.
        """
        batch, dim = hidden.shape
        split = (batch, self.heads, 1, dim // self.heads)
        query = rotate(self.query(hidden).view(split), rotation)
        key = rotate(self.key(hidden).view(split), rotation).reshape(batch, dim)
        value = self.value(hidden)
        keys, values = (
            torch.cat((before, own[:, None]), dim=1)
            .view(batch, -1, self.heads, dim // self.heads)
            .transpose(1, 2)
            for before, own in zip(past, (key, value), strict=True)
        )
        mixed = attend(query, keys, values, unseen, dropped=0.0)
        return self.output(mixed.reshape(batch, dim)), key, value


def rotary_positions(length: int, head_dim: int, *, base: float, like: Tensor) -> Tensor:
    """Cosines and sines of the angles by which places are turned.

    Returns:
        (2, length, head_dim / 2) on the device of `like`, in its type.
    """
    # On the CPU: some accelerators have no float64.
    powers = torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim
    angles = torch.arange(length, dtype=torch.float64)[:, None] * base**-powers
    return torch.stack((angles.cos(), angles.sin())).to(like)


def rotate(vectors: Tensor, rotation: Tensor) -> Tensor:
    """Turn (batch, heads, length, head_dim) by its places: pairs are i and i + head_dim / 2."""
    cosine, sine = rotation
    left, right = vectors.chunk(2, dim=-1)
    turned = torch.cat((left * cosine - right * sine, right * cosine + left * sine), dim=-1)
    return turned.to(vectors.dtype)
