"""Whole blocks left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sharedbb.compress.blocks import choose_blocks, effects, leave_out, passing_blocks, without_blocks
from sharedbb.compress.widths import Layer, retrace, total, trace
from sharedbb.errors import CompressionError
from sharedbb.learn.data import Sample
from sharedbb.learn.network import Network
from sharedbb.registry import BACKBONES
from sharedbb.spec import Pipeline


def network(arch: str = "resnet18") -> Network:
    document = {
        "version": 1,
        "name": "test",
        "input": {"size": [64, 64]},
        "backbone": {"arch": arch},
        "heads": {
            "tag": {"type": "tags", "taps": [32], "labels": ["p", "q"]},
            "seg": {"type": "segmentation", "taps": [8], "classes": ["a", "b"], "channels": 16},
        },
    }
    return Network.of(Pipeline.model_validate(document))


def pictures(count: int = 2) -> list[Sample]:
    random = np.random.default_rng(0)
    return [Sample(str(n), random.integers(0, 256, (48, 64, 3), dtype=np.uint8), None) for n in range(count)]


@pytest.mark.parametrize("arch", BACKBONES)
def test_every_block_that_is_found_can_be_left_out(arch: str) -> None:
    given = network(arch)
    blocks = passing_blocks(given.module, (1, 3, 64, 64))
    assert blocks
    assert all(block.startswith("backbone.") for block in blocks)
    leave_out(given.module, blocks)
    with torch.no_grad():
        assert given.module(torch.zeros(1, 3, 64, 64))["seg.logits"].shape == (1, 2, 8, 8)


def test_residual_blocks_are_found_and_those_that_change_the_shape_are_not() -> None:
    blocks = passing_blocks(network().module, (1, 3, 64, 64))
    stages = [f"backbone.layer{stage}.1" for stage in (1, 2, 3, 4)]
    assert blocks == ["backbone.layer1.0", *stages]


def test_a_block_that_adds_nothing_goes_first_and_nothing_changes() -> None:
    given = network()
    norm = given.module.backbone.layer3[1].bn2
    torch.nn.init.zeros_(norm.weight)
    pruned, facts = without_blocks(given, 0.01, Layer.macs, data=pictures())
    assert facts["gone"] == ["backbone.layer3.1"]
    layers = trace(given.module, (1, 3, 64, 64))
    left = total(retrace(layers, pruned.module), Layer.macs) / total(layers, Layer.macs)
    assert facts["left"] == pytest.approx(left, abs=1e-6)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = given.module(image), pruned.module(image)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not isinstance(given.module.backbone.layer3[1], torch.nn.Identity)


def test_effect_is_the_squared_change_of_the_answers_by_head_weight() -> None:
    given = network()
    blocks = ["backbone.layer2.1", "backbone.layer4.1"]
    image = torch.randn(1, 3, 64, 64)
    effect = effects(given.module, blocks, [image], head_weights={"tag": 0.0})
    assert effect == {"backbone.layer2.1": pytest.approx(1.0), "backbone.layer4.1": 0.0}


def test_blocks_go_by_effect_for_the_cost_they_save() -> None:
    effect = {"a": 1.0, "b": 0.5, "c": 4.0}
    prices = {"a.x": 10.0, "b.x": 1.0, "c.x": 9.0, "stem": 5.0}
    assert choose_blocks(effect, prices, 20.0) == ["a"]
    assert choose_blocks(effect, prices, 6.0) == ["a", "c"]
    assert choose_blocks(effect, prices, 0.0) == ["a", "c", "b"]


def test_without_pictures_or_blocks_the_error_says_so() -> None:
    with pytest.raises(CompressionError, match="give data"):
        without_blocks(network(), 0.1, Layer.macs)
    with pytest.raises(CompressionError, match="no block"):
        without_blocks(network(), 0.1, Layer.macs, keep=["backbone"], data=pictures())


def test_a_block_around_what_is_kept_stays() -> None:
    given = network()
    _, facts = without_blocks(given, 0.9, Layer.macs, data=pictures(), keep=["backbone.layer4.1.conv1"])
    assert facts["gone"]
    assert "backbone.layer4.1" not in facts["effects"]
