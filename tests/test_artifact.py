"""The artifact: what goes in comes out, and nothing else is let in."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_tensors
from torch import nn

from sharedbb import artifact
from sharedbb.artifact import CODED_WEIGHTS, MANIFEST, QUANTIZATION, WEIGHTS, Artifact, Manifest
from sharedbb.errors import ArtifactError, WeightsError
from sharedbb.graph.quantization import Grid, Scheme
from sharedbb.nets.structure import differences

MADE = Manifest(
    kind="network",
    pipeline={"name": "tiny", "heads": {"road": {"type": "segmentation", "taps": [4, 8]}, "scene": {"type": "tags"}}},
    classes={"road": ("road", "other"), "scene": ("day", "night")},
    input={"size": [32, 64], "fit": "letterbox"},
    report={"road": {"miou": 0.5}},
    recipe={"seed": 0},
)


class Tiny(nn.Module):
    """A trunk and two heads, with a buffer of each kind."""

    def __init__(self, *, road: int = 2, scene: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.heads = nn.ModuleDict({"road": nn.Conv2d(4, road, 1)})
        if scene:
            self.heads["scene"] = nn.Linear(4, 2)


def heads(*names: str) -> dict[str, SimpleNamespace]:
    made = {
        "road": SimpleNamespace(type="segmentation", taps=(4, 8), classes=("road", "other")),
        "scene": SimpleNamespace(type="tags", labels=("day", "night")),
    }
    return {name: made[name] for name in names or made}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "tiny.sbb"
    artifact.save(path, MADE, Tiny().state_dict(), parts={"openvino/trunk.bin": bytes(range(256))})
    return path


def rewritten(path: Path, change: dict[str, bytes | None]) -> Path:
    """The archive with members replaced, added, or (None) left out, by a program that knows nothing of seals."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= {name: data for name, data in change.items() if data is not None}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            if change.get(name, data) is not None:
                archive.writestr(name, data)
    return path


def manifest_of(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(MANIFEST))


def test_what_goes_in_comes_out(file: Path) -> None:
    torch.manual_seed(0)
    state = Tiny().state_dict()
    read = artifact.load(file)
    assert read.weights.keys() == state.keys()
    for name, tensor in state.items():
        assert read.weights[name].dtype == tensor.dtype
        assert torch.equal(read.weights[name], tensor)
    assert replace(read.manifest, parts={}) == MADE
    assert read.parts["openvino/trunk.bin"] == bytes(range(256))
    assert set(read.manifest.parts) == {WEIGHTS, "openvino/trunk.bin"}


def test_is_a_plain_zip_of_json_and_safetensors(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[0] == MANIFEST
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
    told = manifest_of(file)
    assert (told["format"], told["version"]) == ("sharedbb", 1)
    assert sorted(told) == sorted(
        ["format", "version", "kind", "pipeline", "classes", "input", "report", "recipe", "parts"]
    )


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    state = Tiny().state_dict()
    artifact.save(tmp_path / "a.sbb", MADE, state)
    artifact.save(tmp_path / "b.sbb", MADE, dict(reversed(state.items())))
    assert (tmp_path / "a.sbb").read_bytes() == (tmp_path / "b.sbb").read_bytes()
    assert artifact.digest(tmp_path / "a.sbb") == artifact.digest(tmp_path / "b.sbb")
    state["backbone.0.bias"] = state["backbone.0.bias"] + 1
    artifact.save(tmp_path / "b.sbb", MADE, state)
    assert artifact.digest(tmp_path / "a.sbb") != artifact.digest(tmp_path / "b.sbb")


def test_half_stores_matrices_in_float16_and_the_rest_as_they_are(tmp_path: Path) -> None:
    state = Tiny().state_dict()
    artifact.save(tmp_path / "half.sbb", MADE, state, half=True)
    weights = artifact.load(tmp_path / "half.sbb").weights
    assert weights["backbone.0.weight"].dtype == torch.float16
    assert weights["backbone.1.weight"].dtype == torch.float32
    assert weights["backbone.1.num_batches_tracked"].dtype == torch.int64
    torch.testing.assert_close(weights["backbone.0.weight"].float(), state["backbone.0.weight"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (1e30, True)])
def test_weights_that_are_not_finite_are_not_written(tmp_path: Path, value: float, half: bool) -> None:
    with pytest.raises(ArtifactError, match="'w' is not finite"):
        artifact.save(tmp_path / "x.sbb", MADE, {"w": torch.full((2, 2), value)}, half=half)
    assert list(tmp_path.iterdir()) == []


def test_every_flipped_byte_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    places = {*range(0, len(data), 7), *range(len(data) - 400, len(data)), *range(120)}
    for place in places:
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(ArtifactError) as caught:
            artifact.load(file)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)


