"""Branches: the same answers as without them until they are trained, and then a trunk of their own behind the stem."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharedbb.errors import GraphError, WeightsError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import cut
from sharedbb.graph.merge import prune
from sharedbb.nets import build
from sharedbb.nets.branches import Branch
from sharedbb.nets.structure import apply, differences

PICTURE = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def small(street: Any) -> Any:
    """The street's heads on a small backbone without a neck."""
    street.backbone.arch, street.neck = "mobilenet_v3_small", None
    return street


def _branched(street: Any, **branches: tuple[int | str, tuple[str, ...]]) -> Any:
    street.branches = {name: SimpleNamespace(after=after, heads=heads) for name, (after, heads) in branches.items()}
    return build(street).eval()


@torch.no_grad()
def _answers(network: nn.Module) -> dict[str, Tensor]:
    answers: dict[str, Tensor] = network(PICTURE)
    return answers


def _changed(network: nn.Module, part: str) -> set[str]:
    """The heads that answer otherwise once all weights under ``part`` are changed."""
    before = _answers(network)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name.startswith(part):
                weight.mul_(1.5)
    after = _answers(network)
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize("after", [0, 4, "features.5", 16])
def test_a_new_branch_answers_as_the_trunk_does(street: Any, neck: bool, after: int | str) -> None:
    street.backbone.arch = "mobilenet_v3_small"
    street.neck = street.neck if neck else None
    plain = _answers(build(street).eval())
    branched = _answers(_branched(street, objects=(after, ("objects", "scene"))))
    assert plain.keys() == branched.keys()
    assert all(torch.equal(value, branched[name]) for name, value in plain.items())


def test_what_a_head_reads_is_its_own_behind_the_stem_and_shared_before_it(small: Any) -> None:
    branches: dict[str, tuple[int | str, tuple[str, ...]]] = {
        "far": ("features.5", ("scene",)),
        "near": (4, ("objects",)),
    }
    assert _changed(_branched(small, **branches), "branches.far.") == {"scene"}
    assert _changed(_branched(small, **branches), "branches.near.") == {"objects"}
    assert _changed(_branched(small, **branches), "backbone.features.6.") == {"surface"}
    assert _changed(_branched(small, **branches), "backbone.features.5.") == {"surface", "scene"}
    assert _changed(_branched(small, **branches), "backbone.features.0.") == {"surface", "objects", "edges", "scene"}


def test_the_neck_is_there_once_more(street: Any) -> None:
    street.backbone.arch = "mobilenet_v3_small"
    network = _branched(street, scene=(32, ("scene",)))
    assert {name.split(".")[2] for name in network.state_dict() if name.startswith("branches.scene.")} == {"neck"}
    assert _changed(network, "branches.scene.neck.") == {"scene"}
    assert _changed(network, "neck.") == {"surface", "objects", "edges"}


def test_one_graph_computes_the_stem_once(small: Any) -> None:
    small.backbone.arch, small.heads = "resnet18", {"scene": small.heads["scene"], "edges": small.heads["edges"]}
    network = _branched(small, scene=(4, ("scene",)))
    graph = prune(capture(network, PICTURE, ""))
    rooms = Counter(node.origin.partition(".")[0] for node in graph.nodes if node.kind == "conv2d")
    heads = sum(isinstance(module, nn.Conv2d) for module in network.heads.modules())
    assert rooms == {"backbone": 5, "branches": 15, "heads": heads}
    segments = {segment.name: (segment.heads, segment.stride) for segment in cut(graph).segments}
    assert segments["trunk/4"] == ({"scene", "edges"}, 4)
    assert segments["scene/8"] == ({"scene"}, 8)


def test_a_branch_keeps_no_steps_that_nobody_reads(small: Any) -> None:
    network = _branched(small, surface=(4, ("surface",)))
    assert [*network.branches["surface"].backbone.steps] == [f"features.{at}" for at in range(2, 9)]
    assert {name.split(".")[0] for name in network.state_dict()} == {"backbone", "branches", "heads"}


def test_training_leaves_the_trunk_to_the_others(small: Any) -> None:
    network = _branched(small, scene=(16, ("scene",)))
    answers = network(PICTURE)
    answers["scene.logits"].sum().backward()
    moved = {name for name, weight in network.named_parameters() if weight.grad is not None}
    assert any(name.startswith("branches.scene.backbone.features.11.") for name in moved)
    assert any(name.startswith("backbone.features.8.") for name in moved)
    assert not any(name.startswith("backbone.features.9.") for name in moved)


def test_weights_without_branches_fill_both_and_weights_with_them_fill_each(small: Any) -> None:
    plain = {name: torch.full_like(value, 2) for name, value in build(small).state_dict().items()}
    small.branches = {"scene": SimpleNamespace(after=16, heads=("scene",))}
    begun = build(small, state=plain).state_dict()
    assert all(bool((value == 2).all()) for value in begun.values())
    name = next(name for name in begun if name.startswith("branches.scene."))
    assert build(small, state={**begun, name: begun[name] + 1}).state_dict()[name].flatten()[0] == 3
    del begun[name]
    with pytest.raises(WeightsError, match=rf"lack '{name}'"):
        build(small, state=begun)


def test_narrowed_layers_of_a_branch_are_told_and_made_again(small: Any) -> None:
    network = _branched(small, scene=(16, ("scene",)))
    path = "branches.scene.backbone.features.11.block.0.0"
    network.set_submodule(path, nn.Conv2d(96, 576, 1, groups=2, bias=False))
    edits = differences(build(small), network)
    assert {*edits} == {path}
    state = network.state_dict()
    again = build(small)
    apply(again, edits, {name: tuple(value.shape) for name, value in state.items()})
    again.load_state_dict(state)
    assert torch.equal(_answers(again.eval())["scene.logits"], _answers(network)["scene.logits"])


def test_heads_that_are_left_out_are_left_out_of_branches(small: Any) -> None:
    del small.heads["scene"]
    network = _branched(small, scene=(8, ("scene",)), objects=(8, ("objects", "scene")))
    assert [*network.branches] == ["objects"]
    assert network.branches["objects"].heads == ("objects",)


def _refused(street: Any, **branches: tuple[int | str, Iterable[str]]) -> str:
    with pytest.raises(GraphError) as raised:
        _branched(street, **{name: (after, tuple(heads)) for name, (after, heads) in branches.items()})
    return str(raised.value)


def test_places_that_do_not_exist_are_named(small: Any) -> None:
    assert (
        "cannot begin after 'features.99'; the strides and steps of the trunk are 4, 8, 16, 32, features.0"
        in _refused(small, scene=("features.99", ["scene"]))
    )
    assert "after features.8 has nothing of its own: surface tap nothing behind it" in _refused(
        small, surface=("features.8", ["surface"])
    )
    small.backbone.decomposition = "two_branch"
    assert "plain chain of steps, got a TwoBranch" in _refused(small, scene=(16, ["scene"]))


def test_a_backbone_of_one_s_own_is_no_chain(small: Any) -> None:
    with pytest.raises(GraphError, match="plain chain of steps, got a Identity"):
        Branch(nn.Identity(), None, 4, {"scene": (8,)})
