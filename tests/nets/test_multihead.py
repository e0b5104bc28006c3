from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sharedbb.errors import GraphError, RegistryError, WeightsError
from sharedbb.nets import MultiHead, build
from sharedbb.registry import BACKBONE_NAMES, HEADS, register_head

SHAPES = {
    "surface.logits": (11, 24, 40),
    "objects.scores": (12 * 20 + 6 * 10 + 3 * 5, 2),
    "objects.distances": (12 * 20 + 6 * 10 + 3 * 5, 4),
    "edges.logits": (2, 24, 40),
    "scene.logits": (11,),
}


def picture(batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, 96, 160, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("training", [False, True])
def test_answers_are_keyed_by_head_and_part(street: Any, batch: int, training: bool) -> None:
    answers = build(street).train(training)(picture(batch=max(batch, 2) if training else batch))
    assert {name: tuple(value.shape[1:]) for name, value in answers.items()} == SHAPES


def test_exported_equals_eager(street: Any) -> None:
    network = build(street).eval()
    exported = torch.export.export(network, (picture(),)).module()
    with torch.no_grad():
        eager, again = network(picture()), exported(picture())
    assert eager.keys() == again.keys()
    for name, value in eager.items():
        torch.testing.assert_close(again[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("arch", BACKBONE_NAMES)
def test_every_backbone_carries_every_kind_of_head_without_a_neck(street: Any, arch: str) -> None:
    street.backbone.arch, street.neck = arch, None
    street.heads |= {
        "depth": SimpleNamespace(type="depth", taps=(4, 32), channels=16, min_m=1.0, max_m=50.0),
        "pose": SimpleNamespace(type="keypoints", taps=(8,), points=("nose",), channels=16),
        "place": SimpleNamespace(type="embedding", taps=(32,), dim=8),
    }
    with torch.no_grad():
        answers = build(street).eval()(picture())
    more = {"depth.depth": (1, 24, 40), "pose.heatmaps": (1, 12, 20), "place.vector": (8,)}
    assert {name: tuple(value.shape[1:]) for name, value in answers.items()} == SHAPES | more
    assert all(value.isfinite().all() for value in answers.values())


def test_neck_and_street_heads_cost_well_below_the_trunk(street: Any) -> None:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        build(street).eval()(torch.zeros(1, 3, 384, 640))
    counts = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert counts["MultiHead"] - counts["MultiHead.backbone"] < 0.45 * counts["MultiHead.backbone"]


def test_state_names_have_the_documented_prefixes(street: Any) -> None:
    names = {".".join(name.split(".")[:2]) for name in build(street).state_dict()}
    assert {name for name in names if name.startswith("heads")} == {f"heads.{name}" for name in street.heads}
    assert {name.split(".")[0] for name in names} == {"backbone", "neck", "heads"}


def test_the_same_pipeline_gives_the_same_network_and_a_new_head_changes_no_other(street: Any) -> None:
    first = build(street).state_dict()
    street.heads = {"weather": SimpleNamespace(type="tags", taps=(32,), labels=("rain",)), **street.heads}
    before = torch.random.get_rng_state()
    second = build(street).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert set(second) > set(first)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first["heads.surface.refine.0.0.weight"][:32], first["heads.edges.refine.0.0.weight"])


def test_given_state_is_used_strictly(street: Any) -> None:
    state = {name: torch.full_like(value, 2) for name, value in build(street).state_dict().items()}
    loaded = build(street, state=state).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    with pytest.raises(WeightsError, match=r"hold 'heads\.old\.bias'"):
        build(street, state={**state, "heads.old.bias": torch.zeros(1)})
    del state["neck.laterals.4.0.weight"]
    with pytest.raises(WeightsError, match=r"lack 'neck\.laterals\.4\.0\.weight'"):
        build(street, state=state)


def test_classes_that_do_not_match_the_weights_are_an_error(street: Any) -> None:
    state = build(street).state_dict()
    street.heads["edges"].classes = ("inside", "edge", "corner")
    with pytest.raises(
        WeightsError, match=r"'heads\.edges\.predict\.weight' of shape \(2, 32, 1, 1\).*\(3, 32, 1, 1\)"
    ):
        build(street, state=state)


def test_a_file_of_a_whole_network_fills_all_of_it_and_one_of_a_backbone_only_that(street: Any, tmp_path: Path) -> None:
    whole = {name: torch.full_like(value, 2) for name, value in build(street).state_dict().items()}
    trunk = {name.removeprefix("backbone."): value for name, value in whole.items() if name.startswith("backbone.")}
    save_file(whole, tmp_path / "whole.safetensors")
    torch.save(trunk, tmp_path / "trunk.pth")
    street.backbone.weights = str(tmp_path / "whole.safetensors")
    loaded = build(street).state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.items())
    street.backbone.weights = str(tmp_path / "trunk.pth")
    loaded = build(street).state_dict()
    assert all(torch.equal(loaded[f"backbone.{name}"], value) for name, value in trunk.items())
    assert not torch.equal(loaded["heads.edges.predict.weight"], whole["heads.edges.predict.weight"])


class Brightness(nn.Module):
    """A head of somebody else: takes the maps, gives one bare tensor or a dict."""

    def __init__(self, bare: bool) -> None:
        super().__init__()
        self.bare = bare

    def forward(self, features: Sequence[Tensor]) -> Tensor | dict[str, Tensor]:
        value = features[0].mean((1, 2, 3))
        return value if self.bare else {"level": value, "double": 2 * value}


@pytest.mark.parametrize(("bare", "keys"), [(True, {"light.output"}), (False, {"light.level", "light.double"})])
def test_a_head_of_one_s_own_needs_one_registration(street: Any, bare: bool, keys: set[str]) -> None:
    register_head("brightness", spec=None, build=lambda spec, channels: Brightness(bare), decoder=lambda spec: None)
    try:
        street.heads = {"light": SimpleNamespace(type="brightness", taps=(32,))}
        network = build(street).eval()
    finally:
        HEADS.unregister("brightness")
    answers = network(picture(2))
    assert set(answers) == keys
    features = network.neck(network.backbone(picture(2)))
    torch.testing.assert_close(answers[min(keys, key=len)], features[32].mean((1, 2, 3)))


def test_unknown_parts_and_taps_are_named(street: Any) -> None:
    street.heads["scene"].taps = (64,)
    with pytest.raises(GraphError, match=r"head 'scene' taps stride 64.*\[4, 8, 16, 32\]"):
        build(street)
    street.heads["scene"].type = "tagz"
    street.heads["scene"].taps = (32,)
    with pytest.raises(RegistryError, match="did you mean 'tags'"):
        build(street)


@pytest.mark.parametrize("taps", [{}, {"light": ()}, {"light": (4, 64)}])
def test_a_network_put_together_by_hand_checks_its_taps(street: Any, taps: dict[str, tuple[int, ...]]) -> None:
    backbone = build(street).backbone
    with pytest.raises(GraphError, match=r"head 'light' taps .*\[4, 8, 16, 32\]"):
        MultiHead(backbone, None, {"light": Brightness(True)}, taps)


def test_a_name_that_torch_modules_use_is_refused(street: Any) -> None:
    backbone = build(street).backbone
    with pytest.raises(GraphError, match="a head cannot be called 'type'"):
        MultiHead(backbone, None, {"type": Brightness(True)}, {"type": (4,)})
