"""The 4:2:0 intake: the same colours as the RGB intake, at the same places, from every kind of frame."""

from __future__ import annotations

import io
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sharedbb.errors import FrameError, TransformError
from sharedbb.transforms import RgbIntake
from sharedbb.transforms.colour import Colour
from sharedbb.transforms.yuv420 import PLANES, Yuv420Intake, recoloured
from sharedbb.types import Fit, Frame, Geometry, Normalization, Size

Image = NDArray[np.uint8]

MEAN = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
NETWORK = Size(96, 160)
TAGS = {
    "untagged": "",
    "bt601": "colormatrix=smpte170m:range=tv",
    "bt709": "colormatrix=bt709:range=tv",
    "bt709 full": "colormatrix=bt709:fullrange=on",
    "bt2020": "colormatrix=bt2020nc",
}

# How far swscale's conversion of 4:2:0 lies from the exact one, in grey levels of red, green and blue: it cuts off
# each product of a limited range (luma and one of chroma, in green both); luma of full range needs none.
CUT_OFF = {"limited": np.array([2, 3, 2]) + 0.05, "full": np.array([1, 2, 1]) + 0.05}


def scene(height: int, width: int) -> Image:
    """A smooth colour picture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red, green, blue = x / width, y / height, 0.5 + 0.5 * np.sin(3 * x / width + 2 * y / height)
    return np.rint(np.stack([red, green, blue], -1) * 255).astype(np.uint8)


def noise(height: int, width: int) -> Image:
    coarse = np.random.default_rng(3).integers(0, 256, (height // 4 + 2, width // 4 + 2, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def decoded(picture: Image, tags: str = "", codec: str = "libx264", pixels: str = "yuv420p") -> av.VideoFrame:
    """The picture's second frame after encoding and decoding."""
    file = io.BytesIO()
    coder = {"qp": "8", "x264-params": tags} if codec == "libx264" else {}
    with av.open(file, "w", format="matroska") as container:
        stream: Any = container.add_stream(codec, rate=25, options=coder)
        stream.height, stream.width, stream.pix_fmt = *picture.shape[:2], pixels
        for shift in (2, 0):
            given = av.VideoFrame.from_ndarray(np.roll(picture, shift, 1), format="rgb24")
            container.mux(stream.encode(given.reformat(format=pixels)))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return list(container.decode(video=0))[1]


