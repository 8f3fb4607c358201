"""An ONNX graph as plain data, and its file.

Nodes are written down one by one instead of traced: the file then holds what is meant and nothing
else, under names that tell where in the network they are, and the same model gives the same bytes.
"""

import importlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unheard.errors import MissingExtraError
from unheard.files import atomic_path, write_bytes_atomic

if TYPE_CHECKING:
    from onnx import NodeProto

OPSET = 17
"""Version of the operators: the first with LayerNormalization (ONNX 1.12, 2022)."""
IR_VERSION = 8
"""Version of the file format that came with it."""

INLINE_BYTES = 1_900_000_000
"""Up to this size weights are in the graph's own file [bytes]; protocol buffers end at 2 GiB."""
EXTERNAL_SUFFIX = ".data"
"""What is appended to the graph's name for the file of larger weights."""
EXTERNAL_BYTES = 1024
"""Smaller constants, such as shapes, stay in the graph's own file [bytes]."""
_PAGE_BYTES = 4096
"""What external weights begin at multiples of, so that they can be mapped into memory."""

Attribute = int | float | list[int]


def check_installed() -> None:
    """Refuse to begin what cannot be written.

    Raises:
        MissingExtraError: if the package onnx is not installed.
    """
    try:
        importlib.import_module("onnx")
    except (ImportError, OSError) as error:
        raise MissingExtraError("onnx", extra="onnx", purpose="Writing ONNX") from error


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation.

    Attributes:
        operator: its ONNX name.
        name: of the node.
        inputs: names of values; "" for an optional one that is not given.
        outputs: names of the values it makes.
        attributes: its constants.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(kw_only=True)
class Graph:
    """Nodes in the order they run, and the constants they use.

    Attributes:
        nodes: the operations.
        weights: name -> constant; floating-point ones are written as float32. They may be views of
            a model's own memory: bytes are made when the file is written.
    """

    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(
        self,
        operator: str,
        *inputs: str,
        name: str,
        attributes: Mapping[str, Attribute] | None = None,
        outputs: int = 1,
    ) -> str:
        """Add an operation; returns the name of its (first) output, which is the node's."""
        names = (name, *(f"{name}:{number}" for number in range(1, outputs)))
        self.nodes.append(
            Node(
                operator=operator,
                name=name,
                inputs=inputs,
                outputs=names,
                attributes=attributes or {},
            )
        )
        return name

    def constant(self, name: str, value: Tensor) -> str:
        """Add a constant, or the one that is already there by that name; returns the name."""
        self.weights.setdefault(name, value)
        return name

    def integers(self, *values: int) -> str:
        """Add a list of int64, such as a shape; returns its name."""
        name = "integers." + "_".join(map(str, values))
        return self.constant(name, torch.tensor(values, dtype=torch.int64))

    def number(self, value: float) -> str:
        """Add a float32; returns its name."""
        return self.constant(f"number.{value:.9g}", torch.tensor(value, dtype=torch.float32))

    @property
    def size_bytes(self) -> int:
        """Room that the constants take in a file [bytes]."""
        return sum(value.numel() * _stored_type(value).itemsize for value in self.weights.values())


@dataclass(frozen=True, kw_only=True)
class Value:
    """An input or output of the whole graph: its name and axes, numbers or names of free sizes."""

    name: str
    axes: tuple[str | int, ...]


def write_graph(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    source: Value,
    result: Value,
    name: str,
    metadata: Mapping[str, str],
    producer_version: str,
    inline_bytes: int = INLINE_BYTES,
) -> tuple[Path, ...]:
    """Write a graph; the same graph gives the same bytes.

    Args:
        graph: what to write; `result` is the name of one of its values.
        path: the file.
        source: the input, float32.
        result: the output, float32.
        name: of the graph.
        metadata: texts that travel in the file.
        producer_version: of this package.
        inline_bytes: beyond this the weights go into a second file beside it [bytes].

    Returns:
        The files written.

    Raises:
        MissingExtraError: if the package onnx is not installed.
        DiskFullError: if there is no room.
    """
    check_installed()
    from onnx import TensorProto, helper

    kinds = {
        torch.float32: TensorProto.FLOAT,
        torch.int64: TensorProto.INT64,
        torch.uint8: TensorProto.UINT8,
    }
    target = Path(path)
    external = (
        target.with_name(target.name + EXTERNAL_SUFFIX) if graph.size_bytes > inline_bytes else None
    )
    proto = helper.make_graph(
        [_make_node(node) for node in graph.nodes],
        name,
        [helper.make_tensor_value_info(source.name, TensorProto.FLOAT, source.axes)],
        [helper.make_tensor_value_info(result.name, TensorProto.FLOAT, result.axes)],
    )
    places = dict(_places(graph))
    for weight, value in graph.weights.items():
        tensor = proto.initializer.add()
        tensor.name = weight
        tensor.data_type = kinds[_stored_type(value)]
        tensor.dims.extend(value.shape)
        if external is None or weight not in places:
            tensor.raw_data = _bytes(value)
        else:
            tensor.data_location = TensorProto.EXTERNAL
            facts = {"location": external.name, "offset": places[weight][0]}
            for key, fact in {**facts, "length": places[weight][1]}.items():
                entry = tensor.external_data.add()
                entry.key, entry.value = key, str(fact)
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    model.producer_name, model.producer_version = "unheard", producer_version
    helper.set_model_props(model, dict(metadata))
    if external is not None:
        with atomic_path(external) as temporary, temporary.open("wb") as file:
            for weight, (offset, _) in places.items():
                file.seek(offset)
                file.write(_bytes(graph.weights[weight]))
    write_bytes_atomic(target, model.SerializeToString(deterministic=True))
    return (target,) if external is None else (target, external)


def _make_node(node: Node) -> "NodeProto":
    """Write an operation down as ONNX has it."""
    from onnx import helper

    made = helper.make_node(node.operator, node.inputs, node.outputs, node.name)
    made.attribute.extend(
        helper.make_attribute(name, node.attributes[name]) for name in sorted(node.attributes)
    )
    return made


def _places(graph: Graph) -> Iterator[tuple[str, tuple[int, int]]]:
    """Lay large constants out in a file of their own: name -> offset and length [bytes]."""
    end = 0
    for name, value in graph.weights.items():
        length = value.numel() * _stored_type(value).itemsize
        if length >= EXTERNAL_BYTES:
            yield name, (end, length)
            end += length + -length % _PAGE_BYTES


def _stored_type(value: Tensor) -> torch.dtype:
    """Type that a constant is written in."""
    return torch.float32 if value.dtype.is_floating_point else value.dtype


def _bytes(value: Tensor) -> bytes:
    """Little-endian bytes of a constant."""
    array = value.detach().to(device="cpu", dtype=_stored_type(value)).contiguous().numpy()
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
