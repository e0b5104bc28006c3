from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sharedbb.errors import WeightsError
from sharedbb.nets import backbones, weights


class Payload:
    """Unpickling this would run code."""

    def __reduce__(self) -> Any:
        return print, ("unpickled",)


@pytest.mark.parametrize(
    ("given", "file"),
    [("DEFAULT", False), ("IMAGENET1K_V1", False), ("a.pth", True), ("folder/net", True), ("street.sbb", True)],
)
def test_names_and_files_are_told_apart(given: str, file: bool) -> None:
    assert weights.is_file(given) is file


def test_a_missing_file_is_named() -> None:
    with pytest.raises(WeightsError, match=r"no weights file at nowhere\.pth"):
        backbones.resnet18("nowhere.pth")


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must end in \.safetensors, \.pth"):
        weights.read_state(tmp_path / "net.onnx")


def test_an_artifact_is_sent_to_its_reader(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="artifact of a whole network"):
        weights.read_state(tmp_path / "street.sbb")


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 40], ids=["empty", "garbage"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"cannot read weights from .*{name}") as caught:
        weights.read_state(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_a_truncated_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    from safetensors.torch import save_file

    state = {"weight": torch.ones(1000)}
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match="cannot read weights"):
        weights.read_state(tmp_path / name)


def test_a_file_with_code_in_it_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"weight": Payload()}, tmp_path / "torch.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"weight": Payload()}))
    for name in ("torch.pth", "plain.pth"):
        with pytest.raises(WeightsError, match="cannot read weights"):
            weights.read_state(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_a_nested_checkpoint_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(1)}, "epoch": 3}, tmp_path / "checkpoint.pth")
    with pytest.raises(WeightsError, match="flat state dict"):
        weights.read_state(tmp_path / "checkpoint.pth")


def test_put_copies_and_ignores_what_the_module_does_not_have() -> None:
    layer = nn.Linear(2, 3)
    state = {"weight": torch.full((3, 2), 5.0), "bias": torch.zeros(3), "fc.weight": torch.ones(1)}
    weights.put(state, layer, "the weights")
    assert torch.equal(layer.weight, state["weight"])
    assert layer.weight.data_ptr() != state["weight"].data_ptr()
    with pytest.raises(WeightsError, match=r"hold 'fc\.weight'.*does not have"):
        weights.put(state, layer, "the weights", exact=True)


def test_put_names_what_is_missing_and_what_has_another_shape() -> None:
    layer = nn.Linear(2, 3)
    with pytest.raises(WeightsError, match="the weights lack 'bias'"):
        weights.put({"weight": torch.ones(3, 2)}, layer, "the weights")
    with pytest.raises(WeightsError, match=r"'weight' of shape \(4, 2\), the network needs \(3, 2\)"):
        weights.put({"weight": torch.ones(4, 2), "bias": torch.ones(3)}, layer, "the weights")


def test_batch_counters_may_be_missing() -> None:
    norm = nn.BatchNorm2d(2)
    state = {name: value + 1 for name, value in norm.state_dict().items() if name != "num_batches_tracked"}
    weights.put(state, norm, "old weights")
    assert torch.equal(norm.running_mean, torch.ones(2))


def test_weights_of_another_network_do_not_fit(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.ones(64, 3, 7, 7)}, tmp_path / "resnet18.pth")
    with pytest.raises(WeightsError, match=r"resnet18\.pth for mobilenet_v2 lack 'features\.0\.0\.weight'"):
        backbones.mobilenet_v2(str(tmp_path / "resnet18.pth"))
