"""A folded convolution on bands gives what the convolution gives on the picture, whatever its kernel and padding."""

from __future__ import annotations

import numpy as np
import pytest
import pywt
import torch
from torch import Tensor
from torch.nn import functional

from sharedbb.errors import TransformError
from sharedbb.transforms.bands import Bands, Decomposition, phases, wavelet_bands
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.fold import Folded, fold_bands, fold_blocks, fold_colour, fold_planes

Pair = tuple[int, int]
HEIGHT, WIDTH = 32, 48

CONVOLUTIONS: list[tuple[Pair, Pair, Pair]] = [
    ((3, 3), (2, 2), (1, 1)),
    ((7, 7), (2, 2), (3, 3)),
    ((4, 4), (4, 4), (0, 0)),
    ((2, 2), (2, 2), (0, 0)),
    ((1, 1), (2, 2), (0, 0)),
    ((1, 1), (4, 4), (0, 0)),
    ((3, 3), (2, 2), (0, 0)),
    ((6, 6), (2, 2), (2, 2)),
    ((3, 5), (2, 4), (1, 2)),
    ((5, 3), (4, 4), (2, 0)),
    ((7, 7), (4, 4), (3, 3)),
    ((3, 3), (4, 4), (5, 4)),
    ((11, 11), (4, 4), (2, 2)),
]
FORMS = {
    "blocks of 2": phases(2),
    "blocks of 4": phases(4),
    "haar": wavelet_bands("haar"),
    "haar, two levels": wavelet_bands("haar", 2),
    "haar, packet": wavelet_bands("haar", 2, "packet"),
    "db2": wavelet_bands("db2"),
    "db2, two levels": wavelet_bands("db2", 2),
    "db3, two levels": wavelet_bands("db3", 2),
    "bior2.2": wavelet_bands("bior2.2"),
    "bior2.2, two levels": wavelet_bands("bior2.2", 2),
    "sym5, packet": wavelet_bands("sym5", 2, "packet"),
}


ROUGH = ("sym3",)  # PyWavelets has its coefficients to about ten digits


def _randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def _analysed(picture: Tensor, bands: Bands) -> Tensor:
    """Bands as a strided convolution with the whole picture's own, plain padding."""
    after = [bands.block * (bands.count(side) - 1) + bands.length - bands.lead - side for side in picture.shape[2:]]
    room = functional.pad(picture.flatten(0, 1)[:, None], (bands.lead, after[1], bands.lead, after[0]))
    found = functional.conv2d(room, torch.from_numpy(bands.kernels)[:, None], stride=bands.block)
    return found.unflatten(0, picture.shape[:2]).flatten(1, 2)


def _applied(bands: Tensor, folded: Folded) -> Tensor:
    return functional.conv2d(functional.pad(bands, folded.pads), folded.weight, stride=folded.stride)