def test_every_truncation_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for length in (0, 1, 3, 40, 500, len(data) // 2, len(data) - 81, len(data) - 80, len(data) - 1):
        file.write_bytes(data[:length])
        with pytest.raises(ArtifactError):
            artifact.load(file)
        with pytest.raises(ArtifactError, match="no seal"):
            artifact.digest(file)


def test_bytes_after_the_end_are_noticed(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"more")
    with pytest.raises(ArtifactError):
        artifact.load(file)


@pytest.mark.parametrize("content", [b"", b"hello", os.urandom(2000), b"\x80\x02}q\x00."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.sbb"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="not a sharedbb artifact"):
        artifact.load(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sbb", tmp_path):
        with pytest.raises(ArtifactError, match="cannot read the artifact"):
            artifact.load(path)
        with pytest.raises(ArtifactError, match="cannot read the artifact"):
            artifact.digest(path)


def test_a_checkpoint_of_torch_is_refused_for_its_pickle(tmp_path: Path) -> None:
    torch.save(Tiny().state_dict(), tmp_path / "checkpoint.sbb")
    with pytest.raises(ArtifactError, match="pickle"):
        artifact.load(tmp_path / "checkpoint.sbb")


@pytest.mark.parametrize("name", ["evil.pkl", "extra.PT", "data/objects.pickle", "a.npz"])
def test_a_pickle_inside_is_refused(file: Path, name: str) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(name, pickle.dumps(np.zeros(3)))
    with pytest.raises(ArtifactError, match="may be a pickle"):
        artifact.load(file)


def test_a_pickle_that_the_manifest_lists_is_refused_as_well(file: Path) -> None:
    told = manifest_of(file)
    told["parts"]["evil.pkl"] = {"sha256": "0" * 64, "bytes": 3}
    rewritten(file, {MANIFEST: json.dumps(told).encode(), "evil.pkl": b"abc"})
    with pytest.raises(ArtifactError, match="may be a pickle"):
        artifact.load(file)


@pytest.mark.parametrize("name", ["../up.txt", "/etc/passwd", "a/../b", "C:\\x", "a//b", ".hidden", "tab\tname", "x/"])
def test_names_that_lead_elsewhere_are_refused(file: Path, name: str) -> None:
    rewritten(file, {name: b"x"})
    with pytest.raises(ArtifactError, match="no name for a part"):
        artifact.load(file)
    with pytest.raises(ArtifactError, match="no name for a part"):
        artifact.save(file, MADE, {}, parts={name: b"x"})


def test_members_that_the_manifest_does_not_list_are_refused(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds 'readme\.txt', which its manifest does not list"):
        artifact.load(rewritten(file, {"readme.txt": b"x"}))


def test_a_missing_part_is_named(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"part 'openvino/trunk\.bin' is missing"):
        artifact.load(rewritten(file, {"openvino/trunk.bin": None}))
    with pytest.raises(ArtifactError, match=r"part 'weights\.safetensors' is missing|is damaged"):
        artifact.load(rewritten(file, {"openvino/trunk.bin": bytes(range(256)), WEIGHTS: None}))


def test_weights_that_the_manifest_does_not_list_are_missed(file: Path) -> None:
    told = manifest_of(file)
    told["parts"] = {}
    rewritten(file, {MANIFEST: json.dumps(told).encode(), WEIGHTS: None, "openvino/trunk.bin": None})
    with pytest.raises(ArtifactError, match=r"lists no weights\.safetensors"):
        artifact.load(file)


def test_a_part_with_a_wrong_digest_is_named(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"part 'openvino/trunk\.bin' is damaged"):
        artifact.load(rewritten(file, {"openvino/trunk.bin": bytes(256)}))


def test_a_file_packed_again_by_another_program_is_refused(file: Path) -> None:
    with pytest.raises(ArtifactError, match="changed after it was written"):
        artifact.load(rewritten(file, {}))


def test_a_newer_version_is_named(file: Path) -> None:
    told = manifest_of(file) | {"version": 3}
    with pytest.raises(ArtifactError, match="format version 3, this sharedbb reads up to 2; upgrade"):
        artifact.load(rewritten(file, {MANIFEST: json.dumps(told).encode()}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "onnx"}, "another kind of file"),
        ({"version": "1"}, "no format version"),
        ({"version": True}, "no format version"),
        ({"parts": None}, "another type"),
        ({"parts": {"a": {"bytes": 1}}}, "another type"),
        ({"classes": [1]}, "another type"),
        ({"report": 3}, "another type"),
        ({"parts": {"weights.safetensors": {"bytes": float("inf"), "sha256": ""}}}, "another type"),
        ({"pipeline": {"heads": ["scene"]}}, "another type"),
        ({"pipeline": {"heads": {"scene": ["tags"]}}}, "another type"),
    ],
)
def test_a_manifest_of_the_wrong_shape_is_refused(file: Path, change: dict[str, object], message: str) -> None:
    told = manifest_of(file) | change
    with pytest.raises(ArtifactError, match=message):
        artifact.load(rewritten(file, {MANIFEST: json.dumps(told).encode()}))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (5 * 2**20)])
def test_a_damaged_manifest_is_refused(file: Path, text: bytes) -> None:
    with pytest.raises(ArtifactError):
        artifact.load(rewritten(file, {MANIFEST: text}))


def test_an_archive_without_manifest_is_refused(file: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json in it"):
        artifact.load(rewritten(file, {MANIFEST: None}))


def test_compressed_members_are_never_inflated(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, bytes(50 * 2**20))
    with pytest.raises(ArtifactError, match=r"compressed|more in it"):
        artifact.load(file)


def test_too_many_members_are_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(artifact.MAX_PARTS + 1):
            archive.writestr(f"part{number}", b"")
    with pytest.raises(ArtifactError, match="more in it"):
        artifact.load(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_part_twice_is_refused(file: Path) -> None:
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("openvino/trunk.bin", b"other")
    with pytest.raises(ArtifactError, match="the same part twice"):
        artifact.load(file)


def test_weights_that_are_no_safetensors_are_refused_when_asked_for(file: Path) -> None:
    good = artifact.load(file)
    bad = artifact.Artifact(file, good.manifest, {WEIGHTS: b"\x00" * 100})
    with pytest.raises(ArtifactError, match="not safetensors"):
        _ = bad.weights


def test_a_write_that_fails_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(ArtifactError, match="plain JSON"):
        artifact.save(file, replace(MADE, report={"score": float("nan")}), {})
    with pytest.raises(ArtifactError, match="plain JSON"):
        artifact.save(file, replace(MADE, recipe={"x": io.BytesIO()}), {})
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    with pytest.raises(ArtifactError, match="cannot write"):
        artifact.save(file.parent / "no such folder" / "x.sbb", MADE, {})


def test_load_weights_fills_a_network(file: Path) -> None:
    torch.manual_seed(1)
    network = Tiny()
    read = artifact.load(file)
    artifact.load_weights(network, read, heads())
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, read.weights[name])


def test_load_weights_converts_half_to_the_types_of_the_network(tmp_path: Path) -> None:
    artifact.save(tmp_path / "half.sbb", MADE, Tiny().state_dict(), half=True)
    network = Tiny()
    artifact.load_weights(network, artifact.load(tmp_path / "half.sbb"), heads())
    assert {tensor.dtype for tensor in network.parameters()} == {torch.float32}


def test_a_pipeline_may_use_fewer_heads_than_the_artifact_has(file: Path) -> None:
    network, stored = Tiny(scene=False), artifact.load(file)
    artifact.load_weights(network, stored, heads("road"))
    assert stored.weights.keys() > network.state_dict().keys()
    assert all(torch.equal(weight, stored.weights[name]) for name, weight in network.state_dict().items())


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (
            {"classes": ("other", "road")},
            r"'road' asks for \['other', 'road'\], but .* trained for \['road', 'other'\]",
        ),
        ({"classes": ("road",)}, r"'road' asks for \['road'\]"),
        ({"taps": (4,)}, r"'road' has taps \[4\], but .* trained with \[4, 8\]"),
        ({"type": "depth", "classes": ("road", "other")}, "'road' has type depth"),
    ],
)
def test_heads_that_were_trained_otherwise_are_refused(file: Path, head: dict[str, object], message: str) -> None:
    asked = heads()
    asked["road"] = SimpleNamespace(**(vars(asked["road"]) | head))
    with pytest.raises(WeightsError, match=message):
        artifact.load_weights(Tiny(), artifact.load(file), asked)


