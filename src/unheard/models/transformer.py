"""The context network g: Z -> C, a Transformer with a convolutional position signal.

Source: Baevski et al. 2020, sec. 2 "Contextualized representations with Transformers"; fairseq
models/wav2vec/wav2vec2.py `TransformerEncoder`, `TransformerSentenceEncoderLayer` @ 3d262bb.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from unheard.models.config import EncoderConfig
from unheard.models.dropout import dropout
from unheard.tensors import padding_mask


class Transformer(nn.Module):
    """Positional convolution, layer norm before or after all layers, and the layers.

    Attributes:
        recompute: whether each layer's inner values are computed again in the backward pass
            instead of kept: memory for a third more time (Chen et al. 2016). Exact, dropout too.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout = config.dropout
        self.layer_drop = config.layer_drop
        self.positional = PositionalConv(
            config.dim, kernel=config.positional_kernel, groups=config.positional_groups
        )
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config.layers))
        self.recompute = False
        self._skipped: list[bool] | None = None

    def forward(
        self,
        frames: Tensor,
        lengths: Tensor | None,
        *,
        generator: torch.Generator | None = None,
        keep_layers: bool = False,
        places: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Put every frame into the context of the whole utterance.

        Args:
            frames: (batch, frames, dim).
            lengths: (batch,) [frames], or None when nothing is padded.
            generator: draws the skipped layers in training when `layer_drop` is above zero.
            keep_layers: also return the input of the first layer and the output of each.
            places: (wanted,) int64, which of the batch * frames frames to return, so that the last
                layer need not think about the others; None for all. Not with `keep_layers`.

        Returns:
            (batch, frames, dim), or (wanted, dim) with `places`; and the kept layers, layers + 1
            tensors, or an empty list.
        """
        is_padding = None
        if lengths is not None:
            is_padding = padding_mask(lengths, frames.shape[1])
            frames = frames.masked_fill(is_padding[:, :, None], 0)
        frames = frames + self.positional(frames)
        if not self.norm_first:
            frames = self.norm(frames)
        frames = dropout(frames, self.dropout, self.training)
        kept = [frames] if keep_layers else []
        skipped = self._draw_skipped(generator)
        recompute = self.recompute and torch.is_grad_enabled()
        last = len(skipped) - 1
        for number, (layer, skip) in enumerate(zip(self.layers, skipped, strict=True)):
            wanted = places if number == last else None
            if not skip and recompute:
                frames = checkpoint(layer, frames, is_padding, wanted, use_reentrant=False)
            elif not skip:
                frames = layer(frames, is_padding, wanted)
            elif wanted is not None:
                frames = pick_frames(frames, wanted)
            if keep_layers:
                kept.append(frames)
        if self.norm_first:
            frames = self.norm(frames)
        return frames, kept

    def draw_skipped_once(self, generator: torch.Generator | None) -> None:
        """Let all passes in training skip the same layers from now on, until called again.

        Args:
            generator: draws them; None lets each pass draw its own again.
        """
        self._skipped = None
        if generator is not None and self.layer_drop > 0:
            draws = torch.rand(len(self.layers), generator=generator, device=generator.device)
            self._skipped = (draws < self.layer_drop).tolist()

    def _draw_skipped(self, generator: torch.Generator | None) -> list[bool]:
        """Draw which layers this pass skips (LayerDrop, Fan et al. 2020); none in evaluation."""
        if not self.training or self.layer_drop == 0:
            return [False] * len(self.layers)
        if self._skipped is not None:
            return self._skipped
        device = generator.device if generator is not None else torch.device("cpu")
        draws = torch.rand(len(self.layers), generator=generator, device=device)
        return (draws < self.layer_drop).tolist()


def pick_frames(frames: Tensor, places: Tensor) -> Tensor:
    """Pick frames of a batch: (batch, frames, dim) and (wanted,) -> (wanted, dim)."""
    return frames.flatten(0, 1).index_select(0, places)


class PositionalConv(nn.Module):
    """A grouped convolution over time whose output is added to the frames as position signal.

    The kernel is weight-normalised over output and input channels, with one gain a tap.
    """

    def __init__(self, dim: int, *, kernel: int, groups: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.groups = groups
        weight = torch.empty(dim, dim // groups, kernel)
        nn.init.normal_(weight, mean=0.0, std=math.sqrt(4.0 / (kernel * dim)))
        self.weight_g = nn.Parameter(weight.norm(dim=(0, 1), keepdim=True))
        self.weight_v = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(dim))

    def kernel_weight(self) -> Tensor:
        """The effective kernel g v / |v|, (dim, dim / groups, kernel)."""
        return self.weight_g * self.weight_v / self.weight_v.norm(dim=(0, 1), keepdim=True)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (batch, frames, dim) to a position signal of the same shape."""
        frames_last = frames.transpose(1, 2)  # -> (batch, dim, frames)
        signal = F.conv1d(
            frames_last,
            self.kernel_weight().to(frames.dtype),
            self.bias.to(frames.dtype),
            padding=self.kernel // 2,
            groups=self.groups,
        )
        if self.kernel % 2 == 0:
            signal = signal[:, :, :-1]  # an even kernel makes one frame too many
        return F.gelu(signal.transpose(1, 2))  # -> (batch, frames, dim)


class TransformerLayer(nn.Module):
    """Self-attention and feed-forward, each with a residual and a layer norm."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.dropout = config.dropout
        self.activation_dropout = config.activation_dropout
        self.attention = SelfAttention(
            config.dim, heads=config.heads, dropout=config.attention_dropout
        )
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.inner = nn.Linear(config.dim, config.ffn_dim)
        self.outer = nn.Linear(config.ffn_dim, config.dim)
        self.ffn_norm = nn.LayerNorm(config.dim, eps=config.norm_epsilon)
        self.adapter = (
            LanguageAdapter(config.dim, width=config.adapter_dim) if config.adapter_dim else None
        )
        for linear in (self.inner, self.outer):
            init_linear(linear)

    def forward(
        self, frames: Tensor, is_padding: Tensor | None, places: Tensor | None = None
    ) -> Tensor:
        """Apply to (batch, frames, dim); `is_padding` (batch, frames) hides keys.

        With `places` (wanted,), frames of batch * frames, only those are finished and returned:
        (wanted, dim).
        """
        if self.norm_first:
            attended = self.attention(self.attention_norm(frames), is_padding, places)
            frames = frames if places is None else pick_frames(frames, places)
            frames = frames + dropout(attended, self.dropout, self.training)
            frames = frames + self._feed_forward(self.ffn_norm(frames))
            return frames if self.adapter is None else frames + self.adapter(frames)
        attended = self.attention(frames, is_padding, places)
        frames = frames if places is None else pick_frames(frames, places)
        frames = self.attention_norm(frames + dropout(attended, self.dropout, self.training))
        return self.ffn_norm(frames + self._feed_forward(frames))

    def _feed_forward(self, frames: Tensor) -> Tensor:
        hidden = F.gelu(self.inner(frames))
        hidden = dropout(hidden, self.activation_dropout, self.training)
        return dropout(self.outer(hidden), self.dropout, self.training)


class LanguageAdapter(nn.Module):
    """A bottleneck of its own for each language, whose output is added to that of its layer.

    Source: Pratap et al. 2023 (MMS), sec. 5.1; fairseq models/wav2vec/wav2vec2.py
    `AdapterFast` @ 3d262bb; transformers 5.23 `Wav2Vec2AttnAdapterLayer`. Both give its norm the
    epsilon 1e-5, whatever the network's is. It starts by adding nothing (Houlsby et al. 2019,
    sec. 2.1), where theirs disturb the network until they are trained.
    """

    def __init__(self, dim: int, *, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-5)
        self.down = nn.Linear(dim, width)
        self.up = nn.Linear(width, dim)
        init_linear(self.down)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Map (batch, frames, dim) to what is added to it."""
        return self.up(F.relu(self.down(self.norm(frames))))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all frames."""

    def __init__(self, dim: int, *, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        for linear in (self.query, self.key, self.value, self.output):
            init_linear(linear)

    def forward(
        self, frames: Tensor, is_padding: Tensor | None, places: Tensor | None = None
    ) -> Tensor:
        """Apply to (batch, frames, dim); `is_padding` (batch, frames) hides keys.

        With `places` (wanted,), frames of batch * frames, only what those heard is returned:
        (wanted, dim).
        """
        batch, length, dim = frames.shape
        split = (batch, length, self.heads, dim // self.heads)
        # (batch, frames, dim) -> (batch, heads, frames, head_dim)
        query = self.query(frames).view(split).transpose(1, 2)
        key = self.key(frames).view(split).transpose(1, 2)
        value = self.value(frames).view(split).transpose(1, 2)
        hidden = None if is_padding is None else is_padding[:, None, None, :]
        dropped = self.dropout if self.training else 0.0
        mixed = attend(query, key, value, hidden, dropped=dropped)
        mixed = mixed.transpose(1, 2).reshape(batch, length, dim)  # heads side by side again
        if places is not None:
            mixed = pick_frames(mixed, places)
        return self.output(mixed)


def attend(
    query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None, *, dropped: float
) -> Tensor:
    """Scaled dot-product attention on (batch, heads, frames, head_dim).

    On the CPU two explicit matrix products are faster than the fused kernel in bfloat16; elsewhere
    the fused kernel is used.
    """
    if query.device.type != "cpu":
        visible = None if hidden is None else ~hidden
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=visible, dropout_p=dropped
        )
    scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
    if hidden is not None:  # a sum takes a tenth of the time of masked_fill
        scores += torch.zeros_like(hidden, dtype=scores.dtype).masked_fill_(hidden, -math.inf)
    weights = dropout(torch.softmax(scores, dim=-1), dropped, dropped > 0)
    return torch.matmul(weights, value)


BERT_SPREAD = 0.02
"""Standard deviation that linear layers start with."""


def init_linear(linear: nn.Linear) -> None:
    """Initialise as BERT does: N(0, 0.02), bias zero (fairseq `init_bert_params`)."""
    nn.init.normal_(linear.weight, mean=0.0, std=BERT_SPREAD)
    nn.init.zeros_(linear.bias)
