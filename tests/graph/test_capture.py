"""Capturing: the graph computes what the module computes, bit for bit, whatever the module is written like."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture, digest, renamed
from sharedbb.graph.ir import Node, Value, leaves
from sharedbb.graph.lower import run, to_module
from sharedbb.registry import BACKBONE_NAMES


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("arch", BACKBONE_NAMES)
def test_zoo_computes_what_torchvision_computes(arch: str, picture: Tensor) -> None:
    torch.manual_seed(0)
    network = getattr(torchvision.models, arch)().eval()
    graph = capture(network, picture, arch)
    with torch.no_grad():
        assert torch.equal(run(graph, picture)[arch], network(picture))
    assert not any(node.kind.endswith("_") or node.kind in ("dropout", "contiguous") for node in graph.nodes)


def test_transformer_computes_the_same() -> None:
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64).eval()
    picture = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(run(capture(network, picture, "vit"), picture)["vit"], network(picture))


class _InPlace(nn.Module):
    """Writes over its own values, once through a view."""

    def __init__(self, through_view: bool) -> None:
        super().__init__()
        self.through_view = through_view
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(self.convolution(x))
        flat = y.view(-1)
        if self.through_view:
            y[:, 0] = 1.0
            y.relu_()
        else:
            y = y.relu_().add_(1)
        return y, flat * 2


@pytest.mark.parametrize("through_view", [False, True])
def test_in_place_operators(through_view: bool, picture: Tensor) -> None:
    network = _InPlace(through_view).eval()
    answers = run(capture(network, picture, "net"), picture)
    with torch.no_grad():
        expected = network(picture)
    assert list(answers) == ["net.0", "net.1"]
    assert torch.equal(answers["net.0"], expected[0])
    assert torch.equal(answers["net.1"], expected[1])


class _WritesTo(nn.Module):
    """Writes to what is not its own in a way of ``how``."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.convolution(x)
        if self.how == "targets":
            first, second = torch.empty_like(y), torch.empty_like(y)
            torch.add(y, 1.0, out=first)
            torch.mul(y, 2.0, out=second)
            return first, second
        if self.how == "turned":
            z = y.clone()
            z.transpose_(2, 3)
            return z + 1, y
        same = y.type_as(x) if self.how == "type_as" else torch.einsum("abcd->abdc", y)
        same += 1
        return same, y


@pytest.mark.parametrize("how", ["targets", "turned", "type_as"])
def test_operators_that_write_to_what_is_not_their_own(how: str, picture: Tensor) -> None:
    network = _WritesTo(how).eval()
    answers = run(capture(network, picture, "net"), picture)
    with torch.no_grad():
        for number, expected in enumerate(network(picture)):
            assert torch.equal(answers[f"net.{number}"], expected)


def test_writing_to_a_view_that_torch_does_not_know_is_refused(picture: Tensor) -> None:
    with pytest.raises(GraphError, match=r"add_ writes to what may be a view; write to a clone\(\) of it"):
        capture(_WritesTo("einsum"), picture)


class _Placed(nn.Module):
    """Names the device that it happens to run on, as a lot of code does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return (
            y
            + (y > 0).to(x)
            + y.to(x.device)
            + y.to(x.device, torch.float64)
            + torch.full_like(y, 2.0, device=y.device)
            + y.new_ones(y.shape, device=y.device)
        )


def test_a_graph_has_no_device(picture: Tensor) -> None:
    network = _Placed().eval()
    graph = capture(network, picture, "net")
    with torch.no_grad():
        assert torch.equal(run(graph, picture)["net"], network(picture))
        assert to_module(graph).to("meta")(picture.to("meta"))["net"].shape == (1, 4, 62, 94)


class _Nest(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"a": x + 1, "b": [x * 2, (x * 3, None)]}


def test_output_names_follow_the_nest(picture: Tensor) -> None:
    assert list(capture(_Nest(), picture, "n").outputs) == ["n.a", "n.b.0", "n.b.1.0"]
    assert list(capture(_Nest(), picture, "").outputs) == ["a", "b.0", "b.1.0"]


def test_training_mode_is_given_back(picture: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5))
    graph = capture(network.train(), picture)
    assert network.training
    assert [node.kind for node in graph.nodes] == ["input", "conv2d"]


class _DependsOnData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class _Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ones(3)


@pytest.mark.parametrize("module", [_DependsOnData(), _Constant()])
def test_what_cannot_be_followed_is_said(module: nn.Module, picture: Tensor) -> None:
    with pytest.raises(GraphError, match="bad"):
        capture(module, picture, "bad")


def test_digest_is_of_content_not_of_memory() -> None:
    base = torch.arange(24.0).reshape(4, 6)
    assert digest(base.t()) == digest(base.t().contiguous())
    assert digest(base) != digest(base.reshape(6, 4))
    assert digest(base) != digest(base.double())
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
    assert digest(torch.ones(2, dtype=torch.bfloat16)) == digest(torch.ones(2, dtype=torch.bfloat16))


def test_renamed_graph_computes_the_same(picture: Tensor) -> None:
    graph = capture(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), picture)
    other = renamed(graph, {node.name: f"x_{node.name}" for node in graph.nodes if node.op != "input"})
    assert torch.equal(run(other, picture)["net"], run(graph, picture)["net"])


def test_nodes_know_what_they_read() -> None:
    node = Node("a", "aten.cat.default", ((Value("x"), Value("y"), Value("x")), 1))
    assert node.values == ("x", "y", "x")
    assert node.kind == "cat"
    assert list(leaves((1, (2, (3,)), ()))) == [1, 2, 3]


def test_every_part_keeps_its_own_mode(picture: Tensor) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    network[1].eval()  # a frozen norm inside of a network in training
    capture(network, picture)
    assert [part.training for part in network.modules()] == [True, True, False]


def test_training_on_does_not_change_what_was_captured(picture: Tensor) -> None:
    network = nn.Conv2d(3, 4, 1)
    graph = capture(network, picture)
    before = run(graph, picture)["net"]
    with torch.no_grad():
        network.weight.add_(1)
    assert torch.equal(run(graph, picture)["net"], before)


class _Written(nn.Module):
    """Writes to memory that is read again under another name."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("counter", torch.zeros(1))
        self.register_buffer("zero", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = x * 1
        if self.how == "counter":
            self.counter += 1  # nothing reads it; `zero` has the same content
            return y + self.zero
        if self.how == "same dtype":
            y.to(torch.float32).add_(1)
            return y
        if self.how == "copy":
            y.permute(0, 2, 3, 1).contiguous().add_(1)
            return y
        if self.how == "clone":
            y.clone().add_(1)
            return y * 2
        z = y.view(-1).view(3, -1)
        z = nn.functional.dropout(z, 0.5, training=False) if self.how == "inactive dropout" else z
        z.add_(1)
        return y


OLD = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 12)