def test_a_head_that_the_artifact_lacks_is_named(file: Path) -> None:
    with pytest.raises(WeightsError, match=r"head 'depth': .* no weights for it \(it has: road, scene\)"):
        artifact.check_heads(artifact.load(file), {"depth": SimpleNamespace()})


def test_weights_that_do_not_fit_are_named(file: Path) -> None:
    read = artifact.load(file)
    with pytest.raises(WeightsError, match=r"'heads\.road\.weight' of shape \(2, 4, 1, 1\), the network needs \(3, 4"):
        artifact.load_weights(Tiny(road=3), read, heads())
    network = Tiny()
    network.extra = nn.Linear(1, 1)
    with pytest.raises(WeightsError, match=r"lacks 'extra\.weight' \(2 of 13 weights\)"):
        artifact.load_weights(network, read, heads())
    with pytest.raises(WeightsError, match=r"has 'heads\.scene\.bias', which the network does not"):
        artifact.load_weights(Tiny(scene=False), read, heads())


def test_importing_the_module_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, sharedbb.artifact; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


CODING = {"backbone.0.weight": {"type": "uniform", "bits": 8, "axis": 0, "symmetric": True}}
EDGE = "backbone.0|conv2d|0|0"


def scheme(**changes: Any) -> Scheme:
    told = {"scale": torch.tensor(0.5), "zero_point": torch.tensor(3, dtype=torch.int32), "low": 0, "high": 255}
    return Scheme({EDGE: Grid(**(told | changes))}, {"backbone.0|conv2d|0|2": torch.ones(4)})


