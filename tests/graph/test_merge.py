"""Merging: equal computations become one, bit for bit; different ones stay apart, and the reason is the right one."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture
from sharedbb.graph.lower import run
from sharedbb.graph.merge import fold_batch_norms, merge

TRUNKS = {"mobilenet_v2": 1280, "resnet18": 512, "mobilenet_v3_small": 576, "shufflenet_v2_x1_0": 1024}


def _trunk(arch: str) -> nn.Module:
    torch.manual_seed(1)
    network = getattr(torchvision.models, arch)().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    if hasattr(network, "features"):
        return network.features
    return nn.Sequential(*[child for name, child in network.named_children() if name not in ("avgpool", "fc")])


def _with_heads(arch: str, count: int) -> dict[str, nn.Module]:
    trunk = _trunk(arch)
    return {
        f"net{i}": nn.Sequential(copy.deepcopy(trunk), nn.Conv2d(TRUNKS[arch], 3 + i, 1)).eval() for i in range(count)
    }


@pytest.fixture(scope="module")
def picture() -> Tensor:
    return torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("arch", "count"), [*((arch, 3) for arch in TRUNKS), ("mobilenet_v2", 6)])
def test_equal_trunks_become_one_and_answers_stay_bit_equal(arch: str, count: int, picture: Tensor) -> None:
    networks = _with_heads(arch, count)
    graphs = {name: capture(network, picture, name) for name, network in networks.items()}
    merged = merge(graphs)
    trunk = graphs["net0"].operators - 1
    assert merged.graph.operators == trunk + count
    assert merged.separate == count * (trunk + 1)
    answers = run(merged.graph, picture)
    with torch.no_grad():
        for name, network in networks.items():
            assert torch.equal(answers[name], network(picture))


def test_nothing_in_common_stays_apart(picture: Tensor) -> None:
    networks = {"a": torchvision.models.resnet18().eval(), "b": torchvision.models.mobilenet_v3_small().eval()}
    graphs = {name: capture(network, picture, name) for name, network in networks.items()}
    merged = merge(graphs)
    assert merged.graph.operators == merged.separate
    assert merged.networks["a"] & merged.networks["b"] == {"input"}
    answers = run(merged.graph, picture)
    with torch.no_grad():
        assert all(torch.equal(answers[name], network(picture)) for name, network in networks.items())
    assert "(16, 3, 3, 3)" in merged.partings[0].reason
    assert "(64, 3, 7, 7)" in merged.partings[0].reason


def test_folded_and_unfolded_batch_norms_meet(picture: Tensor) -> None:
    torch.manual_seed(2)
    convolution, norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    plain = nn.Sequential(convolution, norm, nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    folded = nn.Sequential(fuse_conv_bn_eval(plain[0], plain[1]), nn.ReLU(), copy.deepcopy(plain[3])).eval()
    for order in (("plain", "folded"), ("folded", "plain")):
        pair = {"plain": plain, "folded": folded}
        merged = merge({name: capture(pair[name], picture, name) for name in order})
        assert merged.graph.operators == (4 if order[0] == "plain" else 3)
        assert not merged.partings
        assert merged.graph.outputs["plain"] == merged.graph.outputs["folded"]


def test_one_changed_weight_parts_the_networks_there(picture: Tensor) -> None:
    networks = _with_heads("resnet18", 2)
    with torch.no_grad():
        networks["net1"][0][5][1].conv2.weight[0, 0, 0, 0] += 0.25  # layer2.1.conv2
    merged = merge({name: capture(network, picture, name) for name, network in networks.items()})
    (parting,) = merged.partings
    assert parting.network == "net1"
    assert parting.origin.startswith("net1/0.5.1")
    assert parting.other.startswith("net0/0.5.1")
    assert "up to 0.25" in parting.reason
    answers = run(merged.graph, picture)
    with torch.no_grad():
        assert all(torch.equal(answers[name], network(picture)) for name, network in networks.items())


class _Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.leaky_relu(x, self.factor) + 1


def test_a_different_argument_parts_and_is_named(picture: Tensor) -> None:
    merged = merge({"a": capture(_Scaled(0.1), picture, "a"), "b": capture(_Scaled(0.2), picture, "b")})
    assert "0.2" in merged.partings[0].reason
    assert "0.1" in merged.partings[0].reason
    assert merged.graph.operators == 4


def test_integers_and_floats_are_different_arguments(picture: Tensor) -> None:
    class Power(nn.Module):
        def __init__(self, exponent: float) -> None:
            super().__init__()
            self.exponent = exponent

        def forward(self, x: Tensor) -> Tensor:
            return x.int() * self.exponent

    merged = merge({"a": capture(Power(2), picture, "a"), "b": capture(Power(2.0), picture, "b")})
    answers = run(merged.graph, picture)
    assert answers["a"].dtype == torch.int32
    assert answers["b"].dtype == torch.float32


def test_zeros_of_both_signs_are_different_arguments(picture: Tensor) -> None:
    class Over(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return 1 / (x * 0.0), 1 / (x * -0.0)

    answers = run(merge({"a": capture(Over(), picture, "a")}).graph, picture)
    assert torch.equal(answers["a.0"], -answers["a.1"])


def test_inputs_must_agree() -> None:
    net = nn.Conv2d(3, 1, 1)
    one, other = capture(net, torch.rand(1, 3, 8, 8), "one"), capture(net, torch.rand(1, 3, 8, 16), "other")
    with pytest.raises(GraphError, match=r"one \(1, 3, 8, 8\).*other \(1, 3, 8, 16\)"):
        merge({"one": one, "other": other})
    with pytest.raises(GraphError, match="at least one"):
        merge({})


@pytest.mark.parametrize("arch", ["mobilenet_v2", "shufflenet_v2_x1_0"])
def test_folding_changes_only_rounding(arch: str, picture: Tensor) -> None:
    network = _trunk(arch).double()
    graph = capture(network, picture.double())
    folded = fold_batch_norms(graph)
    assert not any(node.kind == "batch_norm" for node in folded.nodes)
    expected, got = run(graph, picture.double())["net"], run(folded, picture.double())["net"]
    assert (expected - got).abs().max() <= 1e-10 * expected.abs().max().clamp(min=1e-6)


def test_a_norm_that_cannot_be_folded_stays(picture: Tensor) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.convolution(x)
            return self.norm(y) + y

    network = Twice().eval()
    folded = fold_batch_norms(capture(network, picture))
    assert [node.kind for node in folded.nodes] == ["input", "conv2d", "batch_norm", "add"]


class _Gelu(nn.Module):
    def __init__(self, approximate: str) -> None:
        super().__init__()
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.gelu(x, approximate=self.approximate)


def test_a_different_named_argument_is_named(picture: Tensor) -> None:
    merged = merge({"a": capture(_Gelu("none"), picture, "a"), "b": capture(_Gelu("tanh"), picture, "b")})
    assert merged.partings[0].reason == "gelu: argument approximate is 'tanh' against None"


def test_random_calls_are_never_one(picture: Tensor) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x + torch.randn(8), x + torch.randn(8)

    answers = run(merge({"a": capture(Noisy(), picture[..., :8], "a")}).graph, picture[..., :8])
    assert not torch.equal(answers["a.0"], answers["a.1"])


class _OwnNorm(nn.Module):
    """A convolution and a batch norm of which a part is computed: the scale, or the convolution's bias."""

    def __init__(self, scale: float, what: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.convolution, self.what = nn.Conv2d(3, 4, 3, padding=1), what
        self.scale, self.shift = nn.Parameter(torch.full((4,), scale)), nn.Parameter(torch.rand(4))
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, own = self.convolution.weight, self.convolution.bias, self.scale
        if self.what == "bias":
            y, scale = nn.functional.conv2d(x, weight, bias * own, padding=1), None
        else:
            y, scale = self.convolution(x), own.abs() + 1e-5
        return nn.functional.batch_norm(y, self.mean, self.variance, scale, self.shift, training=False)


@pytest.mark.parametrize("what", ["scale", "bias"])
def test_a_norm_of_which_a_part_is_computed_is_not_folded(what: str, picture: Tensor) -> None:
    networks = {"a": _OwnNorm(1.0, what).eval(), "b": _OwnNorm(3.0, what).eval()}
    graphs = {name: capture(network, picture, name) for name, network in networks.items()}
    merged = run(merge(graphs).graph, picture)
    with torch.no_grad():
        for name, network in networks.items():
            assert torch.equal(merged[name], network(picture))
            folded = run(fold_batch_norms(graphs[name]), picture)[name]
            assert torch.allclose(folded, network(picture), atol=1e-5)


def test_masks_that_are_written_over_stay_their_own(picture: Tensor) -> None:
    class Between(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = x > 0.2
            mask &= x < 0.6
            return mask.float()

    class Above(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            mask = x > 0.2
            return mask.float() * 2

    networks = {"between": Between(), "above": Above()}
    merged = run(merge({name: capture(one, picture, name) for name, one in networks.items()}).graph, picture)
    for name, network in networks.items():
        assert torch.equal(merged[name], network(picture))


@pytest.mark.parametrize("fill", ["uniform_", "exponential_"])
def test_every_draw_of_a_network_is_its_own(fill: str, picture: Tensor) -> None:
    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            one, other = (getattr(torch.empty_like(x), fill)() for _ in range(2))
            return (one - other).abs() + 0 * x

    assert float(run(merge({"draws": capture(Draws(), picture, "draws")}).graph, picture)["draws"].mean()) > 0.1
