"""Bands are PyWavelets' own in mode ``zero``: names, order, signs, numbers, and how many there are."""

from __future__ import annotations

import numpy as np
import pytest
import pywt

from sharedbb.errors import TransformError
from sharedbb.transforms.bands import Bands, phases, wavelet_bands

PICTURE = np.random.default_rng(0).standard_normal((32, 48))


def _coefficients(picture: np.ndarray, bands: Bands) -> dict[str, np.ndarray]:
    """The definition in ``Bands``, place by place."""
    down, right = (bands.count(side) for side in picture.shape)
    room = np.pad(picture, ((bands.lead, bands.length), (bands.lead, bands.length)))
    found = {name: np.zeros((down, right)) for name in bands.names}
    for name, kernel in zip(bands.names, bands.kernels, strict=True):
        for m in range(down):
            for n in range(right):
                y, x = bands.block * m, bands.block * n
                found[name][m, n] = (room[y : y + bands.length, x : x + bands.length] * kernel).sum()
    return found


@pytest.mark.parametrize("wavelet", ["haar", "db2", "sym4", "coif1", "bior2.2", "rbio3.1"])
def test_one_level_is_that_of_pywavelets(wavelet: str) -> None:
    (bands,) = wavelet_bands(wavelet).kept
    approximation, details = pywt.dwt2(PICTURE, wavelet, mode="zero")
    assert bands.names == ("a", "h", "v", "d")
    found = _coefficients(PICTURE, bands)
    for name, expected in zip("ahvd", (approximation, *details), strict=True):
        np.testing.assert_allclose(found[name], expected, atol=1e-12)


@pytest.mark.parametrize("wavelet", ["haar", "db3"])
def test_two_levels_are_those_of_pywavelets(wavelet: str) -> None:
    fine, coarse = wavelet_bands(wavelet, 2).kept
    approximation, *details = pywt.wavedec2(PICTURE, wavelet, mode="zero", level=2)
    assert (fine.names, coarse.names) == (("h", "v", "d"), ("aa", "ah", "av", "ad"))
    assert (fine.block, coarse.block) == (2, 4)
    found = _coefficients(PICTURE, fine) | _coefficients(PICTURE, coarse)
    for name, expected in zip(found, (*details[1], approximation, *details[0]), strict=True):
        height, width = found[name].shape
        np.testing.assert_allclose(found[name], expected[:height, :width], atol=1e-12)
        assert np.abs(expected[height:]).sum() + np.abs(expected[:, width:]).sum() == 0


def test_a_packet_splits_every_band() -> None:
    (bands,) = wavelet_bands("haar", 2, "packet").kept
    packet = pywt.WaveletPacket2D(PICTURE, "haar", mode="zero", maxlevel=2)
    found = _coefficients(PICTURE, bands)
    assert len(found) == 16
    for name, coefficients in found.items():
        np.testing.assert_allclose(coefficients, packet[name].data, atol=1e-12)


def test_haar_is_orthonormal() -> None:
    for bands in (wavelet_bands("haar").kept[0], wavelet_bands("haar", 2, "packet").kept[0]):
        basis = bands.kernels.reshape(len(bands.names), -1)
        np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)


@pytest.mark.parametrize("block", [2, 4])
def test_phases_are_pixels(block: int) -> None:
    (bands,) = phases(block).kept
    assert bands.are_phases
    found = _coefficients(PICTURE, bands)
    assert np.array_equal(found[f"{block - 1},1"], PICTURE[block - 1 :: block, 1::block])


@pytest.mark.parametrize(
    ("levels", "layout", "keep", "kept"),
    [
        (1, "mallat", "all", "a h v d"),
        (1, "mallat", "low", "a"),
        (1, "mallat", "low_and_edges", "a h v"),
        (2, "mallat", "low", "aa"),
        (2, "mallat", "low_and_edges", "h v aa ah av"),
        (2, "packet", "low", "aa"),
        (2, "packet", "low_and_edges", "aa ah av ha hh hv va vh vv"),
    ],
)
def test_what_is_kept_and_what_is_left_out_make_up_everything(levels: int, layout: str, keep: str, kept: str) -> None:
    found = wavelet_bands("haar", levels, layout, keep)  # type: ignore[arg-type]
    names = [name for bands in found.kept for name in bands.names]
    left_out = [name for bands in found.dropped for name in bands.names]
    everything = [name for bands in wavelet_bands("haar", levels, layout).kept for name in bands.names]  # type: ignore[arg-type]
    assert names == kept.split()
    assert sorted(names + left_out) == sorted(everything)
    assert found.exact == (keep == "all")
    assert found.block == 2**levels


def test_the_mean_is_known_as_such() -> None:
    assert wavelet_bands("haar", 2, keep="low").kept[0].are_means
    assert not wavelet_bands("haar", 2).kept[1].are_means
    assert not wavelet_bands("db2", keep="low").kept[0].are_means
    assert not wavelet_bands("haar").kept[0].are_phases


@pytest.mark.parametrize("wavelet", ["db99", "gaus1", "no such wavelet", "dmey"])
def test_wavelets_that_do_not_exist_or_do_not_reconstruct_are_refused(wavelet: str) -> None:
    with pytest.raises(TransformError, match=wavelet):
        wavelet_bands(wavelet)
