"""From a torch module to a Graph, through ``torch.export``."""

from __future__ import annotations

import hashlib
import io
import operator
import warnings
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from sharedbb.errors import GraphError
from sharedbb.graph.ir import Graph, Node, Value, Weight, rewrite

# Calls that hand their first argument on unchanged when a network only answers. (``view`` is written as ``reshape``,
# which takes any memory layout, so ``contiguous`` has nothing left to do.)
DROPOUTS = frozenset({"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"})
PASS_THROUGH = DROPOUTS | {"detach", "alias", "clone", "contiguous", "lift_fresh_copy"}

# ``mask &= ...`` and the like.
IN_PLACE_WORDS = frozenset({"__iand__", "__ior__", "__ixor__", "__ilshift__", "__irshift__"})

# Calls whose result depends on how their argument lies in memory, which a graph does not say.
BY_MEMORY = ("aten.as_strided.", "aten.view_as_complex.", "aten.view.dtype")

# Calls whose result shares memory with their first argument.
VIEWS = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "slice", "select"}
    | {"narrow", "chunk", "split", "split_with_sizes", "unbind", "expand", "getitem", "detach", "alias"}
    | {"type_as"}
)

# Calls whose result may be a view, of which torch itself does not know that it is one.
SECRET_VIEWS = frozenset({"einsum", "meshgrid", "broadcast_tensors", "atleast_1d", "atleast_2d", "atleast_3d"})

# Calls that only change a tensor's type or device; a graph has no device, so a type is all that is left of them.
CONVERSIONS = ("aten.to.device", "aten.to.dtype_layout", "aten._to_copy.")

# Where a call would put its result, which is where what it reads lies.
PLACES = frozenset({"device", "layout", "pin_memory"})


def capture(module: nn.Module, example: Tensor, name: str = "net") -> Graph:
    """Export ``module`` (in eval mode) on ``example`` and return it as a Graph whose one input is called ``input``.

    In-place operators become their functional forms, operators that do nothing in eval mode disappear, outputs are
    named ``name`` (one tensor) or ``name.part`` (a dict's keys, a tuple's positions; with an empty ``name`` the keys
    alone). The module is left as it was.

    Raises GraphError when torch.export cannot follow the module, when shapes depend on data, and when an answer depends
    on what the module remembers from call to call.
    """
    if not isinstance(module, nn.Module):
        raise GraphError(f"{name}: a network is a torch.nn.Module, got a {type(module).__name__}")
    if not isinstance(example, Tensor):
        raise GraphError(f"{name}: the example is the one tensor that the network reads, got {type(example).__name__}")
    modes = {part: part.training for part in module.modules()}
    try:
        # torch.export prints a graph that it gives up on; what is wrong is in the error.
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(module.eval(), (example,), strict=False)
            if _writes_where_others_read(exported):
                exported = exported.run_decompositions({})
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise GraphError(
            f"{name}: torch.export cannot follow {type(module).__name__} on an input of shape {tuple(example.shape)}: "
            f"{reason[0] if reason else type(error).__name__}"
        ) from error
    finally:
        for part, mode in modes.items():
            part.training = mode
    return _Reader(name, exported).read()


def _kind(target: Any) -> str:
    return "getitem" if target is operator.getitem else str(target).removeprefix("aten.").split(".")[0]


def _is_in_place(kind: str) -> bool:
    return (kind.endswith("_") and not kind.endswith("__")) or kind in IN_PLACE_WORDS


def _functional(kind: str) -> str:
    """What an in-place call is called when it leaves its argument alone."""
    return kind.replace("__i", "__", 1) if kind in IN_PLACE_WORDS else kind[:-1]


def _writes_where_others_read(exported: torch.export.ExportedProgram) -> bool:
    """Whether an operator writes to what is not its own: to memory that another value sees under another name.

    Such as a weight, or the target of ``out=``; in-place operators without a functional form of their name count too.
    """
    inputs = set(exported.graph_signature.user_inputs)
    memory: dict[torch.fx.Node, Any] = {}  # for results that share memory: whose it is
    secret: set[torch.fx.Node] = set()  # results that do so without torch's knowing
    shared = {
        node for node in exported.graph.nodes if node.op in ("placeholder", "get_attr") and node.name not in inputs
    }
    for node in exported.graph.nodes:
        if node.op != "call_function":
            continue
        kind = _kind(node.target)
        if _writes(node.target) and not _is_in_place(kind):
            return True
        if not node.all_input_nodes:
            continue
        first = node.all_input_nodes[0]
        owner = memory.get(first, first)
        if first in secret and _is_in_place(kind):
            raise GraphError(f"{kind} writes to what may be a view; write to a clone() of it, or use what it returns")
        if kind in SECRET_VIEWS or (first in secret and _may_alias(kind, node.target)):
            secret.add(node)
        if _is_in_place(kind) and kind.rstrip("_") not in PASS_THROUGH:
            if owner in shared or kind in ("copy_", "fill_", "zero_") or not _has_functional(node.target, kind):
                return True
            memory[node] = owner
        elif kind.rstrip("_") in PASS_THROUGH or _may_alias(kind, node.target):
            memory[node] = owner
            shared.add(owner)
    return False


