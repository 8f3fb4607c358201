"""From frames to what a head sees: mixtures of layers, means and deviations of real frames."""

import torch
from torch import Tensor, nn

from unheard.models.encoder import EncoderOutput
from unheard.tensors import padding_mask


def mixture_weights(layers: int) -> nn.Parameter:
    """Make the learnt weights of `mix_layers` for an encoder, all layers alike.

    Returns:
        (layers + 1,): one for the input of the first layer and one for the output of each.
    """
    return nn.Parameter(torch.zeros(layers + 1))


def mix_layers(output: EncoderOutput, weights: Tensor | None, *, ends_normed: bool) -> Tensor:
    """Average all layers of an encoder, each by its learnt weight; or take the last.

    A `norm_first` network closes with a norm after its last layer. s3prl, and transformers up to
    5.15, mix the last layer as it is after that norm; transformers from 5.16 on mixes it as it is
    before, unless a configuration says `tie_last_hidden_states`. Weights learnt the one way are
    wrong the other. Without `norm_first` there is no difference.

    Source: Yang et al. 2021 (SUPERB), sec. 3.1; transformers modeling_wav2vec2.py, 4.57
    (`use_weighted_layer_sum`), and utils/output_capturing.py, 5.23.

    Args:
        output: with its layers kept, if they are mixed.
        weights: (layers + 1,), before the softmax; None for the last layer alone.
        ends_normed: which of the two the last layer is.

    Returns:
        (batch, frames, dim).
    """
    if weights is None:
        return output.frames
    layers = [*output.layers[:-1], output.frames] if ends_normed else output.layers
    shares = torch.softmax(weights, dim=0).unbind()
    mixed = torch.zeros_like(output.frames)
    for share, layer in zip(shares, layers, strict=True):
        mixed = mixed + share * layer
    return mixed


def mean_over_time(frames: Tensor, lengths: Tensor | None) -> Tensor:
    """Average the real frames of each utterance.

    Args:
        frames: (batch, frames, channels).
        lengths: (batch,) [frames], at least 1; None when nothing is padded.

    Returns:
        (batch, channels).
    """
    if lengths is None:
        return frames.mean(dim=1)
    is_padding = padding_mask(lengths, frames.shape[1])[:, :, None]
    return frames.masked_fill(is_padding, 0).sum(dim=1) / lengths[:, None]


def deviation_over_time(frames: Tensor, mean: Tensor, lengths: Tensor | None) -> Tensor:
    """Take the standard deviation of the real frames of each utterance, of a sample (n - 1).

    A channel that does not vary has deviation 0, and lets no gradient through.

    Args:
        frames: (batch, frames, channels).
        mean: (batch, channels), from `mean_over_time`.
        lengths: (batch,) [frames], at least 2; None when nothing is padded.

    Returns:
        (batch, channels).
    """
    away = frames - mean[:, None, :]
    if lengths is None:
        return torch.linalg.vector_norm(away, dim=1) / (frames.shape[1] - 1) ** 0.5
    is_padding = padding_mask(lengths, frames.shape[1])[:, :, None]
    away = away.masked_fill(is_padding, 0)
    return torch.linalg.vector_norm(away, dim=1) / (lengths[:, None] - 1).to(frames.dtype).sqrt()
