"""Decomposition equals PyWavelets', in numbers, sizes, types and structure, and is differentiable."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import pywt
import torch

from sharedbb.errors import TransformError
from sharedbb.transforms.wavelet import dwt2, idwt2
from sharedbb.transforms.wavelet_filters import MODES

# db1 is haar under another name.
# What torch 2.11 itself calls while gradients are checked.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

NAMES = [name for name in pywt.wavelist(kind="discrete") if pywt.Wavelet(name).dec_len <= 20 and name != "db1"]

# torch's own forward mode warns on its first use.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _leaves(coefficients: Any) -> Iterator[Any]:
    """Every band of either structure."""
    for item in coefficients:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item


def _assert_same(found: Any, expected: Any, relative: float = 1e-11) -> None:
    """Same structure, types, sizes, and numbers to within a fraction of the largest."""
    assert type(found) is type(expected)
    assert [type(part) for part in found] == [type(part) for part in expected]
    bands = list(zip(_leaves(found), _leaves(expected), strict=True))
    largest = max(1.0, *(float(np.abs(theirs).max()) for _, theirs in bands))
    for ours, theirs in bands:
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * largest)


def test_the_modes_are_those_of_pywavelets() -> None:
    assert sorted(MODES) == sorted(pywt.Modes.modes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(2, 3), (7, 18), (24, 23)], ids=str)
def test_one_level_and_back_with_every_wavelet(shape: tuple[int, int], mode: str) -> None:
    picture = _noise(*shape)
    for name in NAMES:
        expected = pywt.dwt2(picture, name, mode)
        found = dwt2(picture, name, mode=mode)
        _assert_same(found, expected)
        _assert_same((idwt2(found, name, mode),), (pywt.idwt2(expected, name, mode),))


@pytest.mark.parametrize("level", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_levels_with_every_wavelet(name: str, level: int) -> None:
    mode = MODES[(NAMES.index(name) + level) % len(MODES)]
    least = 2**level * (pywt.Wavelet(name).dec_len - 1)
    picture = _noise(least, least + 3)
    expected = pywt.wavedec2(picture, name, mode, level)
    found = dwt2(picture, name, level, mode)
    _assert_same(found, expected)
    restored = idwt2(found, name, mode)
    _assert_same((restored,), (pywt.waverec2(expected, name, mode),))
    # The taps of a few wavelets have only 10 digits: they restore to 1e-9, in PyWavelets as here.
    np.testing.assert_allclose(idwt2(found, name, mode, size=picture.shape), picture, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["haar", "db2", "bior2.2"])
def test_three_levels_in_every_mode(name: str, mode: str) -> None:
    picture = _noise(2, 41, 46)
    _assert_same(dwt2(picture, name, 3, mode), pywt.wavedec2(picture, name, mode, 3))


@pytest.mark.parametrize("mode", [mode for mode in MODES if "reflect" not in mode])
def test_one_sample_along_an_axis(mode: str) -> None:
    picture = _noise(1, 5)
    _assert_same(dwt2(picture, "db4", mode=mode), pywt.dwt2(picture, "db4", mode))


def test_the_longest_filters() -> None:
    picture = _noise(9, 40)
    _assert_same(dwt2(picture, "dmey", mode="antireflect"), pywt.dwt2(picture, "dmey", "antireflect"))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int32", "bool", "complex64", ">f4"])
def test_types_are_those_of_pywavelets(dtype: str) -> None:
    picture = (128 + 60 * _noise(13, 10)).astype(dtype)
    expected = pywt.wavedec2(picture, "db3", "smooth", 1)
    found = dwt2(picture, "db3", mode="smooth")
    precise = expected[0].dtype in (np.float64, np.complex128)
    _assert_same(list(found), expected, 1e-11 if precise else 1e-6)
    restored = idwt2(found, "db3", "smooth")
    _assert_same((restored,), (pywt.waverec2(expected, "db3", "smooth"),), 1e-11 if precise else 1e-6)


def test_axes_and_settings_for_each() -> None:
    frame = _noise(17, 22, 3)
    wavelets, modes = ("db2", "bior1.3"), ("periodization", "antisymmetric")
    found = dwt2(frame, wavelets, 2, modes, axes=(0, 1))
    _assert_same(found, pywt.wavedec2(frame, wavelets, modes, 2, axes=(0, 1)))
    assert found[0].shape[2] == 3
    np.testing.assert_allclose(idwt2(found, wavelets, modes, (0, 1), size=(17, 22)), frame, atol=1e-12)
    # The other way round: rows along the last axis.
    _assert_same(dwt2(frame, "db3", axes=(-1, 0)), pywt.dwt2(frame, "db3", axes=(-1, 0)))


def test_names_in_any_case() -> None:
    picture = _noise(8, 8)
    _assert_same(dwt2(picture, "Bior2.2"), pywt.dwt2(picture, "Bior2.2"))


def test_a_filter_bank_of_ones_own() -> None:
    custom = pywt.Wavelet("mine", filter_bank=([1, 2, 3], [0, 4, 0], [1, 1, 0], [3, -1, 2]))
    picture = _noise(9, 8)
    expected = pywt.dwt2(picture, custom, "reflect")
    _assert_same(dwt2(picture, custom, mode="reflect"), expected)
    _assert_same((idwt2(expected, custom, "reflect"),), (pywt.idwt2(expected, custom, "reflect"),))


@pytest.mark.parametrize("view", ["read-only", "flipped", "every other", "Fortran"])
def test_arrays_of_any_memory_layout_are_read_and_left_alone(view: str) -> None:
    picture = _noise(20, 22).astype(np.float32)
    if view == "read-only":
        picture.flags.writeable = False
    given = {"flipped": picture[::-1, ::-1], "every other": picture[::2, 1::3], "Fortran": np.asfortranarray(picture)}
    array = given.get(view, picture)
    before = array.copy()
    _assert_same(dwt2(array, "haar"), pywt.dwt2(before, "haar"), 1e-6)
    _assert_same(dwt2(array, "bior1.3"), pywt.dwt2(before, "bior1.3"), 1e-6)
    np.testing.assert_array_equal(array, before)


def test_a_filter_of_one_tap_does_not_write_into_the_picture() -> None:
    lazy = pywt.Wavelet("lazy", filter_bank=([0, 2], [3, 0], [0.5, 0], [0, 1 / 3]))
    picture = torch.ones(4, 6)
    expected = pywt.dwt2(np.ones((4, 6), np.float32), lazy)
    _assert_same(tuple(part.numpy() for part in _leaves(dwt2(picture, lazy))), tuple(_leaves(expected)), 1e-6)
    assert (picture == 1).all()


# ---- torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_tensors_give_tensors(dtype: torch.dtype) -> None:
    picture = torch.from_numpy(100 + 40 * _noise(2, 3, 21, 18)).to(dtype)
    wide = {torch.float64: torch.float64, torch.uint8: torch.float64}.get(dtype, torch.float32)
    found = dwt2(picture, "sym4", 1, "antireflect")
    expected = pywt.dwt2(picture.to(wide).numpy(), "sym4", "antireflect")
    for ours, theirs in zip(_leaves(found), _leaves(expected), strict=True):
        assert isinstance(ours, torch.Tensor)
        assert ours.dtype == wide
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6 * np.abs(theirs).max())
    restored = idwt2(found, "sym4", "antireflect", size=(21, 18))
    torch.testing.assert_close(restored, picture.to(wide), atol=1e-3, rtol=0)


def test_autocast_does_not_cost_precision() -> None:
    picture = torch.from_numpy(_noise(16, 16)).float()
    with torch.autocast("cpu", torch.bfloat16):
        under = dwt2(picture, "db2")
    for ours, theirs in zip(_leaves(under), _leaves(dwt2(picture, "db2")), strict=True):
        assert torch.equal(ours, theirs)


@FORWARD_MODE
@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_analysis(mode: str) -> None:
    picture = torch.from_numpy(_noise(5, 6)).requires_grad_()

    def bands(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(_leaves(dwt2(x, ("bior1.3", "haar"), mode=mode)))

    assert torch.autograd.gradcheck(bands, picture, check_forward_ad=True, check_batched_grad=True)


@FORWARD_MODE
@pytest.mark.parametrize("mode", ["symmetric", "periodization"])
def test_gradients_of_synthesis_and_second_derivatives(mode: str) -> None:
    coefficients = [band.detach().requires_grad_() for band in _leaves(dwt2(torch.from_numpy(_noise(5, 6)), "db2"))]

    def picture(*bands: torch.Tensor) -> torch.Tensor:
        return idwt2((bands[0], bands[1:]), "db2", mode)

    assert torch.autograd.gradcheck(picture, coefficients, check_forward_ad=True)
    # Squared, as the transform itself is linear.
    assert torch.autograd.gradgradcheck(lambda *bands: picture(*bands) ** 2, coefficients)
    x = torch.from_numpy(_noise(5, 4)).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda y: dwt2(y, "db2", mode=mode)[0] ** 2, x)


def test_gradients_through_levels_equal_finite_differences() -> None:
    picture = torch.from_numpy(_noise(14, 13)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: tuple(_leaves(dwt2(x, "db2", 2, "smooth"))), picture, fast_mode=True)


def test_vmap() -> None:
    pictures = torch.from_numpy(_noise(3, 10, 9))
    mapped = torch.func.vmap(lambda x: dwt2(x, "db3", mode="antisymmetric")[0])(pictures)
    torch.testing.assert_close(mapped, dwt2(pictures, "db3", mode="antisymmetric")[0])


def test_gradients_after_inference_mode() -> None:
    """What is kept from one call to the next can be used in training."""
    picture = torch.from_numpy(_noise(11, 15))
    with torch.inference_mode():
        dwt2(picture, "db2", mode="antireflect")
    picture.requires_grad_()
    dwt2(picture, "db2", mode="antireflect")[0].sum().backward()
    assert picture.grad is not None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("mode", MODES)
def test_cuda_equals_cpu_without_waiting(mode: str) -> None:
    picture = torch.from_numpy(_noise(3, 37, 50)).float()
    expected = dwt2(picture, "db4", 2, mode)
    there = picture.cuda()
    idwt2(dwt2(there, "db4", 2, mode), "db4", mode)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = dwt2(there, "db4", 2, mode)
        restored = idwt2(found, "db4", mode, size=(37, 50))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(_leaves(found), _leaves(expected), strict=True):
        assert ours.is_cuda
        torch.testing.assert_close(ours.cpu(), theirs, atol=1e-5 * float(theirs.abs().max() + 1), rtol=0)
    torch.testing.assert_close(restored.cpu(), picture, atol=1e-5, rtol=0)


# ---- coefficients that are missing, of other types, or do not fit


def test_missing_bands_count_as_zeros() -> None:
    low, (horizontal, vertical, _) = pywt.dwt2(_noise(8, 9), "db2")
    for given in (
        (low, (None, None, None)),
        (None, (horizontal, None, None)),
        (low, (None, vertical, None)),
    ):
        _assert_same((idwt2(given, "db2"),), (pywt.idwt2(given, "db2"),))
    deep = pywt.wavedec2(_noise(20, 21), "haar", level=2)
    without = [deep[0], (None, None, None), deep[2]]
    _assert_same((idwt2(without, "haar"),), (pywt.waverec2(without, "haar"),))


def test_mixed_precision_becomes_the_wider() -> None:
    low, high = pywt.dwt2(_noise(8, 8), "haar")
    restored = idwt2((low.astype(np.float32), high), "haar")
    assert restored.dtype == np.float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wavelet": "bd2"}, "'bd2' is not among PyWavelets' 106 discrete ones; near: .*'db2'"),
        ({"wavelet": "xyzzy"}, "near: .*'haar'"),
        ({"wavelet": "morl"}, "morl is continuous"),
        ({"wavelet": "cmor1.5-1.0"}, "continuous"),
        ({"wavelet": pywt.ContinuousWavelet("mexh")}, "mexh is continuous"),
        ({"wavelet": 3}, "wavelet is a int"),
        ({"wavelet": ("haar", "db2", "db3")}, "3 settings for the two axes"),
        ({"mode": "mirror"}, "'mirror' is none of zero, constant, symmetric"),
        ({"level": 4}, "level 4 is too deep for 24x30 with db2: at most 3"),
        ({"level": 2, "wavelet": "db10"}, "at most 1"),
        ({"level": 0}, "level is 0: db2 on 24x30 takes 1 to 3"),
        ({"level": None}, "level is None: .* takes 1 to 3"),
        ({"level": True}, "level is True"),
        ({"axes": (0, 2)}, "not both among the 2"),
        ({"axes": (0, -2)}, "the same one"),
        ({"axes": 0}, "give two"),
        ({"x": np.zeros(8)}, "at least 2 dimensions, not 1"),
        ({"x": np.zeros((0, 8))}, "0x8 has nothing"),
        ({"x": np.array([["a", "b"]])}, "numbers"),
        ({"x": np.zeros((24, 30, 3)), "level": 2}, r"too deep for 30x3 .*; a frame \[H, W, C\] takes axes=\(0, 1\)"),
        ({"x": np.zeros((1, 6)), "mode": "reflect"}, "needs 2 along each axis"),
    ],
    ids=lambda value: value if isinstance(value, str) else str(list(value)),
)
def test_bad_input(settings: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"x": np.zeros((24, 30)), "wavelet": "db2"} | settings
    with pytest.raises(TransformError, match=message):
        dwt2(**given)


def _zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        (_zeros(4, 4), "not a ndarray"),
        ([_zeros(4, 4)], "not a list of 1"),
        ((_zeros(4, 4), _zeros(3, 4, 4)), "details of level 1 are a ndarray"),
        ((_zeros(4, 4), (_zeros(4, 4),) * 2), "details of level 1 are a tuple of 2"),
        ((None, (None, None, None)), "no band of level 1"),
        ((_zeros(4, 4), (_zeros(4, 4), _zeros(4, 5), _zeros(4, 4))), "details of level 1 have sizes"),
        ((_zeros(6, 4), (_zeros(4, 4),) * 3), r"details \(4, 4\) do not go with an approximation \(6, 4\)"),
        ((_zeros(4, 4), (_zeros(3, 4, 4),) * 3), "do not go with"),
        ([_zeros(4, 4), (_zeros(4, 4),) * 3, (_zeros(9, 6),) * 3], r"level 1: details \(9, 6\) .* \(6, 6\)"),
        ((_zeros(1, 4), (_zeros(1, 4),) * 3), "1 coefficients along an axis; db2 has at least 2"),
        ((_zeros(4, 4), (torch.zeros(4, 4),) * 3), "partly arrays and partly tensors"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_coefficients_that_do_not_fit(coefficients: Any, message: str) -> None:
    with pytest.raises(TransformError, match=message):
        idwt2(coefficients, "db2")


@pytest.mark.parametrize("size", [(8, 9), (10, 8), (6, 8), 8])
def test_size_must_be_that_of_the_coefficients(size: Any) -> None:
    with pytest.raises(TransformError, match="size"):
        idwt2(dwt2(_noise(8, 7), "haar"), "haar", size=size)


def test_the_room_is_light() -> None:
    program = "import sys, sharedbb.transforms; print(*sorted({'torch', 'pywt'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_fields_of_structured_arrays_and_numbers_of_numpy_are_taken() -> None:
    fields = np.zeros((8, 6), np.dtype([("a", np.uint8), ("b", np.float32)]))
    fields["b"] = np.random.default_rng(4).random((8, 6))
    expected = pywt.wavedec2(np.array(fields["b"]), "haar", level=2, axes=(0, 1))
    found = dwt2(fields["b"], "haar", level=np.int64(2), axes=(np.int64(0), np.int64(1)))  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-6)
    with pytest.raises(TransformError, match="nothing to decompose"):
        dwt2(None, "haar")
    for size in ((8.0, 6), ("a", "b")):
        with pytest.raises(TransformError, match=r"give \(height, width\)"):
            idwt2(found, "haar", size=size)  # type: ignore[arg-type]


def test_second_derivatives_by_torchs_own_transforms() -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return (dwt2(x, "db2")[0] ** 2).sum()

    x = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.func.hessian(energy)(x), torch.autograd.functional.hessian(energy, x))