def _writes(target: Any) -> bool:
    """Whether a call changes one of its arguments."""
    return bool(getattr(getattr(target, "_schema", None), "is_mutable", False))


def _has_functional(target: Any, kind: str) -> bool:
    """Whether there is an operator of the same overload that leaves its argument alone."""
    try:
        operator_of(str(target).replace(f".{kind}.", f".{_functional(kind)}."))
    except GraphError:
        return False
    return True


def _may_alias(kind: str, target: Any) -> bool:
    """Whether a call's result may be its first argument, or a view of it."""
    schema = getattr(target, "_schema", None)
    return kind in VIEWS or any(result.alias_info is not None for result in getattr(schema, "returns", ()))


class _Reader:
    """Walks an exported program once, in order, and writes the nodes down."""

    def __init__(self, name: str, exported: torch.export.ExportedProgram) -> None:
        self.name = name
        self.exported = exported
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self.live = {"input"}  # nodes that depend on the input
        self.value_of: dict[str, Any] = {}  # exported node name → Value, Weight or constant

    def read(self) -> Graph:
        self._read_placeholders()
        answers: Any = None
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self._read_call(node)
            elif node.op == "get_attr":
                self.value_of[node.name] = self._weight(_attribute(self.exported.graph_module, node.target))
            elif node.op == "output":
                answers = node.args[0]
        return Graph(tuple(self.nodes), ("input",), self._outputs(answers), self.weights)

    def _read_placeholders(self) -> None:
        stored: Mapping[str, Any] = {**self.exported.state_dict, **self.exported.constants}
        for spec in self.exported.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                meta = next(n for n in self.exported.graph.nodes if n.name == spec.arg.name).meta["val"]
                self.nodes.append(Node("input", "input", shape=tuple(meta.shape), dtype=meta.dtype))
                self.value_of[spec.arg.name] = Value("input")
            else:
                assert spec.target is not None
                self.value_of[spec.arg.name] = self._weight(stored[spec.target])

    def _weight(self, tensor: Tensor) -> Weight:
        found = Weight(digest(tensor))
        if found.digest not in self.weights:
            self.weights[found.digest] = tensor.detach().clone()  # the module may go on being trained
        return found

    def _read_call(self, node: torch.fx.Node) -> None:
        args = self._arguments(node.args)
        kwargs = tuple(sorted((key, self._arguments(value)) for key, value in node.kwargs.items()))
        kind = _kind(node.target)
        op = "getitem" if kind == "getitem" else str(node.target)
        if self._passes_through(kind, node):
            self.value_of[node.name] = args[0]
            return
        if kind.startswith(("_assert", "sym_constrain")):
            return
        if op.startswith(BY_MEMORY):
            raise GraphError(
                f"{self.name}: {op} depends on how a tensor lies in memory; use reshape, slices or flatten"
            )
        in_place = _is_in_place(kind)
        if in_place:
            op = op.replace(f".{kind}.", f".{_functional(kind)}.")
            operator_of(op)
        elif _writes(node.target):
            raise GraphError(f"{self.name}: {op} writes to one of its arguments; use what it returns instead")
        elif op in ("aten.view.default", "aten._unsafe_view.default"):
            op = "aten.reshape.default"
        elif kind == "_native_batch_norm_legit_no_training":
            op, args, kwargs = "aten.batch_norm.default", (*args[:5], False, *args[5:7], False), ()
        meta = node.meta["val"]
        if op.startswith(CONVERSIONS):
            op, args, kwargs = "aten.to.dtype", (args[0], meta.dtype), ()
        elif any(isinstance(arg, Value) for arg in args):
            kwargs = tuple((key, value) for key, value in kwargs if key not in PLACES)
        first = meta[0] if isinstance(meta, tuple | list) else meta
        if not isinstance(first, Tensor):
            raise GraphError(f"{self.name}: {op} gives {type(first).__name__}, not a tensor; shapes must be fixed")
        if not all(isinstance(extent, int) for extent in first.shape):
            raise GraphError(
                f"{self.name}: how much {op} gives depends on the data; shapes must be fixed: leave what selects "
                f"(masks, suppression of boxes) to a decoder"
            )
        call = Node(node.name, op, args, kwargs, tuple(map(int, first.shape)), first.dtype, self._origin(node))
        self.nodes.append(call)
        if not self.live.isdisjoint(call.values):
            self.live.add(call.name)
        self.value_of[node.name] = Value(node.name)
        if in_place:
            self._redirect(node.args[0], node.name)

    def _passes_through(self, kind: str, node: torch.fx.Node) -> bool:
        if kind == "getitem":
            source = node.args[0]
            return _kind(source.target) == "_native_batch_norm_legit_no_training"  # type: ignore[union-attr]
        if kind.rstrip("_") in DROPOUTS and node.args[2]:  # ``train``, written into the network
            return False
        return kind.rstrip("_") in PASS_THROUGH and isinstance(self._arguments(node.args[0]), Value)

    def _redirect(self, target: Any, result: str) -> None:
        """After ``relu_(x)`` every later reading of x means the result."""
        if isinstance(target, torch.fx.Node):
            old = self.value_of[target.name]
            for key, value in self.value_of.items():
                if value == old:
                    self.value_of[key] = Value(result)

    def _arguments(self, tree: Any) -> Any:
        if isinstance(tree, tuple | list):
            return tuple(self._arguments(branch) for branch in tree)
        return self.value_of[tree.name] if isinstance(tree, torch.fx.Node) else tree

    def _origin(self, node: torch.fx.Node) -> str:
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed(list(stack.values())), ("",))[0] if stack else ""
        return "/".join(filter(None, [self.name, path]))

    def _outputs(self, answers: Any) -> dict[str, str]:
        kinds = [spec.kind for spec in self.exported.graph_signature.output_specs]
        given = zip(pytree.tree_leaves(answers), kinds, strict=True)
        told = [answer for answer, kind in given if kind is OutputKind.USER_OUTPUT]
        self._require_no_memory(told)
        tree = pytree.tree_unflatten(told, self.exported.call_spec.out_spec)
        named: dict[str, str] = {}
        for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
            if leaf is None:
                continue
            value = self.value_of[leaf.name] if isinstance(leaf, torch.fx.Node) else leaf
            name = ".".join(filter(None, [self.name, *map(_key, path)]))
            if not isinstance(value, Value) or value.name not in self.live:
                raise GraphError(f"{name}: an output that does not depend on the input is no answer; leave it out")
            if name in named or not all(map(_key, path)):
                raise GraphError(f"{name}: two outputs of this name, or one without a name; give each its own key")
            named[name] = value.name
        if not named:
            raise GraphError(f"{self.name}: the network returns no tensor")
        return named

    def _require_no_memory(self, answers: Iterable[Any]) -> None:
        """Refuse answers that depend on a buffer that the network writes to: a graph begins anew at every call."""
        signature = self.exported.graph_signature
        written = {spec.target for spec in signature.output_specs if spec.kind is OutputKind.BUFFER_MUTATION}
        buffers = {spec.arg.name: spec.target for spec in signature.input_specs if spec.target in written}
        waiting = [answer for answer in answers if isinstance(answer, torch.fx.Node)] if buffers else []
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            if node.name in buffers:
                raise GraphError(
                    f"{self.name}: answers depend on {buffers[node.name]!r}, which the network changes while it runs; "
                    f"a graph has no memory from call to call"
                )
            new = [read for read in node.all_input_nodes if read not in seen]
            seen.update(new)
            waiting.extend(new)


