"""Coded weights: bit for bit what they must be, small, and never a danger to read."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharedbb import coding
from sharedbb.coding.part import MAGIC
from sharedbb.errors import ArtifactError

UNIFORM = {"type": "uniform", "bits": 4, "axis": 0, "symmetric": True}
KINDS = [torch.float64, torch.float32, torch.float16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pruned(tensor: Tensor, share: float) -> Tensor:
    least = tensor.abs().flatten().kthvalue(int(share * tensor.numel())).values
    return torch.where(tensor.abs() <= least, 0.0, tensor)


def levels(*shape: int, count: int, seed: int = 0) -> Tensor:
    """A weight of ``count`` different values."""
    places = torch.randint(count, shape, generator=torch.Generator().manual_seed(seed))
    return weight(count, seed=seed + 1)[places]


def through(tensors: dict[str, Tensor], how: dict[str, dict[str, Any]]) -> dict[str, Tensor]:
    """Encoded and decoded; what comes out must stay as it is from then on."""
    data = coding.encode(tensors, how)
    found = coding.decode(data)
    assert coding.encode(found, how) == data
    assert [(name, tensor.dtype, tensor.shape) for name, tensor in found.items()] == [
        (name, tensors[name].dtype, tensors[name].shape) for name in sorted(tensors)
    ]
    return found


@pytest.mark.parametrize("dtype", [*KINDS, torch.bool], ids=str)
def test_weights_without_a_coding_come_back_as_they_were(dtype: torch.dtype) -> None:
    given = {
        "b": (weight(4, 3, 2) * 100).to(dtype),
        "a": torch.tensor(1).to(dtype),
        "empty": torch.zeros(3, 0).to(dtype),
    }
    found = through(given, {})
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
    assert coding.codings(coding.encode(given, {})) == {}


def test_half_precision_rounds_as_torch_does() -> None:
    given = {"w": weight(8, 5)}
    assert torch.equal(through(given, {"w": {"type": "plain", "dtype": "f16"}})["w"], given["w"].half().float())


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_sparse_weights_come_back_as_they_were(share: float) -> None:
    given = {
        "w": pruned(weight(40, 50), share),
        "long": torch.zeros(3000),
        "full": torch.ones(7),
        "none": torch.zeros(0),
    }
    given["long"][[0, 300, 301, 1500]] = torch.tensor([1.0, 2.0, 3.0, -4.0])
    found = through(given, {name: {"type": "plain", "sparse": True} for name in given})
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())


def test_minus_zero_is_zero_where_zeros_are_left_out() -> None:
    found = through({"w": torch.tensor([-0.0, 1.0])}, {"w": {"type": "plain", "sparse": True}})["w"]
    assert not torch.signbit(found).any()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("axis", [0, None])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_uniform_coding_rounds_to_the_nearest_step(bits: int, axis: int | None, symmetric: bool, sparse: bool) -> None:
    given = weight(6, 40) * torch.tensor([1.0, 0.1, 30.0, 1e-5, 1.0, 0.0])[:, None]
    given[4] = given[4].abs() + 1  # all on one side
    how = {"type": "uniform", "bits": bits, "axis": axis, "symmetric": symmetric, "sparse": sparse}
    found = through({"w": given}, {"w": how})["w"]
    rows = given if axis == 0 else given.reshape(1, -1)
    low, high = rows.amin(1).clamp_max(0), rows.amax(1).clamp_min(0)
    span = 2 * torch.maximum(-low, high) / (2**bits - 2) if symmetric else (high - low) / (2**bits - 1)
    assert ((found.reshape(rows.shape) - rows).abs() <= 0.501 * span[:, None] + 1e-30).all()
    for row in found.reshape(rows.shape):
        assert len(row.unique()) <= 2**bits


def test_symmetric_scales_against_computation_by_hand() -> None:
    found = through({"w": torch.tensor([[3.0, -0.9, 0.4], [-28.0, 5.0, 6.1]])}, {"w": UNIFORM | {"bits": 3}})["w"]
    assert found.tolist() == [
        [3.0, -1.0, 0.0],
        [pytest.approx(-28.0, rel=1e-4), *[pytest.approx(28 / 3, rel=1e-4)] * 2],
    ]


@pytest.mark.parametrize("seed", range(20))
def test_uniform_coding_is_stable_whatever_the_values(seed: int) -> None:
    draw = np.random.default_rng(seed)
    values = draw.standard_normal((7, 30)) * 10.0 ** draw.integers(-40, 30, (7, 1)) + draw.integers(-1, 2, (7, 1))
    for bits in (2, 3, 5, 8):
        for symmetric in (True, False):
            how = {"w": UNIFORM | {"bits": bits, "symmetric": symmetric}}
            once = coding.decode(coding.encode({"w": torch.from_numpy(values).float()}, how))
            again = coding.decode(coding.encode(once, how))
            assert torch.equal(again["w"], once["w"])
            assert bool(once["w"].isfinite().all())


@pytest.mark.parametrize("bits", range(1, 9))
def test_codebooks_keep_every_value(bits: int) -> None:
    given = {"a": levels(30, 5, count=2**bits), "b": levels(9, 3, count=2**bits)}
    how = {"a": {"type": "codebook", "bits": bits, "group": "trunk"}, "b": {"type": "codebook", "bits": bits}}
    found = through(given, how | {"b": {"type": "codebook", "bits": bits, "group": "trunk"}})
    assert all(torch.equal(found[name], tensor) for name, tensor in given.items())
    data = coding.encode(given, how)
    assert coding.codings(data) == how
    assert all(torch.equal(tensor, given[name]) for name, tensor in coding.decode(data).items())


def test_zeros_of_sparse_weights_take_no_place_in_the_codebook() -> None:
    given = pruned(levels(50, 9, count=16), 0.3)
    given = torch.where(given == 0, 0.0, levels(50, 9, count=16, seed=5))
    through({"w": given}, {"w": {"type": "codebook", "bits": 4, "sparse": True}})
    with pytest.raises(ArtifactError, match="17 different values, 4 bits tell 16 apart"):
        coding.encode({"w": given}, {"w": {"type": "codebook", "bits": 4}})


def test_indices_are_coded_to_about_their_entropy() -> None:
    given = (weight(100_000) * 2).round().clamp(-8, 7)
    share = given.unique(return_counts=True)[1] / given.numel()
    size = len(coding.encode({"w": given}, {"w": {"type": "codebook", "bits": 4}}))
    assert size < 1.03 * float(-(share * share.log2()).sum()) * given.numel() / 8


def test_pruned_and_clustered_weights_are_ten_times_smaller() -> None:
    given = {
        f"layers.{at}.weight": torch.where(
            pruned(weight(64, 64, 3, seed=at), 0.5) == 0, 0.0, levels(64, 64, 3, count=16)
        )
        for at in range(4)
    }
    data = coding.encode(given, {name: {"type": "codebook", "bits": 4, "sparse": True} for name in given})
    assert len(data) < sum(tensor.numel() * 4 for tensor in given.values()) / 10


def test_equal_weights_give_equal_bytes_in_whatever_order() -> None:
    given, how = sample()
    turned = {name: given[name].clone() for name in reversed(given)}, {name: how[name] for name in reversed(how)}
    assert coding.encode(*turned) == coding.encode(given, how)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"type": "zip"}, "no coding is called 'zip' \\(known: plain, uniform, codebook\\)"),
        ({"type": "plain", "bits": 4}, "a plain coding has no 'bits'"),
        ({"type": "uniform", "bits": 1}, "bits of a uniform coding is 1; it must be 2 to 8"),
        ({"type": "uniform", "bits": True}, "bits of a uniform coding is True"),
        ({"type": "uniform", "axis": 1}, "axis of a uniform coding is 1; it must be 0 or None"),
        ({"type": "codebook", "bits": 9}, "bits of a codebook coding is 9; it must be 1 to 8"),
        ({"type": "codebook", "group": 3}, "group of a codebook coding is 3"),
        ({"type": "codebook", "bits": 2}, "have 12 different values, 2 bits tell 4 apart; cluster them first"),
        ({"type": "plain", "dtype": "f8"}, "dtype of a plain coding is 'f8'; it must be f16 or f32"),
        ({"type": "plain", "sparse": 1}, "sparse of a plain coding is 1"),
    ],
)
def test_codings_that_do_not_fit_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        coding.encode({"w": weight(3, 4)}, {"w": how})


@pytest.mark.parametrize(
    ("tensor", "how", "said"),
    [
        (torch.tensor([float("nan")]), {"type": "plain"}, "'w' is not finite"),
        (torch.tensor([1e5]), {"type": "plain", "dtype": "f16"}, "'w' is not finite as float16"),
        (torch.zeros(3, dtype=torch.bfloat16), {"type": "plain"}, "'w' is torch.bfloat16; only f64"),
        (torch.zeros(3, dtype=torch.int32), UNIFORM, "'w' is int32; only float32"),
        (torch.tensor(1.0), UNIFORM, "is a scalar and has no axis 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tensor: Tensor, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        coding.encode({"w": tensor}, {"w": how})


def test_a_coding_for_no_weight_is_refused() -> None:
    with pytest.raises(ArtifactError, match="a coding for 'v', but no weight"):
        coding.encode({"w": weight(2)}, {"v": {"type": "plain"}})


def sample() -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    given = {"a": weight(9, 7), "b": pruned(weight(600), 0.9), "c": levels(30, count=4), "d": torch.tensor(5)}
    how = {
        "a": UNIFORM,
        "b": {"type": "plain", "dtype": "f16", "sparse": True},
        "c": {"type": "codebook", "bits": 2, "group": "g"},
    }
    return given, how


def changed(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The sample's bytes with another header."""
    data = coding.encode(*sample())
    at = len(MAGIC) + 4
    end = at + int.from_bytes(data[len(MAGIC) : at], "little")
    header = json.loads(zlib.decompress(data[at:end], -15))
    header = change(header) or header
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = stream.compress(json.dumps(header).encode()) + stream.flush()
    return MAGIC + len(text).to_bytes(4, "little") + text + data[end:]


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change of one value in the header."""

    def change(header: Any) -> None:
        for step in path[:-1]:
            header = header[step]
        header[path[-1]] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        put("tensors", "a", "shape", value=[9, 8]),
        put("tensors", "a", "shape", value=[9, -7]),
        put("tensors", "a", "shape", value=[2**40, 2**40]),
        put("tensors", "a", "shape", value=[0, 2**62]),
        put("tensors", "a", "shape", value=["9", 7]),
        put("tensors", "a", "shape", value=[1] * 90),
        put("tensors", "a", "shape", value=7),
        put("tensors", "a", "dtype", value="f16"),
        put("tensors", "a", "dtype", value="object"),
        put("tensors", "a", "coding", value={"type": "codebook", "bits": 4, "group": "absent"}),
        put("tensors", "a", "coding", value={"type": "uniform", "bits": 64, "axis": 0, "symmetric": True}),
        put("tensors", "a", "coding", value=[]),
        put("tensors", "a", "runs", value=3),
        put("tensors", "b", "runs", value=None),
        put("tensors", "b", "runs", value=-1),
        put("tensors", "b", "runs", value=10),
        put("tensors", "b", "shape", value=[2**29 + 1]),
        put("tensors", "b", "shape", value=[2**28]),
        put("tensors", "b", "shape", value=[100]),
        put("tensors", "c", "shape", value=[2**40]),
        put("tensors", "e", value={"shape": [4], "dtype": "f32"}),
        put("tensors", value=[]),
        put("codebooks", "g", value=3),
        put("codebooks", "g", value=2**40),
        put("codebooks", "g", value=-1),
        put("codebooks", "g", value=float("inf")),
        put("lanes", "runs", value=[float("inf"), 1]),
        put("tensors", "c", "shape", value=[float("inf")]),
        put("codebooks", value={}),
        put("lanes", "runs", value=[1, 2**31]),
        put("lanes", "runs", value=[-5, 100]),
        put("lanes", "codebook2", value=[1, 30]),
        put("lanes", "codebook2", value=None),
        put("lanes", "extra", value=[0, 0, 0]),
        put("lanes", value={}),
        lambda header: [header],
        lambda header: {"tensors": {}},
    ],
)
def test_a_wrong_header_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(ArtifactError):
        coding.decode(changed(change))


def test_a_small_file_may_not_claim_to_be_a_huge_one() -> None:
    zeros = {"w": torch.zeros(2**23)}
    data = coding.encode(zeros, {"w": {"type": "uniform", "bits": 8, "sparse": True}})
    assert torch.equal(coding.decode(data)["w"], zeros["w"])  # 32 MiB are nothing
    more = {"w": torch.zeros(2**25)}
    data = coding.encode(more, {"w": {"type": "uniform", "bits": 8, "sparse": True}})
    with pytest.raises(ArtifactError, match="134217728 bytes when decoded, more than 67108864; do not trust this file"):
        coding.decode(data)


def test_a_small_file_cannot_fill_the_memory() -> None:
    """Deflated zeros that claim to be no more than they may be are inflated no further."""
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream = bomb.compress(bytes(2**24)) + bomb.flush()
    header = {
        "tensors": {"w": {"shape": [1000], "dtype": "u8"}},
        "codebooks": {},
        "lanes": {"u8.0": [len(stream), 1000]},
    }
    if len(stream) > 1000:  # a lane is never longer packed than it is
        header["tensors"]["w"]["shape"] = [len(stream) + 1]
        header["lanes"]["u8.0"] = [len(stream), len(stream) + 1]
    packed = zlib.compressobj(9, zlib.DEFLATED, -15)
    text = packed.compress(json.dumps(header).encode()) + packed.flush()
    with pytest.raises(ArtifactError, match=r"lane 'u8\.0' is damaged"):
        coding.decode(MAGIC + len(text).to_bytes(4, "little") + text + stream)
    text = stream + b"x"  # and a header that is one
    with pytest.raises(ArtifactError, match="the header is damaged, cut off or too long"):
        coding.decode(MAGIC + len(text).to_bytes(4, "little") + text)


def test_bytes_that_are_cut_off_or_changed_never_end_otherwise_than_in_an_error_of_ours() -> None:
    given, how = sample()
    data = coding.encode(given, how)
    for end in range(len(data)):
        with pytest.raises(ArtifactError):
            coding.decode(data[:end])
    with pytest.raises(ArtifactError, match="cut off, or longer"):
        coding.decode(data + b"x")
    draw = np.random.default_rng(0)
    for _ in range(300):
        hurt = bytearray(data)
        hurt[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
        try:
            coding.decode(bytes(hurt))
        except ArtifactError:
            continue


def test_other_bytes_are_named_as_such() -> None:
    with pytest.raises(ArtifactError, match="are not coded weights"):
        coding.decode(b"PK")
    with pytest.raises(ArtifactError, match="are of another version"):
        coding.decode(coding.encode({}, {}).replace(b"coding 1", b"coding 2"))
    assert coding.decode(coding.encode({}, {})) == {}


def test_reading_codings_needs_no_torch() -> None:
    program = "import sys, sharedbb.coding; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
    )
