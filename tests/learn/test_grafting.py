"""Specialists on another trunk: nothing is lost where they share what is equal, and every part costs what it should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharedbb.errors import ArtifactError, CompressionError
from sharedbb.learn.grafting import (
    ALL,
    Depth,
    Prices,
    Specialist,
    freeze,
    graft,
    has_own_part,
    joined,
    specialist,
    stem,
    still,
)
from sharedbb.learn.network import Network
from sharedbb.spec import dump, loads

pytestmark = pytest.mark.usefixtures("chain")

PIPELINE = """\
name: street
input: {size: [64, 96], normalize: unit}
backbone: {arch: chain}
heads:
  near: {type: depth, taps: [4, 16], channels: 8}
  scene: {type: tags, taps: [32], labels: [day, night]}
  far: {type: depth, taps: [8, 32], channels: 8}
"""

NECK = "neck: {channels: 8, strides: [4, 8, 16, 32]}\n"


def network(seed: int | None = None, changed: Sequence[str] = ("",), text: str = PIPELINE) -> Network:
    """A network whose weights under ``changed`` are its own by the seed; norms have statistics of their own, too."""
    made = Network.of(loads(text))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, value in made.module.state_dict().items():
                if value.is_floating_point() and name.startswith(tuple(changed)):
                    value.add_(0.1 * torch.rand(value.shape, generator=generator))
    return made


PICTURE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def answers(made: Network) -> dict[str, Tensor]:
    found: dict[str, Tensor] = made.module(PICTURE)
    return found


def test_a_graft_has_the_stem_of_the_trunk_and_the_rest_of_its_specialist() -> None:
    trunk, own = network(1), network(2)
    made = graft(trunk, Specialist("s", own, ("near",)), 8).network
    for name, value in made.module.state_dict().items():
        shared = name.startswith(("backbone.first.", "backbone.second.", "backbone.third."))
        assert torch.equal(value, (trunk if shared else own).module.state_dict()[name]), name
    assert [*made.pipeline.heads] == ["near"]
    assert {name.split(".")[1] for name in made.module.state_dict() if name.startswith("heads.")} == {"near"}


@pytest.mark.parametrize("text", [PIPELINE, PIPELINE.replace("heads:", NECK + "heads:")], ids=["plain", "neck"])
@pytest.mark.parametrize("after", [4, 8, "fourth"])
def test_sharing_what_is_equal_loses_nothing(text: str, after: Depth) -> None:
    trunk = network(1, text=text)
    beyond = [f"backbone.{step}" for step in ("first", "second", "third", "fourth", "last")]
    beyond = [path for path in beyond if path not in stem(trunk, after)]
    own = Network(trunk.pipeline, trunk.copy())
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, value in own.module.state_dict().items():
            if value.is_floating_point() and name.startswith((*beyond, "neck", "heads")):
                value.add_(0.1 * torch.rand(value.shape, generator=generator))
    shared = joined(trunk, [graft(trunk, Specialist("s", own, ("near", "scene")), after)])
    found, alone, before = answers(shared), answers(own), answers(trunk)
    assert torch.equal(found["near.depth"], alone["near.depth"])
    assert torch.equal(found["scene.logits"], alone["scene.logits"])
    assert torch.equal(found["far.depth"], before["far.depth"])
    assert not torch.equal(found["near.depth"], before["near.depth"])


@pytest.mark.parametrize("text", [PIPELINE, PIPELINE.replace("heads:", NECK + "heads:")], ids=["plain", "neck"])
@pytest.mark.parametrize("owners", [("near", "scene"), ("near", "scene", "far")], ids=["some", "all"])
@pytest.mark.parametrize("depths", [(0, 0, 0), (8, 4, 16), ("first", 16, 32), (32, ALL, 8), (ALL, ALL, ALL)])
def test_many_grafts_answer_as_each_alone(text: str, owners: tuple[str, ...], depths: tuple[Depth, ...]) -> None:
    trunk = network(1, text=text)
    specialists = [Specialist(head, network(seed, text=text), (head,)) for seed, head in enumerate(owners, 2)]
    at = dict(zip(owners, depths, strict=False))
    grafts = [graft(trunk, one, at[one.name]) for one in specialists]
    made = joined(trunk, grafts)
    found = answers(made)
    for one in grafts:
        assert all(torch.equal(value, found[name]) for name, value in answers(one.network).items())
    if "far" not in owners:
        assert torch.equal(found["far.depth"], answers(trunk)["far.depth"])
    assert loads(dump(made.pipeline)) == made.pipeline


@pytest.mark.parametrize("text", [PIPELINE, PIPELINE.replace("heads:", NECK + "heads:")], ids=["plain", "neck"])
def test_what_grafts_cost_together_is_known_before(text: str) -> None:
    trunk = network(1, text=text)
    specialists = [Specialist(head, network(seed, text=text), (head,)) for seed, head in enumerate(("near", "far"))]
    prices = Prices.of(trunk, specialists)
    for depths in (("first", 16), (ALL, 8)):
        at = dict(zip(("near", "far"), depths, strict=True))
        assert prices.together(at) == joined(trunk, [graft(trunk, one, at[one.name]) for one in specialists]).macs


def test_what_nobody_reads_is_not_kept() -> None:
    trunk = network(1)
    seeds = {"near": 2, "scene": 3, "far": 4}
    made = joined(trunk, [graft(trunk, Specialist(head, network(seed), (head,)), 8) for head, seed in seeds.items()])
    assert {name: branch.after for name, branch in made.pipeline.branches.items()} == {"near": 8, "far": 8}
    graph = made.graph()
    weights = sum(weight.numel() for weight in graph.weights.values())
    assert weights == sum(value.numel() for value in made.module.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("heads", "after", "own"),
    [(("near",), 16, False), (("near",), 8, True), (("near", "scene"), 16, True), (("near",), ALL, False)],
)
def test_a_branch_is_for_what_heads_read(heads: tuple[str, ...], after: Depth, own: bool) -> None:
    assert has_own_part(network(), heads, after) is own


def test_a_joined_network_is_stored_and_read_again(tmp_path: Path) -> None:
    trunk = network(1)
    narrow = network(2)
    narrow.module.set_submodule("backbone.last", nn.Sequential(nn.Conv2d(16, 10, 1), nn.Conv2d(10, 20, 3, 2, 1)))
    made = joined(trunk, [graft(trunk, Specialist("s", narrow, ("scene",)), 16)])
    made.save(tmp_path / "first.sbb")
    again = Network.of(tmp_path / "first.sbb")
    assert again.pipeline == made.pipeline
    again.save(tmp_path / "second.sbb")
    assert (tmp_path / "first.sbb").read_bytes() == (tmp_path / "second.sbb").read_bytes()
    weights = again.pipeline.backbone.model_copy(update={"weights": "first.sbb"})
    (tmp_path / "p.yaml").write_text(dump(again.pipeline.model_copy(update={"backbone": weights})))
    assert all(
        torch.equal(value, answers(again)[name]) for name, value in answers(Network.of(tmp_path / "p.yaml")).items()
    )
    torch.testing.assert_close(answers(again)["scene.logits"], answers(made)["scene.logits"], rtol=0.02, atol=0.02)


def test_what_is_frozen_and_still_does_not_move() -> None:
    trunk = network(1)
    module, paths = trunk.copy().train(), stem(trunk, 8)
    freeze(module, paths)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with still(module, paths):
        assert not module.get_submodule("backbone.first").training
        module(PICTURE)["near.depth"].sum().backward()
    assert all(module.get_submodule(path).training for path in paths)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith(("backbone.fourth.", "backbone.last.", "heads.")) for name in moved)
    learning = {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert learning
    assert not any(name.startswith(paths) for name in learning)


def test_stems_go_from_nothing_to_everything() -> None:
    trunk = network(text=PIPELINE.replace("heads:", NECK + "heads:"))
    assert stem(trunk, 0) == ()
    assert stem(trunk, "first") == ("backbone.first",)
    assert stem(trunk, 4) == stem(trunk, "second") == ("backbone.first", "backbone.second")
    assert stem(trunk, ALL) == (*stem(trunk, 32), "neck")
    with pytest.raises(CompressionError, match=r"street cannot share up to 64: .* 4, 8, 16, 32, first, second"):
        stem(trunk, 64)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arch: chain", "arch: resnet18", "s has another backbone than street: resnet18 for chain"),
        ("heads:", NECK + "heads:", "s has another neck than street"),
        ("normalize: unit", "normalize: none", "s has another normalization than street"),
        ("taps: [32]", "taps: [16]", r"the head 'scene' of s is another: .*\(16,\).* for .*\(32,\)"),
        ("[day, night]", "[day, dusk]", r"the head 'scene' of s is another: .*'dusk'.* for .*'night'"),
        ("{arch: chain}", "{arch: resnet18, decomposition: two_branch}", "s is decomposed; sharing begins with plain"),
    ],
)
def test_specialists_that_do_not_fit_are_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        specialist(network(), "s", network(text=PIPELINE.replace(old, new)))


def test_heads_of_a_specialist_are_those_that_both_have() -> None:
    less = loads(PIPELINE.replace("  far: {type: depth, taps: [8, 32], channels: 8}\n", "").replace("near:", "close:"))
    trunk = network()
    assert specialist(trunk, "s", Network.of(less)).heads == ("scene",)
    assert specialist(trunk, "s", trunk, ["far"]).heads == ("far",)
    with pytest.raises(CompressionError, match="street has no head 'close', only near, scene, far"):
        specialist(trunk, "s", Network.of(less), ["close"])
    with pytest.raises(CompressionError, match="s has no head 'far', only close, scene"):
        specialist(trunk, "s", Network.of(less), ["far"])


def test_a_stem_of_other_widths_is_refused() -> None:
    trunk, pruned = network(), network()
    pruned.module.set_submodule("backbone.third", nn.Conv2d(8, 10, 3, 2, 1))
    pruned.module.set_submodule("backbone.fourth", nn.Conv2d(10, 16, 3, 2, 1))
    one: Any = Specialist("s", pruned, ("scene",))
    assert graft(trunk, one, 16).network.module.get_submodule("backbone.third.0") is not None
    with pytest.raises(CompressionError, match="s does not fit on street behind 8: "):
        graft(trunk, one, 8)


def test_a_file_that_is_no_network_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.sbb").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match=r"x\.sbb"):
        Network.of(tmp_path / "x.sbb")