def _key(step: Any) -> str:
    for attribute in ("key", "idx", "name"):
        if hasattr(step, attribute):
            return str(getattr(step, attribute))
    return str(step)


def _attribute(module: nn.Module, path: str) -> Tensor:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        raise GraphError(
            f"{path} is a {type(found).__name__}: "
            f"control flow, and parts under an autocast of their own, cannot be captured"
        )
    return found


def digest(tensor: Tensor) -> str:
    """SHA-256 over dtype, shape and bytes: equal for equal tensors wherever they are stored."""
    dense = tensor.detach().cpu().contiguous()
    found = hashlib.sha256(f"{dense.dtype}{tuple(dense.shape)}".encode())
    found.update(dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b"")
    return found.hexdigest()


def operator_of(op: str) -> Any:
    """The torch operator of a node's ``op`` text, ``aten.conv2d.default``. Raises GraphError when there is none."""
    if op == "getitem":
        return operator.getitem
    namespace, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")
    except AttributeError:
        raise GraphError(
            f"no torch operator {op}; in-place operators need a functional form of the same name"
        ) from None


def is_random(node: Node) -> bool:
    """Whether a call gives something else each time: a generator, or a dropout that was written to drop always."""
    tags = () if node.op == "input" else getattr(operator_of(node.op), "tags", ())
    return node.kind in DROPOUTS or torch.Tag.nondeterministic_seeded in tags


def renamed(graph: Graph, names: Mapping[str, str]) -> Graph:
    """The same graph with nodes renamed (names not in ``names`` stay)."""

    def replace(leaf: Any) -> Any:
        return Value(names.get(leaf.name, leaf.name)) if isinstance(leaf, Value) else leaf

    nodes = tuple(
        Node(
            names.get(node.name, node.name),
            node.op,
            rewrite(node.args, replace),
            rewrite(node.kwargs, replace),
            node.shape,
            node.dtype,
            node.origin,
        )
        for node in graph.nodes
    )
    outputs = {answer: names.get(name, name) for answer, name in graph.outputs.items()}
    return Graph(nodes, tuple(names.get(name, name) for name in graph.inputs), outputs, graph.weights)
