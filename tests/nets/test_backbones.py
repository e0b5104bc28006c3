from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from sharedbb.errors import GraphError, WeightsError
from sharedbb.nets import backbones
from sharedbb.registry import BACKBONE_NAMES, BACKBONES, resolve

TAPPED = {
    "mobilenet_v2": ("features.3", "features.6", "features.13", "features.17"),
    "mobilenet_v3_small": ("features.1", "features.3", "features.8", "features.11"),
    "mobilenet_v3_large": ("features.3", "features.6", "features.12", "features.15"),
    "resnet18": ("layer1", "layer2", "layer3", "layer4"),
    "resnet34": ("layer1", "layer2", "layer3", "layer4"),
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "efficientnet_b0": ("features.2", "features.3", "features.5", "features.7"),
    "regnet_x_400mf": tuple(f"trunk_output.block{number}" for number in (1, 2, 3, 4)),
    "shufflenet_v2_x1_0": ("maxpool", "stage2", "stage3", "stage4"),
    "convnext_tiny": ("features.1", "features.3", "features.5", "features.7"),
}


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def torchvision_network(arch: str, seed: int = 7) -> torch.nn.Module:
    """The whole torchvision network with random weights and batch statistics, so that nothing is trivially equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(arch, weights=None)
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("arch", BACKBONE_NAMES)
def test_taps_are_the_torchvision_network_s_own_intermediate_maps(arch: str, tmp_path: Path) -> None:
    network = torchvision_network(arch)
    torch.save(network.state_dict(), tmp_path / "whole.pth")
    backbone = resolve(BACKBONES[arch].build)(str(tmp_path / "whole.pth")).eval()
    reference = create_feature_extractor(network, dict(zip(TAPPED[arch], ("4", "8", "16", "32"), strict=True)))
    picture = image(32, 96, batch=2)
    with torch.no_grad():
        features, expected = backbone(picture), reference(picture)
    assert tuple(features) == BACKBONES[arch].strides
    for stride, value in features.items():
        assert value.shape == (2, backbone.channels[stride], 32 // stride, 96 // stride)
        torch.testing.assert_close(value, expected[str(stride)], rtol=0, atol=0)


@pytest.mark.parametrize("arch", ["regnet_x_400mf", "shufflenet_v2_x1_0", "efficientnet_b0"])
def test_exported_equals_eager(arch: str) -> None:
    backbone = resolve(BACKBONES[arch].build)().eval()
    picture = image(64, 96)
    exported = torch.export.export(backbone, (picture,)).module()
    with torch.no_grad():
        eager, again = backbone(picture), exported(picture)
    for stride in eager:
        torch.testing.assert_close(again[stride], eager[stride], rtol=0, atol=0)


@pytest.mark.parametrize("arch", BACKBONE_NAMES)
def test_every_weight_serves_a_tap(arch: str) -> None:
    backbone = resolve(BACKBONES[arch].build)().train()
    torch.manual_seed(0)  # stochastic depth draws from the global generator
    features = backbone(image(64, 64, batch=2))
    torch.stack([value.square().mean() for value in features.values()]).sum().backward()
    unused = [name for name, weight in backbone.named_parameters() if weight.grad is None]
    assert not unused


def test_random_weights_are_equal_each_time_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = backbones.mobilenet_v2().state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    second = backbones.mobilenet_v2().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert first["features.0.0.weight"].std() > 0


def test_weights_keep_torchvision_s_names_and_drop_the_classifier() -> None:
    own = set(backbones.mobilenet_v2().state_dict())
    whole = set(models.mobilenet_v2(weights=None).state_dict())
    assert own < whole
    assert {name.split(".")[0] for name in whole - own} == {"features", "classifier"}
    assert {name.split(".")[1] for name in whole - own if name.startswith("features")} == {"18"}


def test_safetensors_load_like_pth(tmp_path: Path) -> None:
    state = torchvision_network("mobilenet_v3_small").state_dict()
    save_file(state, tmp_path / "net.safetensors")
    loaded = backbones.mobilenet_v3_small(str(tmp_path / "net.safetensors")).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_torchvision_weights_by_name_are_loaded_without_unpickling(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision_network("mobilenet_v3_small").state_dict()
    asked = {}

    def fake(url: str, **options: object) -> dict[str, Tensor]:
        asked.update(url=url, **options)
        return dict(state)

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", fake)
    loaded = backbones.mobilenet_v3_small("IMAGENET1K_V1").state_dict()
    assert torch.equal(loaded["features.0.0.weight"], state["features.0.0.weight"])
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True


def test_a_failed_download_names_the_local_file_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(url: str, **options: object) -> dict[str, Tensor]:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    with pytest.raises(WeightsError, match=r"no route to host.*mobilenet_v2-.*\.pth.*path of that file"):
        backbones.mobilenet_v2("DEFAULT")


def test_an_unknown_weights_name_lists_what_there_is() -> None:
    with pytest.raises(WeightsError, match=r"did you mean 'IMAGENET1K_V2'.*IMAGENET1K_V1"):
        backbones.resnet50("imagenet1k-v2")


@pytest.mark.parametrize("size", [(50, 64), (64, 48)])
def test_sides_that_are_not_multiples_of_32_are_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(GraphError, match="multiples of 32"):
        backbones.mobilenet_v3_small()(image(*size))


def test_a_picture_without_a_batch_axis_is_an_error() -> None:
    with pytest.raises(GraphError, match="NCHW"):
        backbones.mobilenet_v3_small()(image(64, 64)[0])
