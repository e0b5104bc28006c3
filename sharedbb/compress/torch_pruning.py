"""The dependency graph of Torch-Pruning (Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023).

The only module that imports it. What it finds is translated to ``channels``; importance, choice and cutting are ours.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sharedbb.compress.channels import ChannelGroup, Held, Member, Side, is_grouped, joined
from sharedbb.compress.liveness import idle, observed
from sharedbb.errors import CompressionError

PRUNABLE = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d)

UNREAD = "no answer reads them"

_PASSING = ("ELEMENTWISE", "CONCAT", "RESHAPE", "OUTPUT")
"""Kinds of nodes that leave channels what they are, by the names of Torch-Pruning."""


def channel_groups(module: nn.Module, image: Tensor) -> tuple[list[ChannelGroup], list[Held]]:
    """Every set of channels of ``module`` that can be narrowed, and those that cannot, in the order of its layers.

    ``image`` is what the network takes (NCHW); a small one is enough. Held are the channels of the answers, of a layer
    norm (it mixes them), of a shuffle, and those tied to a bare parameter. Raises CompressionError without
    Torch-Pruning.
    """
    try:
        import torch_pruning
    except ImportError as error:
        raise CompressionError("pruning needs torch-pruning: pip install 'sharedbb[compress]'") from error
    training, unread = module.training, set[str]()

    def everything(module: nn.Module, image: Tensor) -> list[Tensor]:
        """The answers, and what no answer depends on: it runs with the rest, so what it reads must keep fitting it."""
        answers, given = observed(module, image)
        unread.update(idle(given))
        return [*answers, *(one.tensor for one in given if not one.is_read)]

    with torch.enable_grad():
        graph = _graph(torch_pruning).build_dependency(module, image, forward_fn=everything, verbose=False)
        found = [_translated(group, graph) for group in graph.get_all_groups()]
    found = [Held(each.name, UNREAD) if isinstance(each, Held) and each.name in unread else each for each in found]
    module.train(training)
    order = {name: index for index, name in enumerate(dict(module.named_modules()))}
    raw = sorted((each for each in found if isinstance(each, ChannelGroup)), key=lambda group: order[group.name])
    groups, tied = joined(raw, dict(module.named_modules()))
    held = [*(each for each in found if isinstance(each, Held)), *tied]
    return groups, sorted(held, key=lambda each: order[each.name])


def _graph(torch_pruning: Any) -> Any:
    """A dependency graph that does not map channels through splits and shuffles, at which it fails.

    Its ``opaque`` nodes are those; groups that go through one are held.
    """

    class Graph(torch_pruning.DependencyGraph):  # type: ignore[misc]
        def _trace(self, *args: Any, **settings: Any) -> dict[Any, Any]:
            nodes: dict[Any, Any] = super()._trace(*args, **settings)
            self.opaque = [node for node in nodes.values() if node.type.name in ("SPLIT", "UNBIND", "SLICE", "EXPAND")]
            for node in nodes.values():
                node.enable_index_mapping = True  # it gives that up behind parameters of three dimensions
                if node.type.name == "RESHAPE" and len(node.grad_fn._saved_self_sym_sizes) > 4:
                    self.opaque += _back_to_reshape(node)
            for node in self.opaque:
                node.type = torch_pruning.ops.OPTYPE.ELEMENTWISE
            return nodes

    return Graph()


def _back_to_reshape(node: Any) -> list[Any]:
    """A reshape from five dimensions and the nodes before it, up to the reshape that made five of four."""
    found = [node]
    while found[-1].inputs:
        found.append(found[-1].inputs[0])
        if found[-1].type.name == "RESHAPE":
            break
    return found


def _translated(group: Any, graph: Any) -> ChannelGroup | Held:
    """One group of Torch-Pruning, its units numbered by the channels of the layer that it starts from."""
    names = {layer: name for name, layer in graph.model.named_modules()}
    root = names[group[0].dep.target.module]
    reason = next(filter(None, (_hindrance(item.dep, graph.opaque) for item in group.items)), None)
    if reason is not None:
        return Held(root, reason)
    members = [
        Member(names[layer], _side(item.dep), torch.tensor(list(item.idxs)), torch.tensor(list(item.root_idxs)))
        for item in group.items
        if isinstance(layer := item.dep.target.module, PRUNABLE)
    ]
    order = {name: index for index, name in enumerate(names.values())}
    members.sort(key=lambda member: (order[member.layer], member.side))
    makers = [member.layer for member in members if member.side == "out"]
    return ChannelGroup(makers[0] if makers else root, len(group[0].idxs), 1, tuple(members))


def _side(dep: Any) -> Side:
    layer = dep.target.module
    depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1 and not is_grouped(layer)
    if isinstance(layer, nn.BatchNorm2d) or depthwise:
        return "both"
    return "out" if dep.handler.__name__.endswith("prune_out_channels") else "in"


def _hindrance(dep: Any, opaque: list[Any]) -> str | None:
    """Why channels that reach this node of the graph must stay, or None."""
    node = dep.target
    layer = node.module
    if isinstance(layer, PRUNABLE) and _side(dep) == "in":
        return None
    if not node.outputs:
        return "they are an answer of the network"
    if isinstance(layer, nn.Parameter):
        return "a parameter of their number is computed with them"
    if node in opaque:
        return "they are split or shuffled"
    if node.type.name not in _PASSING and not isinstance(layer, PRUNABLE):
        return f"a {type(layer).__name__} mixes them"
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups > 1:
        return "a transposed convolution with groups makes them"
    return None