@pytest.fixture
def second(tmp_path: Path) -> Path:
    """A file that needs format version 2: coded weights, a layer left out, quantized."""
    torch.manual_seed(0)
    path = tmp_path / "second.sbb"
    network = Tiny()
    network.backbone[1] = nn.Identity()
    told = replace(MADE, structure=differences(Tiny(), network))
    artifact.save(path, told, network.state_dict(), coding=CODING, scheme=scheme())
    return path


def test_plain_artifacts_stay_readable_for_older_versions(file: Path, second: Path) -> None:
    assert (manifest_of(file)["version"], manifest_of(second)["version"]) == (1, 2)
    assert not {"structure", "quantization"} & manifest_of(file).keys()
    assert (artifact.load(file).scheme, artifact.load(file).coding) == (None, {})


@pytest.mark.parametrize(
    "more",
    [{"coding": CODING}, {"scheme": scheme()}, {"manifest": replace(MADE, structure={"a": {"type": "Identity"}})}],
)
def test_each_novelty_alone_needs_version_2(tmp_path: Path, more: dict[str, Any]) -> None:
    told = {"manifest": MADE, **more}
    assert artifact.save(tmp_path / "x.sbb", weights=Tiny().state_dict(), **told).version == 2
    assert artifact.load(tmp_path / "x.sbb").manifest.version == 2


def test_structure_quantization_and_codings_come_out_as_they_went_in(second: Path) -> None:
    read = artifact.load(second)
    assert read.manifest.structure == {"backbone.1": {"type": "Identity"}}
    assert read.coding == CODING
    assert read.scheme is not None
    grid = read.scheme.grids[EDGE]
    assert (float(grid.scale), int(grid.zero_point), grid.low, grid.high) == (0.5, 3, 0, 255)
    assert torch.equal(read.scheme.constants["backbone.0|conv2d|0|2"], torch.ones(4))
    assert WEIGHTS not in read.parts
    torch.manual_seed(0)
    weight = Tiny().backbone[0].weight
    step = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    assert ((read.weights["backbone.0.weight"] - weight).abs() <= step * 0.51).all()
    network = Tiny()
    artifact.load_weights(network, read, heads())
    assert isinstance(network.backbone[1], nn.Identity)
    assert torch.equal(network.backbone[0].weight, read.weights["backbone.0.weight"])


