"""The two-branch backbone against the plain one on the picture at half size, and what the details add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import sharedbb as sb
from sharedbb import artifact
from sharedbb.compiler import build_network
from sharedbb.errors import GraphError, WeightsError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import cut
from sharedbb.graph.ir import Graph
from sharedbb.graph.merge import merge
from sharedbb.graph.reach import Reach, reach
from sharedbb.nets import Backbone, build
from sharedbb.nets.two_branch import STRIDES, TwoBranch, haar, two_branch
from sharedbb.registry import BACKBONE_NAMES, BACKBONES, resolve

NEW = ("details.", "inject.", "laterals.")


def image(height: int = 64, width: int = 96, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def shaken(network: nn.Module, names: tuple[str, ...] = ("",)) -> Any:
    """Norms with statistics and scales of their own, where a weight's name begins with one of ``names``."""
    generator = torch.Generator().manual_seed(5)
    for name, value in network.state_dict().items():
        if name.startswith(names) and name.endswith("running_mean"):
            value.normal_(0, 0.1, generator=generator)
        elif name.startswith(names) and (name.endswith("running_var") or (value.ndim == 1 and "weight" in name)):
            value.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def plain_backbone(arch: str) -> Backbone:
    backbone: Backbone = shaken(resolve(BACKBONES[arch].build)())
    return backbone


def chain(backbone: Backbone, picture: Tensor) -> dict[int, Tensor]:
    """The tapped maps of a picture of any size."""
    maps: dict[int, Tensor] = {}
    for step in backbone.steps:
        picture = backbone.get_submodule(step)(picture)
        maps[backbone.tapped.get(step, 0)] = picture
    return maps


def small_backbone() -> Backbone:
    """One convolution a stride, so that training it takes no time."""
    widths = (3, 8, 12, 16, 20, 24)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layers = {
            f"conv{at}": nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())
            for at, (a, b) in enumerate(pairwise(widths))
        }
        network = nn.ModuleDict(layers)
    return Backbone(network, tuple(layers), {2**at: (f"conv{at - 1}", widths[at]) for at in (2, 3, 4, 5)})


@pytest.fixture
def small() -> Iterator[None]:
    """The small backbone under the name ``small``."""
    sb.register_backbone("small", lambda weights: small_backbone())
    yield
    BACKBONES.unregister("small")


@pytest.fixture
def halved(street: Any) -> Any:
    """A pipeline of four heads on a two-branch backbone."""
    backbone = SimpleNamespace(arch="mobilenet_v3_small", weights=None, decomposition="two_branch")
    return SimpleNamespace(backbone=backbone, neck=street.neck, heads=street.heads)


