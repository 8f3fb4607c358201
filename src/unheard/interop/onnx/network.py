"""A CTC network as an ONNX graph: samples in, scores of every symbol at every frame out.

One utterance a row, all rows of one length: what an utterance gives does not depend on the others
then, whatever the network's norms are. Any length will do; rows shorter than the receptive field
give no frames. Frames are (batch, channels, frames) among the convolutions and
(batch, frames, channels) after them.

With int8, the matrix products of a frame with weights are done in 8 bits, and nothing else:
convolutions lose too much, and attention multiplies what was computed by what was computed. Each
column of a weight has its own scale, symmetric about zero; activations are scaled by what they are
at that moment. Weights are stored unsigned, with 128 for zero, because x86 processors without VNNI
overflow on products of unsigned by signed bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unheard.interop.onnx.graph import Graph
from unheard.models.ctc import CtcModel
from unheard.models.feature_encoder import ChannelNorm, ConvBlock, TimeNorm
from unheard.models.transformer import (
    LanguageAdapter,
    PositionalConv,
    SelfAttention,
    TransformerLayer,
)

INPUT, OUTPUT = "x", "logits"
"""Names of the graph's input and output, as sherpa-onnx's own exports call them."""

_LEVELS = 127
"""Steps on either side of zero that a weight of 8 bits has."""
_ZERO = 128
"""What stands for a weight of zero."""
_FLOAT = 1
"""ONNX's number for the type float32."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which outputs of a network the graph has, and in which order.

    Attributes:
        blank_ids: numbers of the blank and of every symbol that is never written. The best of them
            is output 0: in a text, a symbol that is not written is a blank.
        written_ids: numbers of the others, outputs 1 and up.
    """

    blank_ids: tuple[int, ...]
    written_ids: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of outputs."""
        return 1 + len(self.written_ids)

    def pick(self, logits: Tensor) -> Tensor:
        """Do to a network's own scores (..., vocab) what the graph does: (..., outputs)."""
        blank = logits[..., list(self.blank_ids)].amax(dim=-1, keepdim=True)
        return torch.cat((blank, logits[..., list(self.written_ids)]), dim=-1)


def make_graph(
    model: CtcModel,
    outputs: Outputs,
    *,
    normalize_epsilon: float | None = None,
    int8: bool = False,
) -> Graph:
    """Write a network down as a graph from `INPUT` (batch, samples) to `OUTPUT`.

    Args:
        model: any CTC network of this package.
        outputs: which of its outputs, in which order.
        normalize_epsilon: bring each row to zero mean and unit variance first, with this added to
            the variance; None leaves samples as they are.
        int8: do the products with weights in 8 bits.

    Returns:
        The graph; its constants are views of the model's weights where they can be.
    """
    writer = _Writer(Graph(), int8=int8)
    writer.network(model, outputs, normalize_epsilon)
    return writer.graph


