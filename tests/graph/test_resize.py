"""Segments at other sizes of their inputs, against the module itself at those sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import ConvNeXt, mobilenet_v2, resnet18, shufflenet_v2_x1_0
from torchvision.models.convnext import CNBlockConfig

from sharedbb.errors import GraphError
from sharedbb.graph.capture import capture
from sharedbb.graph.cut import Cut, Segment, cut, fold_constants
from sharedbb.graph.lower import to_module
from sharedbb.graph.merge import fold_batch_norms
from sharedbb.graph.resize import resized


class Trunk(nn.Module):
    """A network's maps without its classifier: by position in a chain of modules."""

    def __init__(self, chain: nn.Module) -> None:
        super().__init__()
        self.chain = chain

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"end": self.chain(x)}


def _trunks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    residual = resnet18(weights=None)
    small = [CNBlockConfig(40, 80, 1), CNBlockConfig(80, 80, 1)]
    return {
        "mobilenet_v2": mobilenet_v2(weights=None, width_mult=0.25).features[:8],
        "resnet18": nn.Sequential(residual.conv1, residual.bn1, residual.relu, residual.maxpool, residual.layer1),
        "convnext": ConvNeXt(small).features,
        "upsampling": nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Upsample(scale_factor=2, mode="bilinear")),
    }


def _segments(module: nn.Module, height: int = 64, width: int = 96) -> Cut:
    return cut(fold_constants(fold_batch_norms(capture(Trunk(module).eval(), torch.zeros(1, 3, height, width), ""))))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "convnext", "upsampling"])
def test_a_segment_of_another_size_gives_what_the_module_gives(name: str) -> None:
    module = _trunks()[name].eval()
    segments = _segments(module).segments
    for shape in ((3, 64, 96), (1, 32, 32), (5, 96, 32)):
        batch, height, width = shape
        x = torch.rand(batch, 3, height, width)
        features = {"input": x}
        for segment in segments:
            sizes = {name: (batch, *features[name].shape[2:]) for name in segment.inputs}
            small = resized(segment, sizes)
            assert [small.graph.by_name[name].shape for name in small.inputs] == [
                tuple(features[name].shape) for name in small.inputs
            ]
            with torch.no_grad():
                results = to_module(small.graph)(*(features[name] for name in segment.inputs))
            features.update(results)
            assert all(tuple(value.shape) == small.graph.by_name[name].shape for name, value in results.items())
        with torch.no_grad():
            expected = module(x)
        end = features[segments[-1].outputs[-1]]
        assert end.shape == expected.shape
        assert torch.allclose(end, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def _one(module: nn.Module) -> Segment:
    (segment,) = _segments(module).segments
    return segment


def test_all_but_the_shapes_stays() -> None:
    segment = _one(nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU()))
    small = resized(segment, {"input": (2, 16, 24)})
    assert [node.op for node in small.graph.nodes] == [node.op for node in segment.graph.nodes]
    assert [node.args for node in small.graph.nodes] == [node.args for node in segment.graph.nodes]
    assert [node.shape for node in small.graph.nodes] == [(2, 3, 16, 24), (2, 4, 8, 12), (2, 4, 8, 12)]
    assert small.graph.weights is segment.graph.weights
    assert (small.name, small.inputs, small.outputs) == (segment.name, segment.inputs, segment.outputs)
    assert segment.graph.by_name["input"].shape == (1, 3, 64, 96)


def test_operators_of_several_results_have_the_shape_of_the_first() -> None:
    class Split(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            one, two = x.chunk(2, dim=3)
            return one * two

    small = resized(_one(Split()), {"input": (1, 8, 12)})
    assert [node.shape for node in small.graph.nodes if node.op == "getitem"] == [(1, 3, 8, 6)] * 2
    assert small.graph.by_name[small.outputs[0]].shape == (1, 3, 8, 6)


class Fixed(nn.Module):
    """Upsampled to the size of the example, whatever comes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True) + nn.functional.interpolate(self.stem(x), size=(64, 96), mode="nearest")


def test_what_was_captured_with_a_fixed_size_is_said() -> None:
    for module in (shufflenet_v2_x1_0(weights=None).stage2, Fixed()):
        wide = nn.Conv2d(3, 24, 1) if not isinstance(module, Fixed) else nn.Identity()
        segment = _one(nn.Sequential(wide, module))
        with pytest.raises(GraphError, match=rf"segment {segment.name} does not run at another size: \w+: \S+"):
            resized(segment, {"input": (2, 32, 32)})
    assert resized(segment, {"input": (1, 64, 96)}).graph.by_name[segment.outputs[0]].shape == (1, 4, 64, 96)