def buffers(network: Size = NETWORK) -> dict[str, Image]:
    half = (1, network.height // 2, network.width // 2, 1)
    return {
        name: np.zeros(half if i else (1, network.height, network.width, 1), np.uint8) for i, name in enumerate(PLANES)
    }


def taken(
    frame: Frame, fit: Fit = "letterbox", colour: Colour | None = None
) -> tuple[Image, Image, Image, Geometry, tuple[str, ...]]:
    """Y, U and V of the intake, the geometry and the reasons; in the frame's own colours unless told."""
    given = buffers()
    own = Colour() if frame.video is None else Colour.of(frame.video)
    intake = Yuv420Intake(given, fit, MEAN, colour or own)
    geometry = intake(frame)
    y, u, v = (given[name][0, :, :, 0] for name in PLANES)
    return y, u, v, geometry, intake.reasons


def rgb_of(y: Image, u: Image, v: Image, colour: Colour) -> NDArray[np.float64]:
    """The plain reference: chroma repeated, one matrix in float64, clipped to what a picture can hold."""
    planes = [y] + [plane.repeat(2, 0).repeat(2, 1)[: y.shape[0], : y.shape[1]] for plane in (u, v)]
    matrix, offset = colour.to_rgb()
    return ((np.stack(planes, -1) - offset) @ matrix.T).clip(0, 255)


def rgb_path(frame: Frame, fit: Fit = "letterbox") -> tuple[Image, Geometry]:
    buffer = np.zeros((1, NETWORK.height, NETWORK.width, 3), np.uint8)
    return buffer[0], RgbIntake(buffer, fit, MEAN)(frame)


def planes_of(video: av.VideoFrame) -> list[Image]:
    return [np.frombuffer(p, np.uint8).reshape(-1, p.line_size)[: p.height, : p.width] for p in video.planes]


def inside(geometry: Geometry) -> tuple[slice, slice]:
    left, top, width, height = geometry.placed
    return slice(max(top, 0), top + height), slice(max(left, 0), left + width)


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize(
    ("size", "fit"),
    [
        ((96, 160), "letterbox"),
        ((120, 160), "letterbox"),
        ((72, 160), "letterbox"),
        ((288, 384), "letterbox"),
        ((250, 310), "stretch"),
        ((108, 160), "crop"),
    ],
)
def test_decoded_frames_have_the_colours_of_the_rgb_path(tags: str, size: tuple[int, int], fit: Fit) -> None:
    video = decoded(noise(*size), TAGS[tags])
    frame, colour = Frame(0, 0.0, video=video), Colour.of(video)
    assert str(colour).startswith(tags if tags != "untagged" else "bt601 limited")
    y, u, v, geometry, reasons = taken(frame, fit)
    expected, placed = rgb_path(frame, fit)
    assert geometry == placed
    assert reasons == ()
    difference = np.abs(rgb_of(y, u, v, colour) - expected)[inside(geometry)].max((0, 1))
    assert (difference <= CUT_OFF[colour.range]).all()


@pytest.mark.parametrize("size", [(61, 97), (97, 161), (54, 95), (96, 159)])
@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
def test_odd_sizes_and_places_are_at_most_one_chroma_sample_off(size: tuple[int, int], fit: Fit) -> None:
    """The RGB path interpolates chroma of odd pictures: it may differ by the step to the next sample."""
    video = decoded(scene(*size), codec="ffv1")
    assert (video.height, video.width) == size
    frame = Frame(0, 0.0, video=video)
    y, u, v, geometry, _ = taken(frame, fit)
    expected, placed = rgb_path(frame, fit)
    assert geometry == placed
    rows, columns = inside(geometry)
    chroma = [
        plane[(rows.start + 1) // 2 : rows.stop // 2, (columns.start + 1) // 2 : columns.stop // 2] for plane in (u, v)
    ]
    steps = [sum(np.abs(np.diff(plane.astype(int), axis=axis)).max() for axis in (0, 1)) for plane in chroma]
    bound = CUT_OFF["limited"] + np.abs(Colour().to_rgb()[0][:, 1:]) @ steps
    difference = np.abs(rgb_of(y, u, v, Colour()) - expected)[rows, columns]
    assert (difference.max((0, 1)) <= bound).all()
    assert difference.mean() <= 4


@pytest.mark.parametrize(
    ("size", "fit", "corner"),
    [
        ((96, 98), "letterbox", (31, 0)),
        ((96, 97), "letterbox", (31, 0)),
        ((50, 160), "letterbox", (0, 23)),
        ((49, 160), "letterbox", (0, 23)),
        ((96, 166), "crop", (-3, 0)),
        ((97, 167), "crop", (-3, 0)),
        ((98, 160), "crop", (0, -1)),
    ],
)
def test_at_odd_edges_chroma_is_the_mean_of_what_it_covers(
    size: tuple[int, int], fit: Fit, corner: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Yuv420Intake, "_desaturate", lambda _: None)
    video = decoded(noise(*size), codec="ffv1")
    y, u, v, geometry, _ = taken(Frame(0, 0.0, video=video), fit)
    left, top, width, height = geometry.placed
    assert (left, top) == corner
    luma, *chroma = planes_of(video.reformat(width, height, interpolation="BILINEAR"))
    assert np.array_equal(y[inside(geometry)], luma[max(-top, 0) :, max(-left, 0) :][: NETWORK.height, : NETWORK.width])
    margin = 100
    rows, columns = margin - top, margin - left
    cells = np.s_[max(top // 2, 0) : (top + height + 1) // 2, max(left // 2, 0) : (left + width + 1) // 2]
    for plane, given in zip((u, v), chroma, strict=True):
        repeated = given.repeat(2, 0).repeat(2, 1)[:height, :width].astype(float)
        endless = np.pad(repeated, margin, mode="edge")
        seen = endless[rows : rows + NETWORK.height, columns : columns + NETWORK.width]
        expected = seen.reshape(NETWORK.height // 2, 2, NETWORK.width // 2, 2).mean((1, 3))
        assert np.abs(plane[cells] - expected[cells]).max() <= 0.5


def test_planes_at_the_networks_size_are_copied() -> None:
    video = decoded(noise(96, 160))
    y, u, v, _, _ = taken(Frame(0, 0.0, video=video))
    for plane, expected in zip((y, u, v), planes_of(video), strict=True):
        assert np.array_equal(plane, expected)


@pytest.mark.parametrize("colour", [Colour("bt601"), Colour("bt709"), Colour("bt709", "full")], ids=str)
def test_bars_hold_the_mean_and_are_drawn_again_when_the_size_changes(colour: Colour) -> None:
    given = buffers()
    intake = Yuv420Intake(given, "letterbox", MEAN, colour)
    y, u, v = (given[name][0, :, :, 0] for name in PLANES)
    matrix, offset = colour.from_rgb()
    bar = tuple(np.rint(matrix @ MEAN.mean + offset))
    tall = decoded(noise(96, 20), codec="ffv1")
    wide = decoded(noise(20, 160), codec="ffv1")
    for frame in (Frame(0, 0.0, video=tall), Frame.of(noise(96, 21))):
        intake(frame)
        assert (y[48, 0], u[24, 0], v[24, 0]) == (y[48, -1], u[24, -1], v[24, -1]) == bar
        assert np.ptp(y[:, 75:85]) > 50
    intake(Frame(1, 0.0, video=wide))
    for corner in ((0, 0), (-1, -1), (0, -1)):
        assert (y[corner], u[corner], v[corner]) == bar
    assert np.ptp(y[40:56, 0:20]) > 50


@pytest.mark.parametrize(
    ("size", "fit"),
    [
        ((100, 100), "letterbox"),
        ((61, 97), "letterbox"),
        ((96, 98), "letterbox"),
        ((50, 60), "crop"),
        ((300, 200), "stretch"),
    ],
)
@pytest.mark.parametrize("colour", [Colour("bt601"), Colour("bt709", "full")], ids=str)
def test_pictures_are_placed_as_rgb_and_converted(size: tuple[int, int], fit: Fit, colour: Colour) -> None:
    frame = Frame.of(noise(*size))
    y, u, v, geometry, reasons = taken(frame, fit, colour)
    assert reasons == ("RGB pictures converted to yuv420p",)
    picture, placed = rgb_path(frame, fit)
    assert geometry == placed
    matrix, offset = colour.from_rgb()
    exact = picture @ matrix.T + offset
    cells = exact.reshape(NETWORK.height // 2, 2, NETWORK.width // 2, 2, 3).mean((1, 3))
    assert np.abs(y - exact[..., 0]).max() <= 0.51
    # The mean of four pixels is rounded before the matrix, which weighs red, green and blue by 1 at most in sum.
    assert np.abs(np.stack([u, v], -1) - cells[..., 1:]).max() <= 1.02


@pytest.mark.parametrize("size", [(96, 160), (120, 160), (200, 320)])
def test_nv12_gives_the_same_planes(size: tuple[int, int]) -> None:
    video = decoded(noise(*size))
    *planes, _, reasons = taken(Frame(0, 0.0, video=video.reformat(format="nv12")))
    assert reasons == ()
    for plane, expected in zip(planes, taken(Frame(0, 0.0, video=video))[:3], strict=True):
        assert np.array_equal(plane, expected)


@pytest.mark.parametrize("levels", [1, 2])
@pytest.mark.parametrize("size", [(96, 160), (192, 320)])
@pytest.mark.parametrize("format_", ["yuv422p", "yuv444p", "yuyv422", "yuv420p10le", "yuvj422p", "yuva420p", "p010le"])
def test_other_samplings_and_depths_are_converted_with_a_reason(
    format_: str, size: tuple[int, int], levels: int
) -> None:
    video = av.VideoFrame.from_ndarray(scene(*size), format="rgb24").reformat(
        format=format_, dst_color_range=2 if format_.startswith("yuvj") else levels
    )
    frame = Frame(0, 0.0, video=video)
    y, u, v, _, reasons = taken(frame)
    assert reasons == (f"{format_} converted to yuv420p",)
    difference = np.abs(rgb_of(y, u, v, Colour.of(video)) - rgb_path(frame)[0])
    assert difference.mean() <= 2
    assert difference.max() <= 12


def test_an_untagged_frame_of_full_range_stays_in_full_range() -> None:
    picture = av.VideoFrame.from_ndarray(scene(96, 160), format="rgb24")
    video = picture.reformat(format="yuvj422p", dst_color_range=2)
    video.color_range = 0
    y, u, v, _, reasons = taken(Frame(0, 0.0, video=video))
    assert reasons == ("yuvj422p converted to yuv420p",)
    assert np.array_equal(y, planes_of(video)[0])
    assert np.abs(rgb_of(y, u, v, Colour("bt601", "full")) - scene(96, 160)).mean() <= 2


@pytest.mark.parametrize("format_", ["rgb24", "bgr24", "rgba", "gray", "gbrp"])
def test_decoders_rgb_and_grey_are_converted_with_a_reason(format_: str) -> None:
    frame = Frame(0, 0.0, video=av.VideoFrame.from_ndarray(scene(120, 160), format="rgb24").reformat(format=format_))
    y, u, v, geometry, reasons = taken(frame, colour=Colour("bt709"))
    assert reasons == (f"{format_} converted to yuv420p",)
    difference = np.abs(rgb_of(y, u, v, Colour("bt709")) - rgb_path(frame)[0])[inside(geometry)]
    assert difference.max() <= 10


@pytest.mark.parametrize(
    "wanted", [Colour("bt601"), Colour("bt709"), Colour("bt601", "full"), Colour("bt709", "full")], ids=str
)
@pytest.mark.parametrize("tags", ["bt601", "bt709", "bt709 full", "bt2020"])
def test_streams_of_other_colours_are_brought_to_the_networks(tags: str, wanted: Colour) -> None:
    video = decoded(64 + noise(120, 150) // 2, TAGS[tags])
    own, frame = Colour.of(video), Frame(0, 0.0, video=video)
    y, u, v, geometry, reasons = taken(frame, colour=wanted)
    assert reasons == (() if own == wanted else (f"{own} converted to {wanted}",))
    plain = taken(frame)
    # Each plane is rounded once more: half a level, as the matrix weighs it.
    bound = 0.51 * np.abs(wanted.to_rgb()[0]).sum(1)
    difference = np.abs(rgb_of(y, u, v, wanted) - rgb_of(*plain[:3], own))[inside(geometry)]
    assert (difference.max((0, 1)) <= bound).all()


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1)])
def test_recoloured_planes_of_odd_size(size: tuple[int, int]) -> None:
    height, width = size
    random = np.random.default_rng(5)
    y = random.integers(60, 180, size, np.uint8)
    u, v = (random.integers(100, 156, ((height + 1) // 2, (width + 1) // 2), np.uint8) for _ in range(2))
    got = recoloured(y, u, v, Colour("bt709"), Colour("bt601", "full"))
    matrix, offset = Colour("bt709").towards(Colour("bt601", "full"))
    full = (
        np.stack([y, *(plane.repeat(2, 0).repeat(2, 1)[:height, :width] for plane in (u, v))], -1) @ matrix.T + offset
    )
    assert [plane.shape for plane in got] == [y.shape, u.shape, v.shape]
    assert np.abs(got[0] - full[..., 0]).max() <= 0.51
    assert np.abs(np.stack(got[1:], -1) - full[::2, ::2, 1:]).max() <= 0.51


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"input.u": None}, r"^4:2:0 planes are input.y, input.u, input.v, got input.v \(1, 48, 80, 1\), input.y "),
            ({"input.v": (1, 48, 79, 1)}, r"^chroma planes of 4:2:0 are half as high and wide as luma, got input.u "),
            ({"input.y": (1, 96, 162, 1)}, r"^chroma planes of 4:2:0 are half"),
            ({"input.y": (1, 95, 160, 1)}, r"^4:2:0 planes need a network input of even size, got 160x95$"),
            ({"input.y": (1, 96, 160, 3)}, r"^4:2:0 planes are uint8 of shape \(1, height, width, 1\), got "),
            ({"input.y": (96, 160)}, r"^4:2:0 planes are uint8 of shape"),
        ],
    )
    def test_buffers_that_do_not_fit(self, change: dict[str, tuple[int, ...] | None], message: str) -> None:
        given = buffers()
        for name, shape in change.items():
            if shape is None:
                del given[name]
            else:
                given[name] = np.zeros(shape, np.uint8)
        with pytest.raises(TransformError, match=message):
            Yuv420Intake(given, "letterbox", MEAN, Colour())

    def test_a_frame_that_swscale_cannot_read(self) -> None:
        class Refuses:
            def reformat(self, *_: object, **__: object) -> None:
                raise av.error.InvalidDataError(1, "damaged planes")

        intake = Yuv420Intake(buffers(), "letterbox", MEAN, Colour())
        intake._reformatter = Refuses()
        with pytest.raises(FrameError, match=r"frame 7 of 16x16 cannot be converted: .*damaged planes"):
            intake(Frame(7, 0.0, video=av.VideoFrame(16, 16, "yuv420p")))

    def test_a_frame_too_narrow_to_be_cropped(self) -> None:
        intake = Yuv420Intake(buffers(Size(384, 640)), "crop", MEAN, Colour())
        with pytest.raises(FrameError, match="20000x1 is too narrow to fill 640x384"):
            intake(Frame(0, 0.0, video=av.VideoFrame(20_000, 1, "yuv420p")))


@pytest.mark.parametrize("tags", [(5, 1), (1, 1), (5, 2)])
def test_dark_colours_that_no_rgb_has_lose_what_is_too_much(tags: tuple[int, int]) -> None:
    """Red and blue come out at zero, as the way by RGB clips them; a sample with a bright pixel stays as it is."""
    video = av.VideoFrame(NETWORK.width, NETWORK.height, "yuv420p")
    video.colorspace, video.color_range = tags
    for plane, level in zip(video.planes, (20, 90, 100), strict=True):
        plane.update(np.full((plane.height, plane.line_size), level, np.uint8).tobytes())
    luma = np.frombuffer(video.planes[0], np.uint8).reshape(NETWORK.height, -1).copy()
    luma[::16, 1::16] = 200
    video.planes[0].update(luma.tobytes())
    y, u, v, _, _ = taken(Frame(0, 0.0, video=video))
    bright = y.reshape(NETWORK.height // 2, 2, NETWORK.width // 2, 2).max((1, 3)) == 200
    assert bright.any()
    assert (u[bright] == 90).all()
    assert (v[bright] == 100).all()
    matrix, offset = Colour.of(video).to_rgb()
    red, _, blue = matrix @ (np.array([20, u[~bright][0], v[~bright][0]]) - offset)
    assert -2.1 < red <= 0.1
    assert -2.1 < blue <= 0.1
