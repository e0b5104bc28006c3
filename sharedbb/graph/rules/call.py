"""One operator call as the rules of reach see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sharedbb.graph.axis import Axis, Global, Reach
from sharedbb.graph.ir import Graph, Node, Weight
from sharedbb.graph.schema import arguments


@dataclass(frozen=True)
class Call:
    """A node under analysis: ``read`` has the reach of every operand that depends on the source.

    ``constants``: names of the nodes that depend on no input of the graph.
    """

    graph: Graph
    node: Node
    read: Mapping[str, Reach]
    constants: frozenset[str]

    @cached_property
    def args(self) -> dict[str, Any]:
        """The call's arguments by name."""
        return arguments(self.node)

    @property
    def carried(self) -> Reach:
        """The reach of the first operand."""
        return self.read[self.args["self"].name]

    @property
    def before(self) -> tuple[int, ...]:
        """The shape of the first operand."""
        return self.shape(self.args["self"])

    @property
    def after(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.node.shape

    @property
    def picture(self) -> tuple[int, int]:
        """Where y and x lie in the first operand, counted from the front."""
        y, x = self.carried.dims
        return y % len(self.before), x % len(self.before)

    def positions(self, argument: str) -> tuple[int, ...]:
        """An argument that names dimensions of the first operand, one or several, counted from the front."""
        given = self.args[argument]
        return tuple(dim % len(self.before) for dim in ((given,) if isinstance(given, int) else given))

    def shape(self, operand: Any) -> tuple[int, ...]:
        """The shape of a value or a weight."""
        if isinstance(operand, Weight):
            return tuple(self.graph.weights[operand.digest].shape)
        return self.graph.by_name[operand.name].shape

    def placed(self, y: int, x: int) -> Reach:
        """The first operand's reach, its axes now at positions y and x of the result, counted from the front."""
        return Reach(self.carried.y, self.carried.x, (y - len(self.after), x - len(self.after)))

    def windowed(self, windows: Mapping[int, Axis]) -> Reach:
        """The first operand's reach with windows over dimensions of it, counted from the end; none elsewhere."""
        y, x = self.carried.dims
        none = Axis()
        return Reach(self.carried.y.compose(windows.get(y, none)), self.carried.x.compose(windows.get(x, none)), (y, x))

    def refuse(self, why: str) -> Global:
        """Not local: ``why`` completes "<node> <why>"."""
        place = f" ({self.node.origin})" if self.node.origin else ""
        return Global(f"{self.node.name}{place} {why}")


Rule = Callable[[Call], Reach | Global]