class Taps(nn.Module):
    """A backbone whose features are answers, for capture."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {f"at{stride}": value for stride, value in self.backbone(x).items()}


def captured(name: str) -> Graph:
    return capture(Taps(two_branch(lambda weights: small_backbone())), image(), name)


def test_the_analysis_is_orthonormal_up_to_the_mean() -> None:
    low, high = haar()
    picture = image()
    torch.testing.assert_close(F.conv2d(picture, low, stride=2), F.avg_pool2d(picture, 2))
    basis = torch.cat([2 * low, high]).reshape(12, 12)
    torch.testing.assert_close(basis @ basis.T, torch.eye(12), rtol=0, atol=0)
    rows = torch.tensor([1.0, -1.0])[:, None].expand(2, 2)
    only_rows = F.conv2d(rows[None, None].expand(1, 3, 2, 2), high, stride=2).flatten()
    assert only_rows.tolist() == [2, 0, 0] * 3


@pytest.mark.parametrize("arch", BACKBONE_NAMES)
def test_untrained_it_answers_what_the_plain_one_answers_on_the_picture_at_half_size(arch: str) -> None:
    plain = plain_backbone(arch)
    network = shaken(TwoBranch(plain), ("details.",))
    picture = image(64, 96)  # 96 is an odd multiple of 32
    with torch.no_grad():
        features, expected = network(picture), chain(plain, F.avg_pool2d(picture, 2))
    assert network.channels == plain.channels
    assert tuple(features) == STRIDES
    for stride, value in features.items():
        raised = expected[stride].repeat_interleave(2, 2).repeat_interleave(2, 3)
        height, width = 64 // stride, 96 // stride
        raised = F.pad(raised, (0, max(width - raised.shape[3], 0)))[:, :, :height, :width]
        torch.testing.assert_close(value, raised, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("arch", ["mobilenet_v2", "resnet18", "convnext_tiny"])
def test_the_plain_backbone_is_left_as_it_is(arch: str) -> None:
    plain = plain_backbone(arch)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    network = TwoBranch(plain)
    with torch.no_grad():
        for weight in network.parameters():
            weight.fill_(1)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert {name for name in network.state_dict() if not name.startswith(NEW)} == set(before)


@pytest.mark.parametrize(("arch", "ratio"), [("mobilenet_v2", 3.4), ("shufflenet_v2_x1_0", 2.2), ("resnet50", 2.9)])
def test_it_takes_a_fraction_of_the_multiply_adds(arch: str, ratio: float) -> None:
    plain = plain_backbone(arch)
    counts = []
    for backbone in (plain, TwoBranch(plain).eval()):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone(image(64, 128))
        counts.append(counter.get_total_flops())
    assert counts[0] > ratio * counts[1]


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "convnext_tiny"])
def test_every_weight_serves_a_tap_once_details_are_let_in(arch: str) -> None:
    network = shaken(TwoBranch(plain_backbone(arch)), NEW).train()
    torch.manual_seed(0)  # stochastic depth draws from the global generator
    torch.stack([value.square().mean() for value in network(image(64, 64, batch=2)).values()]).sum().backward()
    assert not [name for name, weight in network.named_parameters() if weight.grad is None]
    assert all(weight.grad.abs().max() > 0 for name, weight in network.named_parameters() if name.startswith(NEW))


def test_it_is_the_same_each_time_and_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first, second = (two_branch(lambda weights: small_backbone()).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


class TestWeights:
    def test_a_plain_file_fills_the_trunk_and_one_of_its_own_all(self, tmp_path: Path) -> None:
        builder = resolve(BACKBONES["mobilenet_v3_small"].build)
        plain = plain_backbone("mobilenet_v3_small").state_dict()
        torch.save(plain, tmp_path / "plain.pth")
        loaded = two_branch(builder, str(tmp_path / "plain.pth")).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in plain.items())
        fresh = two_branch(builder).state_dict()
        assert all(torch.equal(value, fresh[name]) for name, value in loaded.items() if name.startswith(NEW))

        own = {name: torch.full_like(value, 2) for name, value in loaded.items()}
        save_file(own, tmp_path / "own.safetensors")
        again = two_branch(builder, str(tmp_path / "own.safetensors")).state_dict()
        assert all(torch.equal(again[name], value) for name, value in own.items())

        del own["laterals.8.0.weight"]
        save_file(own, tmp_path / "part.safetensors")
        with pytest.raises(WeightsError, match=r"lack 'laterals\.8\.0\.weight'"):
            two_branch(builder, str(tmp_path / "part.safetensors"))

    def test_a_whole_plain_network_s_weights_are_where_training_starts(self, halved: Any, street: Any) -> None:
        street.backbone.arch = halved.backbone.arch
        state = {name: torch.full_like(value, 2) for name, value in build(street).state_dict().items()}
        loaded, fresh = build(halved, state=state).state_dict(), build(halved).state_dict()
        assert set(loaded) > set(state)
        assert all(torch.equal(value, state.get(name, fresh[name])) for name, value in loaded.items())
        with pytest.raises(WeightsError, match=r"hold 'heads\.old\.bias'"):
            build(halved, state={**state, "heads.old.bias": torch.zeros(1)})

    def test_an_artifact_round_trip_answers_the_same(self, halved: Any, tmp_path: Path) -> None:
        network = shaken(build(halved), tuple(f"backbone.{name}" for name in NEW))
        classes = {name: artifact.class_names(head) for name, head in halved.heads.items()}
        heads = {name: vars(head) for name, head in halved.heads.items()}
        manifest = artifact.Manifest("network", {"heads": heads}, classes, {})
        artifact.save(tmp_path / "net.sbb", manifest, network.state_dict())
        again = build(halved).eval()
        artifact.load_weights(again, artifact.load(tmp_path / "net.sbb"), halved.heads)
        with torch.no_grad():
            expected, answers = network(image()), again(image())
        assert all(torch.equal(answers[name], value) for name, value in expected.items())


class Other(nn.Module):
    """A backbone of somebody else."""


def test_what_cannot_be_decomposed_is_said(street: Any) -> None:
    with pytest.raises(GraphError, match=r"needs a sharedbb\.nets\.Backbone.*got a Other; leave it at none"):
        two_branch(lambda weights: Other())
    shallow = Backbone(nn.ModuleDict({"a": nn.Conv2d(3, 4, 4, 4)}), ["a"], {4: ("a", 4)})
    with pytest.raises(GraphError, match=r"taps at the strides 4, 8, 16 and 32, got \[4\]; leave it at none"):
        two_branch(lambda weights: shallow)
    street.backbone.decomposition = "three"
    with pytest.raises(GraphError, match=r"no decomposition named 'three' \(known: none, two_branch\)"):
        build(street)
    with pytest.raises(GraphError, match="multiples of 32"):
        TwoBranch(small_backbone())(image(48, 64))


class TestGraph:
    def test_every_map_is_local_and_one_map_carries_all_on_between_stages(self, halved: Any) -> None:
        halved.backbone.arch = "resnet18"
        graph = capture(build(halved).eval(), image(64, 128), "")
        parts = cut(graph)
        trunk = [segment for segment in parts.segments if segment.name.startswith("trunk")]
        assert [segment.stride for segment in trunk][:4] == [4, 8, 16, 32]
        assert all(len(segment.outputs) == 1 for segment in trunk[:4])
        assert trunk[0].inputs == ("input",)
        found = reach(graph)
        features = {graph.outputs[name] for name in ("surface.logits", "edges.logits")}
        assert all(isinstance(found[name], Reach) for name in features)
        for stride, segment in zip((4, 8, 16, 32), trunk[:4], strict=True):
            own = reach(segment.graph, segment.inputs[-1])[segment.outputs[0]]
            assert isinstance(own, Reach)
            assert own.y.stride == (4 if stride == 4 else 2)

    def test_equal_backbones_merge_into_one(self) -> None:
        graphs = {name: captured(name) for name in ("a", "b")}
        assert len(merge(graphs).graph.nodes) == len(graphs["a"].nodes)

    @pytest.mark.parametrize("backend", ["eager", "openvino"])
    def test_compiled_it_answers_what_the_network_answers(
        self, backend: str, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SHAREDBB_CACHE", str(tmp_path))
        pipeline = sb.Pipeline.model_validate(
            {
                "name": "halved",
                "input": {"size": [64, 96], "normalize": "unit"},
                "backbone": {"arch": "small", "decomposition": "two_branch"},
                "heads": {
                    "surface": {"type": "segmentation", "taps": [4, 8, 16, 32], "classes": ["a", "b"], "channels": 8}
                },
                "runtime": {"device": "cpu", "backend": backend, "precision": "f32"},
            }
        )
        picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        result = sb.compile(pipeline).step(picture, order="rgb")
        with torch.no_grad():
            expected = build_network(pipeline)(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255)
        surface = expected["surface.logits"][0].permute(1, 2, 0).numpy()
        assert np.allclose(result["surface"].logits, surface, atol=1e-4)


def trained(network: nn.Module, loss: Callable[[], Tensor], steps: int) -> list[float]:
    optimizer = torch.optim.Adam([weight for weight in network.parameters() if weight.requires_grad], 0.02)
    told = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        told.append(value.item())
    return told


def test_it_learns_the_plain_network_s_features() -> None:
    teacher = shaken(small_backbone())
    student = TwoBranch(teacher)
    pictures = image(16, 16, batch=8).repeat_interleave(4, 2).repeat_interleave(4, 3).roll((1, 1), (2, 3))
    with torch.no_grad():
        wanted = teacher(pictures)

    def loss() -> Tensor:
        features = student(pictures)
        errors = [F.mse_loss(features[stride], wanted[stride]) / wanted[stride].var() for stride in STRIDES]
        return torch.stack(errors).mean()

    told = trained(student, loss, 40)
    assert told[-1] < 0.5 * told[0]


@pytest.mark.parametrize("details", [True, False])
def test_a_checkerboard_that_the_low_band_cannot_see_is_seen_through_the_details(details: bool) -> None:
    where = (torch.rand(8, 1, 16, 16, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(32, 32)
    pictures = (where.repeat_interleave(4, 2).repeat_interleave(4, 3) * signs).expand(-1, 3, -1, -1)
    low, _ = haar()
    assert F.conv2d(pictures, low, stride=2).abs().max() == 0
    backbone = TwoBranch(small_backbone())
    if not details:
        for weight in backbone.inject.parameters():
            weight.requires_grad_(False)
    head = nn.Conv2d(backbone.channels[4], 1, 1)

    def loss() -> Tensor:
        return F.binary_cross_entropy_with_logits(head(backbone(pictures)[4]), where)

    told = trained(nn.ModuleList([backbone, head]), loss, 40)
    assert told[-1] < 0.1 if details else told[-1] > 0.6