class _Writer:
    """Writes the parts of a network into one graph; methods return names of values."""

    def __init__(self, graph: Graph, *, int8: bool) -> None:
        self.graph = graph
        self.int8 = int8
        self._quantized: set[str] = set()

    def network(self, model: CtcModel, outputs: Outputs, normalize_epsilon: float | None) -> None:
        add, encoder = self.graph.add, model.encoder
        frames, end = self.samples(model.config.encoder.receptive_field_samples, normalize_epsilon)
        for number, block in enumerate(encoder.feature_encoder.blocks):
            frames = self.conv_block(f"encoder.feature_encoder.blocks.{number}", block, frames)
        frames = self.swap_axes("encoder.features", frames)  # -> (batch, frames, channels)
        frames = self.layer_norm("encoder.feature_norm", encoder.feature_norm, frames)
        frames = self.linear("encoder.projection", encoder.projection, frames)
        transformer, path = encoder.transformer, "encoder.transformer"
        position = self.positional(f"{path}.positional", transformer.positional, frames)
        frames = add("Add", frames, position, name=f"{path}.frames")
        if not transformer.norm_first:
            frames = self.layer_norm(f"{path}.norm", transformer.norm, frames)
        for number, layer in enumerate(transformer.layers):
            frames = self.layer(f"{path}.layers.{number}", layer, frames)
        if transformer.norm_first:
            frames = self.layer_norm(f"{path}.norm", transformer.norm, frames)
        scores = self.head(model.head, outputs, frames)
        integers = self.graph.integers
        add("Slice", scores, integers(0), end, integers(1), name=OUTPUT)

    def samples(self, needed: int, normalize_epsilon: float | None) -> tuple[str, str]:
        """Take the input in; also gives (1,), a number of frames that only too short input has not.

        Too short input is padded so that there is a frame, which is cut off in the end: runtimes
        stop with an error where a convolution has nothing to do.
        """
        add, integers = self.graph.add, self.graph.integers
        # (batch, samples) -> (batch, 1, samples)
        frames = add("Unsqueeze", INPUT, integers(1), name="samples")
        if normalize_epsilon is not None:
            frames = add(
                "InstanceNormalization",
                frames,
                self.graph.constant("samples.scale", torch.ones(1)),
                self.graph.constant("samples.shift", torch.zeros(1)),
                name="samples.normalized",
                attributes={"epsilon": normalize_epsilon},
            )
        shape = add("Shape", INPUT, name="samples.shape", attributes={"start": 1})
        missing = add("Sub", integers(needed), shape, name="samples.difference")
        missing = add("Max", missing, integers(0), name="samples.missing")
        pads = add(
            "Concat", integers(0, 0, 0, 0, 0), missing, name="samples.pads", attributes={"axis": 0}
        )
        frames = add("Pad", frames, pads, name="samples.padded")
        # A frame takes more than a sample: this many are there, unless there is none.
        end = add("Sub", shape, integers(needed - 1), name="frames.difference")
        return frames, add("Max", end, integers(0), name="frames.end")

    def conv_block(self, path: str, block: nn.Module, frames: str) -> str:
        if not isinstance(block, ConvBlock):
            raise TypeError(f"expected a ConvBlock, got {type(block).__name__}")
        inputs = [frames, self.graph.constant(f"{path}.weight", block.weight)]
        if block.bias is not None:
            inputs.append(self.graph.constant(f"{path}.bias", block.bias))
        frames = self.graph.add(
            "Conv",
            *inputs,
            name=f"{path}.conv",
            attributes={"kernel_shape": [block.kernel], "strides": [block.stride]},
        )
        norm = block.norm
        if isinstance(norm, TimeNorm):
            # Over time, for each channel by itself: here that is what an "instance norm" is.
            frames = self.graph.add(
                "InstanceNormalization",
                frames,
                self.graph.constant(f"{path}.norm.weight", norm.weight),
                self.graph.constant(f"{path}.norm.bias", norm.bias),
                name=f"{path}.norm",
                attributes={"epsilon": norm.epsilon},
            )
        elif isinstance(norm, ChannelNorm):
            frames = self.swap_axes(f"{path}.channels_last", frames)
            frames = self.layer_norm(f"{path}.norm", norm, frames)
            frames = self.swap_axes(f"{path}.channels_first", frames)
        return self.gelu(f"{path}.gelu", frames)

    def positional(self, path: str, conv: PositionalConv, frames: str) -> str:
        frames = self.swap_axes(f"{path}.channels_first", frames)
        after = (conv.kernel - 1) // 2  # an even kernel sees one frame more before than after
        frames = self.graph.add(
            "Conv",
            frames,
            self.graph.constant(f"{path}.weight", conv.kernel_weight().detach()),
            self.graph.constant(f"{path}.bias", conv.bias),
            name=f"{path}.conv",
            attributes={
                "kernel_shape": [conv.kernel],
                "group": conv.groups,
                "pads": [conv.kernel // 2, after],
            },
        )
        return self.gelu(f"{path}.gelu", self.swap_axes(f"{path}.channels_last", frames))

    def layer(self, path: str, layer: nn.Module, frames: str) -> str:
        if not isinstance(layer, TransformerLayer):
            raise TypeError(f"expected a TransformerLayer, got {type(layer).__name__}")
        add = self.graph.add
        heard = frames
        if layer.norm_first:
            heard = self.layer_norm(f"{path}.attention_norm", layer.attention_norm, frames)
        attended = self.attention(f"{path}.attention", layer.attention, heard)
        frames = add("Add", frames, attended, name=f"{path}.attended")
        if not layer.norm_first:
            frames = self.layer_norm(f"{path}.attention_norm", layer.attention_norm, frames)
        heard = frames
        if layer.norm_first:
            heard = self.layer_norm(f"{path}.ffn_norm", layer.ffn_norm, frames)
        inner = self.gelu(f"{path}.gelu", self.linear(f"{path}.inner", layer.inner, heard))
        outer = self.linear(f"{path}.outer", layer.outer, inner)
        frames = add("Add", frames, outer, name=f"{path}.fed_forward")
        if not layer.norm_first:
            return self.layer_norm(f"{path}.ffn_norm", layer.ffn_norm, frames)
        if layer.adapter is None:
            return frames
        adapted = self.adapter(f"{path}.adapter", layer.adapter, frames)
        return add("Add", frames, adapted, name=f"{path}.adapted")

    def adapter(self, path: str, adapter: LanguageAdapter, frames: str) -> str:
        frames = self.layer_norm(f"{path}.norm", adapter.norm, frames)
        down = self.linear(f"{path}.down", adapter.down, frames)
        return self.linear(
            f"{path}.up", adapter.up, self.graph.add("Relu", down, name=f"{path}.relu")
        )

    def attention(self, path: str, attention: SelfAttention, frames: str) -> str:
        add = self.graph.add
        dim = attention.query.in_features
        head_dim = dim // attention.heads
        query = self.linear(f"{path}.query", attention.query, frames)
        query = add("Mul", query, self.graph.number(head_dim**-0.5), name=f"{path}.query.scaled")
        key = self.linear(f"{path}.key", attention.key, frames)
        value = self.linear(f"{path}.value", attention.value, frames)
        # (batch, frames, dim) -> (batch, heads, frames, head_dim); a size of 0 keeps an axis
        split = self.graph.integers(0, 0, attention.heads, head_dim)
        heads = {}
        for name, source, order in (
            ("query", query, [0, 2, 1, 3]),
            ("key", key, [0, 2, 3, 1]),
            ("value", value, [0, 2, 1, 3]),
        ):
            heads[name] = add(
                "Transpose",
                add("Reshape", source, split, name=f"{path}.{name}.split"),
                name=f"{path}.{name}.heads",
                attributes={"perm": order},
            )
        scores = add("MatMul", heads["query"], heads["key"], name=f"{path}.scores")
        weights = add("Softmax", scores, name=f"{path}.weights", attributes={"axis": -1})
        mixed = add("MatMul", weights, heads["value"], name=f"{path}.mixed")
        mixed = add(
            "Transpose", mixed, name=f"{path}.mixed.frames", attributes={"perm": [0, 2, 1, 3]}
        )
        mixed = add("Reshape", mixed, self.graph.integers(0, 0, dim), name=f"{path}.mixed.joined")
        return self.linear(f"{path}.output", attention.output, mixed)

    def head(self, head: nn.Linear, outputs: Outputs, frames: str) -> str:
        # Always in float32: it is small, and what is written hangs on its last digits.
        add, count = self.graph.add, len(outputs.blank_ids)
        rows = [*outputs.blank_ids, *outputs.written_ids]
        scores = self.product("head", head.weight[rows], frames)
        bias = self.graph.constant("head.bias", head.bias[rows])
        scores = add("Add", scores, bias, name="head")
        if count == 1:
            return scores
        integers = self.graph.integers
        blanks = add("Slice", scores, integers(0), integers(count), integers(2), name="head.blanks")
        blank = add("ReduceMax", blanks, name="head.blank", attributes={"axes": [2], "keepdims": 1})
        written = add(
            "Slice", scores, integers(count), integers(len(rows)), integers(2), name="head.written"
        )
        return add("Concat", blank, written, name="head.outputs", attributes={"axis": 2})

    def linear(self, path: str, linear: nn.Linear, frames: str) -> str:
        product = self.integer_product if self.int8 else self.product
        bias = self.graph.constant(f"{path}.bias", linear.bias)
        return self.graph.add("Add", product(path, linear.weight, frames), bias, name=path)

    def product(self, path: str, weight: Tensor, frames: str) -> str:
        constant = self.graph.constant(f"{path}.weight", weight.t())
        return self.graph.add("MatMul", frames, constant, name=f"{path}.product")

    def integer_product(self, path: str, weight: Tensor, frames: str) -> str:
        add = self.graph.add
        quantized, scale = quantize_columns(weight.t())
        bytes_of = f"{frames}.bytes"
        if frames not in self._quantized:  # query, key and value hear the same
            self._quantized.add(frames)
            add("DynamicQuantizeLinear", frames, name=bytes_of, outputs=3)
        product = add(
            "MatMulInteger",
            bytes_of,
            self.graph.constant(f"{path}.weight", quantized),
            f"{bytes_of}:2",
            self.graph.constant("zero_byte", torch.tensor(_ZERO, dtype=torch.uint8)),
            name=f"{path}.integers",
        )
        product = add("Cast", product, name=f"{path}.floats", attributes={"to": _FLOAT})
        scale = self.graph.constant(f"{path}.scale", scale)
        scale = add("Mul", f"{bytes_of}:1", scale, name=f"{path}.scales")
        return add("Mul", product, scale, name=f"{path}.product")

    def layer_norm(self, path: str, norm: nn.LayerNorm | ChannelNorm, frames: str) -> str:
        epsilon = norm.eps if isinstance(norm, nn.LayerNorm) else norm.epsilon
        return self.graph.add(
            "LayerNormalization",
            frames,
            self.graph.constant(f"{path}.weight", norm.weight),
            self.graph.constant(f"{path}.bias", norm.bias),
            name=path,
            attributes={"axis": -1, "epsilon": epsilon},
        )

    def gelu(self, path: str, values: str) -> str:
        # x (1 + erf(x / sqrt 2)) / 2, in the order that runtimes know and fuse.
        add, number = self.graph.add, self.graph.number
        inner = add("Div", values, number(2**0.5), name=f"{path}.scaled")
        inner = add("Add", add("Erf", inner, name=f"{path}.erf"), number(1.0), name=f"{path}.one")
        product = add("Mul", values, inner, name=f"{path}.twice")
        return add("Mul", product, number(0.5), name=path)

    def swap_axes(self, path: str, frames: str) -> str:
        return self.graph.add("Transpose", frames, name=path, attributes={"perm": [0, 2, 1]})


def quantize_columns(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight (inputs, outputs) to 8 bits, each column by its own scale.

    Returns:
        uint8 of that shape and the scales (outputs,) float32: a weight is
        `(byte - 128) * scale`, within half a scale.
    """
    wide = weight.detach().to(torch.float32)
    scale = wide.abs().amax(dim=0) / _LEVELS
    steps = torch.where(scale > 0, scale, 1.0)
    return ((wide / steps).round() + _ZERO).to(torch.uint8), steps


def choose_outputs(blank_id: int, hidden_ids: Sequence[int], vocab: int) -> Outputs:
    """Put the blank first, with the symbols that are never written; the others keep their order."""
    blanks = (blank_id, *(number for number in hidden_ids if number != blank_id))
    return Outputs(
        blank_ids=blanks,
        written_ids=tuple(number for number in range(vocab) if number not in set(blanks)),
    )