def test_equal_quantized_contents_give_equal_bytes(tmp_path: Path) -> None:
    state = Tiny().state_dict()
    for name in ("a.sbb", "b.sbb"):
        artifact.save(tmp_path / name, MADE, state, coding=CODING, scheme=scheme())
    assert (tmp_path / "a.sbb").read_bytes() == (tmp_path / "b.sbb").read_bytes()


def test_a_structure_that_does_not_fit_the_weights_is_refused(tmp_path: Path) -> None:
    wide = {"type": "Conv2d", "in_channels": 3, "out_channels": 60_000, "kernel_size": [3, 3]}
    told = replace(MADE, structure={"backbone.0": wide})
    artifact.save(tmp_path / "x.sbb", told, Tiny().state_dict())
    with pytest.raises(WeightsError, match=r"shape \(60000, 3, 3, 3\), stored: \(4, 3, 3, 3\)"):
        artifact.load_weights(Tiny(), artifact.load(tmp_path / "x.sbb"), heads())


@pytest.mark.parametrize(
    "more",
    [
        {"padding": 16_003},
        {"padding": [1, 300]},
        {"padding": 60_000, "dilation": [60_000, 1]},
        {"type": "ConvTranspose2d", "stride": 4096},
        {"type": "ConvTranspose2d", "dilation": 4096},
    ],
)
def test_a_layer_that_answers_far_beyond_its_picture_is_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    plain = {"type": "Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": [2, 2]}
    artifact.save(tmp_path / "x.sbb", replace(MADE, structure={"backbone.0": plain | more}), Tiny().state_dict())
    with pytest.raises(WeightsError, match="answers far beyond its picture"):
        artifact.load_weights(Tiny(), artifact.load(tmp_path / "x.sbb"), heads())


@pytest.mark.parametrize(
    "changes",
    [
        {"scale": torch.tensor(0.0)},
        {"scale": torch.tensor(-1.0)},
        {"zero_point": torch.tensor(300, dtype=torch.int32)},
        {"axis": 0},
    ],
)
def test_impossible_quantization_is_refused_with_the_file_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    artifact.save(tmp_path / "x.sbb", MADE, Tiny().state_dict(), scheme=scheme(**changes))
    read = artifact.load(tmp_path / "x.sbb")
    with pytest.raises(ArtifactError, match=r"x\.sbb: the quantization scheme is damaged: edge .* impossible grid"):
        _ = read.scheme


def test_quantization_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not finite"):
        artifact.save(tmp_path / "x.sbb", MADE, Tiny().state_dict(), scheme=scheme(scale=torch.tensor(float("nan"))))


def test_quantization_without_its_part_or_with_another_is_refused(second: Path) -> None:
    read = artifact.load(second)
    for parts, message in (
        ({}, "quantization.safetensors is not safetensors"),
        ({QUANTIZATION: b"junk"}, "quantization.safetensors is not safetensors"),
        ({QUANTIZATION: save_tensors({"other": torch.ones(1)})}, "damaged: .*scale"),
    ):
        with pytest.raises(ArtifactError, match=f"second.sbb: .*{message}"):
            _ = Artifact(second, read.manifest, parts).scheme


def test_damaged_coded_weights_are_refused_with_the_file_named(second: Path) -> None:
    read = artifact.load(second)
    broken = Artifact(second, read.manifest, {CODED_WEIGHTS: read.parts[CODED_WEIGHTS][:-9]})
    with pytest.raises(ArtifactError, match=r"second\.sbb: coded weights"):
        _ = broken.weights
    with pytest.raises(ArtifactError, match=r"second\.sbb: coded weights"):
        _ = Artifact(second, read.manifest, {CODED_WEIGHTS: b"PK"}).coding


def test_weights_in_both_forms_are_refused(second: Path) -> None:
    told: Any = manifest_of(second)
    told["parts"][WEIGHTS] = {"sha256": "0" * 64, "bytes": 1}
    with pytest.raises(ArtifactError, match=r"lists no weights\.safetensors"):
        artifact.load(rewritten(second, {MANIFEST: json.dumps(told).encode(), WEIGHTS: b"x"}))