@pytest.mark.parametrize(
    "how",
    [
        *("counter", "same dtype", "copy", "clone", "view of a view"),
        pytest.param(
            "inactive dropout",
            marks=pytest.mark.skipif(
                OLD, reason="torch 2.11's own functional form takes an inactive dropout for a copy"
            ),
        ),
    ],
)
def test_writing_is_seen_where_the_memory_is_read(how: str, picture: Tensor) -> None:
    network = _Written(how).eval()
    with torch.no_grad():
        assert torch.equal(run(capture(network, picture), picture)["net"], network(picture))


class _Remembers(nn.Module):
    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.register_buffer("mean", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.in_place:
            self.mean.add_(x.mean())
        else:
            self.mean.copy_(0.9 * self.mean + x.mean())
        return x - self.mean


@pytest.mark.parametrize("in_place", [False, True])
def test_a_network_that_remembers_is_refused(in_place: bool, picture: Tensor) -> None:
    with pytest.raises(GraphError, match="odd: answers depend on 'mean', which the network changes"):
        capture(_Remembers(in_place).eval(), picture, "odd")


def test_a_dropout_that_always_drops_stays(picture: Tensor) -> None:
    class Always(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5)

    graph = capture(Always().eval(), picture)
    assert [node.kind for node in graph.nodes] == ["input", "dropout"]
    assert not torch.equal(run(graph, picture)["net"], run(graph, picture)["net"])


class _Selects(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0.5]


class _SameNames(nn.Module):
    def forward(self, x: Tensor) -> dict[str, object]:
        return {"a.b": x + 1, "a": {"b": x + 2}}


class _NoName(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"": x + 1}


@pytest.mark.parametrize(
    ("module", "example", "said"),
    [
        (_Selects(), torch.rand(1, 3, 8, 8), "bad: how much aten.index.Tensor gives depends on the data"),
        (_SameNames(), torch.rand(1, 3, 8, 8), r"bad.a.b: two outputs of this name"),
        (_NoName(), torch.rand(1, 3, 8, 8), "one without a name"),
        (lambda x: x, torch.rand(1, 3, 8, 8), "bad: a network is a torch.nn.Module, got a function"),
        (nn.Identity(), None, "bad: the example is the one tensor that the network reads, got NoneType"),
    ],
)
def test_what_cannot_be_captured_is_said(
    module: nn.Module, example: Tensor, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(GraphError, match=said):
        capture(module, example, "bad")
    assert capsys.readouterr().err == ""


def test_nothing_but_the_error_is_said(picture: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(GraphError):
        capture(_DependsOnData(), picture)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("how", ["as_strided", "view_as_complex", "view"])
def test_what_reads_the_memory_itself_is_refused(how: str, picture: Tensor) -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            last = x[:, :2].permute(0, 2, 3, 1).contiguous()
            if how == "as_strided":
                return last.as_strided((1, 64, 96), (64 * 96 * 2, 96 * 2, 2)) * 1.0
            return torch.view_as_complex(last).real if how == "view_as_complex" else last.view(torch.int32) * 1.0

    with pytest.raises(GraphError, match="depends on how a tensor lies in memory; use reshape"):
        capture(Reads(), picture, "reads")
