"""A graph written anew around its stem: nodes that bring the picture into another form, convolutions that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sharedbb.graph.capture import digest
from sharedbb.graph.cut import REARRANGED
from sharedbb.graph.ir import Graph, Node, Value, Weight
from sharedbb.graph.merge import prune
from sharedbb.transforms.bands import Bands
from sharedbb.transforms.fold import Folded, Pair

Pads = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Convolution:
    """What stands for a convolution of the stem: its bias (an argument of the call), and what is read by what."""

    bias: Any
    reads: tuple[tuple[Node, Folded], ...]


class Rewriting:
    """A graph in the making: its new inputs, then what is made of them, then all other nodes.

    Nodes of the old graph keep their names, so that its outputs stand. New weights have the inputs' dtype.
    """

    def __init__(self, graph: Graph, inputs: Sequence[Node]) -> None:
        self._graph = graph
        self._inputs = tuple(node.name for node in inputs)
        self._nodes = list(inputs)
        self._weights = dict(graph.weights)
        self._taken = set(graph.by_name)
        self._dtype = inputs[0].dtype
        self._padded: dict[tuple[str, Pads], Node] = {}

    def bands(self, picture: Node, bands: Bands) -> tuple[Node, float]:
        """The picture's bands of one resolution, channel by channel, and what the node is to be multiplied by."""
        batch, channels, height, width = picture.shape
        block, read = bands.block, Value(picture.name)
        shape = (batch, channels * len(bands.names), bands.count(height), bands.count(width))
        if bands.are_phases:
            return self._add("space_to_depth", "pixel_unshuffle.default", (read, block), shape), 1.0
        if bands.are_means:
            mean = self._add("block_mean", "avg_pool2d.default", (read, (block, block), (block, block)), shape)
            return mean, float(bands.kernels.sum())
        after = [
            block * (cells - 1) + bands.length - bands.lead - side
            for cells, side in zip(shape[2:], picture.shape[2:], strict=True)
        ]
        padded, padding = self._with_pads(picture, (bands.lead, after[1], bands.lead, after[0]))
        weight = self._weight(_for_each_channel(torch.from_numpy(bands.kernels), channels))
        args = (Value(padded.name), weight, None, (block, block), padding)
        return self._add(f"bands_{block}", "conv2d.default", args, shape), 1.0

    def interleaved(self, luma: Node, *chroma: Node) -> Node:
        """The four phases of luma and the chroma planes as channels, [N, 6, H/2, W/2]."""
        batch, _, height, width = chroma[0].shape
        phases = self._add("luma_phases", "pixel_unshuffle.default", (Value(luma.name), 2), (batch, 4, height, width))
        read = tuple(Value(node.name) for node in (phases, *chroma))
        return self._add("planes", "cat.default", (read, 1), (batch, 6, height, width))

    def finished(self, convolutions: Mapping[str, Convolution]) -> Graph:
        """The whole graph, with these in place of the convolutions of their names."""
        for node in self._graph.nodes:
            if node.name in convolutions:
                self._convolve(node, convolutions[node.name])
            elif node.name not in self._graph.inputs:
                self._nodes.append(node)
        return prune(Graph(tuple(self._nodes), self._inputs, self._graph.outputs, self._weights))

    def _convolve(self, node: Node, convolution: Convolution) -> None:
        """One convolution for each resolution; they add up, and the last has the bias."""
        *others, last = convolution.reads
        parts = [self._part(self._free(f"{node.name}_part"), node, read, None) for read in others]
        total = self._part(self._free(f"{node.name}_part") if parts else node.name, node, last, convolution.bias)
        for position, part in enumerate(parts, 1):
            name = node.name if position == len(parts) else self._free(f"{node.name}_sum")
            added = (Value(part.name), Value(total.name))
            total = replace(node, name=name, op="aten.add.Tensor", args=added, kwargs=())
            self._nodes.append(total)

    def _part(self, name: str, node: Node, read: tuple[Node, Folded], bias: Any) -> Node:
        """A convolution of ``node``'s shape and origin that reads coefficients."""
        source, folded = read
        padded, padding = self._with_pads(source, folded.pads)
        args = (Value(padded.name), self._weight(folded.weight), bias, folded.stride, padding)
        part = replace(node, name=name, op="aten.conv2d.default", args=args, kwargs=())
        self._nodes.append(part)
        return part

    def _with_pads(self, source: Node, pads: Pads) -> tuple[Node, Pair]:
        """What a convolution reads, and the padding (y, x) that it does by itself, where both sides are the same."""
        left, right, top, bottom = pads
        if left == right >= 0 and top == bottom >= 0:
            return source, (top, left)
        if (source.name, pads) not in self._padded:
            *outer, height, width = source.shape
            shape = (*outer, height + top + bottom, width + left + right)
            name, args = f"{source.name}_padded", (Value(source.name), pads, 0.0)
            self._padded[source.name, pads] = self._add(name, "constant_pad_nd.default", args, shape)
        return self._padded[source.name, pads], (0, 0)

    def _weight(self, tensor: Tensor) -> Weight:
        stored = tensor.to(self._dtype).contiguous()
        name = digest(stored)
        self._weights[name] = stored
        return Weight(name)

    def _add(self, name: str, op: str, args: tuple[Any, ...], shape: Sequence[int]) -> Node:
        node = Node(self._free(name), f"aten.{op}", args, (), tuple(shape), self._dtype, REARRANGED)
        self._nodes.append(node)
        return node

    def _free(self, name: str) -> str:
        """A name that nothing else has."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _for_each_channel(kernels: Tensor, channels: int) -> Tensor:
    """A weight [channels·n, channels, height, width] by which n kernels run over every channel by itself.

    Dense, though mostly zeros: oneDNN and cuDNN are slow at a few groups of one channel.
    """
    weight = kernels.new_zeros(channels, len(kernels), channels, *kernels.shape[1:])
    for channel in range(channels):
        weight[channel, :, channel] = kernels
    return weight.flatten(0, 1)
