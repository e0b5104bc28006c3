"""Beginning with what another network has learnt: trunk and known heads as they were, new heads beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharedbb import artifact, nets
from sharedbb.errors import WeightsError
from sharedbb.graph.quantization import Scheme
from sharedbb.learn.network import Network
from sharedbb.learn.start import begun
from sharedbb.registry import BACKBONES, register_backbone
from sharedbb.spec import Pipeline, dump

HEADS: dict[str, Any] = {
    "scene": {"type": "tags", "taps": [16], "labels": ["day", "night"]},
    "objects": {"type": "detection", "taps": [16], "classes": ["car"], "channels": 8},
}
FACES = {"type": "detection", "taps": [8], "classes": ["face"], "channels": 8}
IMAGE = torch.rand(1, 3, 32, 64, generator=torch.Generator().manual_seed(0))


class TwoStrides(nn.Module):
    """A backbone of two convolutions."""

    def __init__(self, weights: str | None, width: int = 8) -> None:
        super().__init__()
        self.channels = {8: width, 16: 12}
        self.first, self.second = nn.Conv2d(3, width, 8, 8), nn.Conv2d(width, 12, 2, 2)
        for place, weight in enumerate(self.parameters()):
            nn.init.normal_(weight, 0.0, 0.1, generator=torch.Generator().manual_seed(place))

    def forward(self, image: torch.Tensor) -> dict[int, torch.Tensor]:
        """Features at strides 8 and 16."""
        near = self.first(image).relu()
        return {8: near, 16: self.second(near)}


@pytest.fixture(autouse=True, scope="module")
def backbones() -> Iterator[None]:
    """Two backbones that differ in their width, and one thread: these networks are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    register_backbone("two_strides", TwoStrides, strides=(8, 16))
    register_backbone("wider", partial(TwoStrides, width=10), strides=(8, 16))
    yield
    for name in ("two_strides", "wider"):
        BACKBONES.unregister(name)
    torch.set_num_threads(threads)


def pipeline(heads: dict[str, Any], **fields: Any) -> Pipeline:
    plain = {"name": "tiny", "input": {"size": [32, 64]}, "backbone": {"arch": "two_strides"}, "heads": heads}
    return Pipeline.model_validate({**plain, "neck": {"type": "fpn", "channels": 16, "strides": [8, 16]}, **fields})


def answers(network: Network) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found: dict[str, torch.Tensor] = network.module(IMAGE)
    return found


@pytest.fixture(scope="module")
def learnt() -> Network:
    """Weights unlike those that the pipeline begins with, and a neck that gives 5 channels at stride 8."""
    network = Network.of(pipeline(HEADS))
    module: Any = network.copy()
    last = module.neck.smooth["8"]
    name, wide = [(name, layer) for name, layer in last.named_modules() if isinstance(layer, nn.Conv2d)][-1]
    last.set_submodule(name, nn.Conv2d(wide.in_channels, 5, wide.kernel_size, bias=wide.bias is not None))
    for name, layer in list(last.named_modules()):
        if isinstance(layer, nn.BatchNorm2d) and layer.num_features == wide.out_channels:
            norm = name
    last.set_submodule(norm, nn.BatchNorm2d(5))
    module.neck.channels = {**module.neck.channels, 8: 5}
    with torch.no_grad():
        for place, weight in enumerate(module.parameters()):
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(place)), alpha=0.01)
    return replace(network, module=module.eval())


@pytest.fixture(scope="module")
def file(learnt: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "learnt.sbb"
    learnt.save(path)
    return path


def test_known_heads_answer_as_before_and_new_ones_fit_the_narrowed_trunk(learnt: Network, file: Path) -> None:
    student, new = begun(pipeline({"faces": FACES, **HEADS}), file)
    assert new == ("faces",)
    assert list(student.pipeline.heads) == ["faces", "scene", "objects"]
    before, after = answers(learnt), answers(student)
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-3), name  # artifacts hold 16 bits
    assert after["faces.scores"].shape[-1] == 1
    stated = student.module.state_dict()
    assert any(tensor.shape[1:2] == (5,) for name, tensor in stated.items() if name.startswith("heads.faces."))


def test_a_new_head_is_the_same_every_time_and_survives_its_artifact(file: Path, tmp_path: Path) -> None:
    wanted = pipeline({**HEADS, "faces": FACES})
    student, _ = begun(wanted, file)
    again, _ = begun(wanted, file)
    for name, tensor in student.module.state_dict().items():
        assert torch.equal(tensor, again.module.state_dict()[name]), name
    student.save(tmp_path / "student.sbb")
    backbone = wanted.backbone.model_copy(update={"weights": str(tmp_path / "student.sbb")})
    read = Network.of(wanted.model_copy(update={"backbone": backbone}))
    for name, value in answers(student).items():
        assert torch.allclose(answers(read)[name], value, atol=2e-3), name


def test_a_head_on_wide_features_is_the_one_that_the_pipeline_builds(file: Path) -> None:
    wanted = pipeline({**HEADS, "other": {**FACES, "taps": [16]}})
    student, new = begun(wanted, file)
    assert new == ("other",)
    plain = Network.of(wanted).module.state_dict()
    for name, tensor in student.module.state_dict().items():
        if name.startswith("heads.other."):
            assert torch.equal(tensor, plain[name]), name