def _error(form: Decomposition, kernel: Pair, stride: Pair, padding: Pair, size: Pair = (HEIGHT, WIDTH)) -> float:
    picture, weight = _randn(2, 3, *size), _randn(5, 3, *kernel)
    expected = functional.conv2d(picture, weight, stride=stride, padding=padding)
    total = torch.zeros_like(expected)
    for bands in form.kept:
        analysed = _analysed(picture, bands)
        folded = fold_bands(weight, stride, padding, bands)
        cells: Pair = (analysed.shape[2], analysed.shape[3])
        total += _applied(analysed, folded.fitted(cells, (expected.shape[2], expected.shape[3])))
    return float((total - expected).abs().max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kernel", "stride", "padding"), CONVOLUTIONS)
def test_every_form_gives_what_the_picture_gives(form: str, kernel: Pair, stride: Pair, padding: Pair) -> None:
    if any(step % FORMS[form].block for step in stride):
        with pytest.raises(TransformError, match="must divide the stride"):
            _error(FORMS[form], kernel, stride, padding)
    else:
        assert _error(FORMS[form], kernel, stride, padding) <= 1e-10


def test_sides_need_be_no_multiples_of_the_stride() -> None:
    for kernel, stride, padding in CONVOLUTIONS:
        if stride == (4, 4):
            assert _error(phases(2), kernel, stride, padding, (22, 26)) <= 1e-10
            assert _error(wavelet_bands("db2"), kernel, stride, padding, (22, 26)) <= 1e-10


@pytest.mark.parametrize("family", ["db", "sym", "coif", "bior", "rbio"])
def test_every_family_of_wavelets_folds(family: str) -> None:
    names = [name for name in pywt.wavelist(family) if pywt.Wavelet(name).dec_len <= 10]
    for name in names:
        error = _error(wavelet_bands(name), (3, 3), (2, 2), (1, 1), (16, 16))
        assert error <= (1e-9 if name in ROUGH else 1e-10), name


def test_every_wavelet_but_one_gives_the_picture_back() -> None:
    for name in pywt.wavelist(kind="discrete"):
        if name != "dmey":
            assert wavelet_bands(name).exact


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "block", "folded_kernel", "pads"),
    [
        (3, 2, 1, 2, (2, 2), (1, 0, 1, 0)),
        (7, 2, 3, 2, (4, 4), (2, 1, 2, 1)),
        (4, 4, 0, 4, (1, 1), (0, 0, 0, 0)),
        (4, 4, 0, 2, (2, 2), (0, 0, 0, 0)),
    ],
)
def test_the_usual_stems(kernel: int, stride: int, padding: int, block: int, folded_kernel: Pair, pads: object) -> None:
    folded = fold_blocks(_randn(8, 3, kernel, kernel), (stride, stride), (padding, padding), block)
    assert (folded.kernel, folded.pads) == (folded_kernel, pads)
    assert folded.stride == (stride // block, stride // block)
    assert folded.taps == 3 * block**2 * folded_kernel[0] * folded_kernel[1]
    assert folded.weight.dtype == torch.float64


def test_blocks_are_those_of_pixel_unshuffle() -> None:
    picture, weight = _randn(1, 3, HEIGHT, WIDTH), _randn(4, 3, 3, 3)
    found = _applied(functional.pixel_unshuffle(picture, 2), fold_blocks(weight, (2, 2), (1, 1), 2))
    torch.testing.assert_close(found, functional.conv2d(picture, weight, stride=2, padding=1), rtol=0, atol=1e-12)


def test_haar_is_a_change_of_basis_of_the_blocks() -> None:
    weight = _randn(4, 3, 7, 7)
    (haar,) = wavelet_bands("haar").kept
    basis = torch.from_numpy(haar.kernels.reshape(4, 4))
    blocks = fold_blocks(weight, (2, 2), (3, 3), 2).weight.unflatten(1, (3, 4))
    expected = torch.einsum("ocpij,bp->ocbij", blocks, basis).flatten(1, 2)
    torch.testing.assert_close(fold_bands(weight, (2, 2), (3, 3), haar).weight, expected, rtol=0, atol=1e-12)


def test_float32_weights_are_folded_in_float64() -> None:
    weight = _randn(4, 3, 3, 3).float()
    (haar,) = wavelet_bands("haar").kept
    found = fold_bands(weight, (2, 2), (1, 1), haar).weight
    assert torch.equal(found, fold_bands(weight.double(), (2, 2), (1, 1), haar).weight)


@pytest.mark.parametrize("colour", [Colour("bt601", "limited"), Colour("bt709", "full")], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 2, 1), (7, 2, 3), (4, 4, 0)])
def test_planes_give_what_rgb_with_replicated_chroma_gives(
    colour: Colour, kernel: int, stride: int, padding: int
) -> None:
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    dice = np.random.default_rng(0)
    luma = torch.from_numpy(dice.integers(0, 256, (1, 1, HEIGHT, WIDTH)).astype(np.float64))
    chroma = torch.from_numpy(dice.integers(0, 256, (1, 2, HEIGHT // 2, WIDTH // 2)).astype(np.float64))
    weight = _randn(8, 3, kernel, kernel)
    to_rgb, foot = colour.to_rgb()
    yuv = torch.cat([luma, chroma.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1).numpy()[0]
    rgb = np.einsum("ck,khw->chw", to_rgb, yuv - foot[:, None, None])
    normalised = torch.from_numpy((rgb - mean[:, None, None]) / std[:, None, None])[None]
    expected = functional.conv2d(normalised, weight, stride=stride, padding=padding)

    folded = fold_planes(weight, (stride, stride), (padding, padding), to_rgb / std[:, None])
    from_rgb, offset = colour.from_rgb()
    grey = torch.from_numpy(from_rgb @ mean + offset)[None, :, None, None]
    six = torch.cat([functional.pixel_unshuffle(luma - grey[:, :1], 2), chroma - grey[:, 1:]], 1)
    assert folded.weight.shape[1] == 6
    torch.testing.assert_close(_applied(six, folded), expected, rtol=0, atol=1e-10)


def test_a_colour_matrix_is_absorbed() -> None:
    weight, matrix, colours = _randn(4, 3, 3, 3), np.random.default_rng(1).standard_normal((3, 3)), _randn(1, 3, 8, 8)
    rgb = torch.einsum("cy,nyhw->nchw", torch.from_numpy(matrix), colours)
    found = functional.conv2d(colours, fold_colour(weight, matrix))
    torch.testing.assert_close(found, functional.conv2d(rgb, weight), rtol=0, atol=1e-12)


def test_planes_need_an_even_stride() -> None:
    with pytest.raises(TransformError, match="stride 3 cannot read blocks of 2"):
        fold_planes(_randn(4, 3, 3, 3), (3, 3), (1, 1), np.eye(3))