def test_fewer_heads_than_there_were_and_a_pipeline_file_do_as_well(learnt: Network, file: Path) -> None:
    backbone = learnt.pipeline.backbone.model_copy(update={"weights": str(file)})
    beside = file.with_suffix(".yaml")
    beside.write_text(dump(learnt.pipeline.model_copy(update={"backbone": backbone})))
    student, new = begun(pipeline({"scene": HEADS["scene"]}), beside)
    assert (new, list(student.pipeline.heads)) == ((), ["scene"])
    assert torch.allclose(answers(student)["scene.logits"], answers(learnt)["scene.logits"], atol=1e-3)


def test_what_does_not_fit_is_refused(learnt: Network, file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"head 'scene' asks for \['day'\], but .* was trained for \['day', 'night'\]"
    ):
        begun(pipeline({"scene": {**HEADS["scene"], "labels": ["day"]}}), file)
    with pytest.raises(WeightsError, match=r"has 'backbone\.first\.weight' of shape \(8, 3, 8, 8\), the network needs"):
        begun(pipeline(HEADS, backbone={"arch": "wider"}), file)
    rounded = tmp_path / "rounded.sbb"
    replace(learnt, scheme=Scheme({})).save(rounded)
    with pytest.raises(WeightsError, match=r"rounded\.sbb is quantized .* begin with what it was before that"):
        begun(pipeline(HEADS), rounded)
    (tmp_path / "plain.yaml").write_text(dump(pipeline(HEADS)))
    with pytest.raises(WeightsError, match=r"names no artifact as its weights, but nothing; give the \.sbb itself"):
        begun(pipeline(HEADS), tmp_path / "plain.yaml")


def test_branches_begin_like_the_trunk_or_as_they_were_learnt(tmp_path: Path) -> None:
    whole = {"backbone": {"arch": "mobilenet_v3_small"}}
    branched = {**whole, "branches": {"scene": {"after": 8, "heads": ["scene"]}}}
    plain = Network.of(pipeline(HEADS, **whole))
    with torch.no_grad():
        for weight in plain.module.parameters():
            weight.mul_(1.1)  # unlike those that the pipeline begins with
    plain.save(tmp_path / "plain.sbb")
    weights = {"arch": "mobilenet_v3_small", "weights": str(tmp_path / "plain.sbb")}
    given = Network.of(pipeline(HEADS, **{**branched, "backbone": weights}))
    expected, found = answers(Network.of(tmp_path / "plain.sbb")), answers(given)
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    with torch.no_grad():
        for weight in given.module.get_submodule("branches").parameters():
            weight.mul_(0.9)
    given.save(tmp_path / "branched.sbb")
    again, new = begun(pipeline(HEADS, **branched), tmp_path / "branched.sbb")
    assert new == ()
    stored, taken = given.module.state_dict(), again.module.state_dict()
    assert any(name.startswith("branches.") for name in taken)
    assert all(torch.allclose(value, stored[name], rtol=1e-3, atol=1e-4) for name, value in taken.items())


def test_a_new_head_on_a_branch_of_its_own_begins_on_what_the_trunk_has_learnt(tmp_path: Path) -> None:
    whole = {"backbone": {"arch": "mobilenet_v3_small"}}
    plain = Network.of(pipeline({"scene": HEADS["scene"]}, **whole))
    with torch.no_grad():
        for weight in plain.module.parameters():
            weight.mul_(1.1)
    plain.save(tmp_path / "plain.sbb")
    branches = {"own": {"after": 8, "heads": ["objects"]}}
    found, new = begun(pipeline(HEADS, **whole, branches=branches), tmp_path / "plain.sbb")
    assert new == ("objects",)
    learnt, own = Network.of(tmp_path / "plain.sbb").module.state_dict(), "branches.own."
    begins = {name.removeprefix(own): value for name, value in found.module.state_dict().items() if own in name}
    assert {name.partition(".")[0] for name in begins} == {"backbone", "neck"}
    assert all(torch.equal(value, learnt[name]) for name, value in begins.items())
    expected = answers(Network.of(tmp_path / "plain.sbb"))
    assert all(torch.equal(answers(found)[name], value) for name, value in expected.items())
    found.save(tmp_path / "both.sbb")
    again = answers(Network.of(tmp_path / "both.sbb"))
    assert all(torch.allclose(again[name], value, rtol=1e-2, atol=1e-2) for name, value in answers(found).items())
    alone = artifact.load(tmp_path / "both.sbb")
    kept = {"scene": pipeline(HEADS).heads["scene"]}
    artifact.load_weights(nets.build(pipeline({"scene": HEADS["scene"]}, **whole)), alone, kept)  # without its branch
    more, far = {**HEADS, "faces": FACES}, {"after": 8, "heads": ["faces"]}
    with pytest.raises(WeightsError, match="branch 'far' is new beside those of"):
        begun(pipeline(more, **whole, branches={**branches, "far": far}), tmp_path / "both.sbb")
