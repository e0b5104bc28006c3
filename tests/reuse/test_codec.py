"""The decoder's motion vectors, on clips whose motion is known because they are made here."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sharedbb.media.video import VideoSource
from sharedbb.reuse.codec import CodecMotion
from sharedbb.reuse.motion import SCALE, Flow, OpticalFlow
from sharedbb.reuse.regions import CELL
from sharedbb.types import Fit, Frame, Geometry, Size

Image = NDArray[np.uint8]
SOURCE, NETWORK = Size(256, 384), Size(192, 256)
STRETCHED = Geometry.fit(SOURCE, NETWORK, "stretch")
RIGHT, DOWN = 5, -3  # source pixels that everything moves from frame to frame
FRAMES = 6
PREDICTED = {"bf": "0", "refs": "1", "g": "250", "tune": "zerolatency", "crf": "10", "x264-params": "scenecut=0"}
INSIDE = np.s_[8:-8, 8:-8]  # away from the borders, where something new comes in


def _texture(seed: int = 0, height: int = 400, width: int = 560) -> Image:
    dice = np.random.default_rng(seed)
    total = sum(cv2.GaussianBlur(dice.normal(size=(height, width, 3)), None, sigma) * sigma for sigma in (2, 6, 18))
    return np.clip(128 + 90 * np.asarray(total), 0, 255).astype(np.uint8)


def _window(texture: Image, step: int) -> Image:
    """What is seen of a texture after so many steps of the pan."""
    top, left = 70 - DOWN * step, 90 - RIGHT * step
    return np.ascontiguousarray(texture[top : top + SOURCE.height, left : left + SOURCE.width])


def _encoded(path: Path, pictures: Iterable[Image], codec: str = "libx264", **options: str) -> Path:
    with av.open(str(path), "w") as file:
        stream: Any = file.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.height, stream.width, stream.pix_fmt = SOURCE.height, SOURCE.width, "yuv420p"
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def _frames(path: Path, *, motion: bool = True) -> list[Frame]:
    return list(VideoSource.file(str(path), motion=motion))


@pytest.fixture(scope="module")
def pan(tmp_path_factory: pytest.TempPathFactory) -> list[Frame]:
    """One I-frame and P-frames."""
    texture = _texture()
    path = tmp_path_factory.mktemp("pan") / "pan.mp4"
    return _frames(_encoded(path, (_window(texture, step) for step in range(FRAMES)), **PREDICTED))


def _followed(frames: list[Frame], geometry: Geometry = STRETCHED) -> tuple[CodecMotion, list[Flow | None]]:
    """The motion back to the first frame, from each of the others."""
    motion = CodecMotion(geometry.network)
    motion.remember(frames[0])
    return motion, [motion.measure(frame, geometry) for frame in frames[1:]]


def _backward(steps: int, geometry: Geometry = STRETCHED) -> NDArray[np.float64]:
    return np.array([-RIGHT * geometry.scale_x, -DOWN * geometry.scale_y]) * steps


def test_a_pan_adds_up_frame_by_frame(pan: list[Frame]) -> None:
    motion, flows = _followed(pan)
    assert motion.reason == ""
    for steps, flow in enumerate(flows, start=1):
        assert flow is not None
        assert flow.shape == (NETWORK.height // SCALE, NETWORK.width // SCALE, 2)
        assert flow.dtype == np.float32
        error = np.abs(flow[INSIDE] - _backward(steps))
        assert np.median(error) < 0.05
        assert np.quantile(error, 0.9) < 0.25 * steps


@pytest.mark.parametrize("fit", ["letterbox", "crop"])
def test_vectors_lie_where_the_frame_lies_in_the_network_s_input(pan: list[Frame], fit: Fit) -> None:
    geometry = Geometry.fit(SOURCE, NETWORK, fit)
    motion, flows = _followed(pan, geometry)
    flow = flows[1]
    assert flow is not None
    assert np.abs(np.median(flow[INSIDE], axis=(0, 1)) - _backward(2, geometry)).max() < 0.05
    if fit == "letterbox":  # 171 of 192 rows, from row 10 on
        assert not flow[:1].any()
        assert not flow[-1:].any()
        assert not motion.unknown[:, 4:-4][[0, -1]].any()


def test_a_part_that_moves_alone_is_found_in_its_place(tmp_path: Path) -> None:
    ground, thing = _texture(1)[: SOURCE.height, : SOURCE.width], _texture(2)[:96, :96]

    def painted(step: int) -> Image:
        picture = ground.copy()
        picture[80 : 80 + 96, 64 + 8 * step : 64 + 8 * step + 96] = thing
        return picture

    frames = _frames(_encoded(tmp_path / "thing.mp4", (painted(step) for step in range(4)), **PREDICTED))
    _, flows = _followed(frames)
    flow = flows[-1]
    assert flow is not None
    scale_x, scale_y = STRETCHED.scale_x, STRETCHED.scale_y
    rows = slice(round(96 * scale_y / SCALE), round(160 * scale_y / SCALE))
    inside = flow[rows, round((64 + 24 + 16) * scale_x / SCALE) : round((64 + 24 + 80) * scale_x / SCALE)]
    assert np.abs(np.median(inside, axis=(0, 1)) - [-24 * scale_x, 0]).max() < 0.1
    assert np.abs(flow[:, round(220 * scale_x / SCALE) :]).max() < 0.5


def test_a_still_picture_has_not_moved_at_all(tmp_path: Path) -> None:
    picture = _window(_texture(), 0)
    motion, flows = _followed(_frames(_encoded(tmp_path / "still.mp4", [picture] * 4, **PREDICTED)))
    assert all(flow is not None and not flow.any() for flow in flows)
    assert not motion.unknown.any()


def test_what_comes_in_is_unknown(pan: list[Frame]) -> None:
    """The picture goes right and up: its left and bottom edges show something new."""
    motion, flows = _followed(pan)
    assert flows[-1] is not None
    unknown = motion.unknown
    assert unknown.shape == (NETWORK.height // CELL, NETWORK.width // CELL)
    assert unknown[:, 0].mean() > 0.7
    assert unknown[:-2, 2:].mean() < 0.1


def test_what_is_coded_without_prediction_is_unknown_and_guessed_from_around(tmp_path: Path) -> None:
    texture = _texture()
    new = _texture(9, 96, 96)[..., ::-1]
    pictures = [_window(texture, step) for step in range(3)]
    pictures[2][80 : 80 + 96, 128 : 128 + 96] = new
    motion, flows = _followed(_frames(_encoded(tmp_path / "new.mp4", pictures, **PREDICTED)))
    unknown, flow = motion.unknown, flows[-1]
    assert flow is not None
    height, width = NETWORK.height / SOURCE.height / CELL, NETWORK.width / SOURCE.width / CELL
    hidden = np.s_[round(80 * height) : round(176 * height), round(128 * width) : round(224 * width)]
    assert unknown[hidden].mean() > 0.5
    unknown[hidden] = False
    assert unknown[1:-2, 2:-1].mean() < 0.2
    assert np.isfinite(flow).all()


def test_what_was_unknown_stays_unknown_where_it_goes(tmp_path: Path) -> None:
    texture = _texture()
    pictures = [_window(texture, step) for step in range(4)]
    for step in (1, 2, 3):
        left = 128 + RIGHT * step
        top = 80 + DOWN * step
        pictures[step][top : top + 96, left : left + 96] = _texture(9, 96, 96)[..., ::-1]
    motion, flows = _followed(_frames(_encoded(tmp_path / "new.mp4", pictures, **PREDICTED)))
    assert flows[-1] is not None
    height, width = NETWORK.height / SOURCE.height / CELL, NETWORK.width / SOURCE.width / CELL
    hidden = np.s_[round(87 * height) : round(151 * height), round(159 * width) : round(223 * width)]
    assert motion.unknown[hidden].mean() > 0.5


LAID_OUT = [("source", "i4"), ("w", "u1"), ("h", "u1"), ("dst_x", "i2"), ("dst_y", "i2")]
LAID_OUT += [("motion_x", "i4"), ("motion_y", "i4"), ("motion_scale", "u2")]


def _given(index: int, rows: Iterable[tuple[int, ...]], size: Size = NETWORK) -> Frame:
    """A P-frame with such vectors."""
    vectors = SimpleNamespace(to_ndarray=lambda: np.array(list(rows), LAID_OUT))
    video: Any = SimpleNamespace(
        pict_type=2, side_data={"MOTION_VECTORS": vectors}, height=size.height, width=size.width
    )
    return Frame(index, index / 25, video=video)


def _macroblocks(moving: tuple[int, int], *, but: tuple[int, int]) -> list[tuple[int, ...]]:
    """16×16 blocks that all move by so many quarter pixels, but one (row, column), which has no vector."""
    places = ((row, column) for row in range(NETWORK.height // 16) for column in range(NETWORK.width // 16))
    return [(-1, 16, 16, 16 * c + 8, 16 * r + 8, *moving, 4) for r, c in places if (r, c) != but]


def test_one_block_without_a_vector_is_unknown_in_its_place_and_guessed_from_around() -> None:
    motion = CodecMotion(NETWORK)
    motion.remember(_given(0, []))
    flow = motion.measure(_given(1, _macroblocks((6, -2), but=(4, 6))), Geometry.fit(NETWORK, NETWORK))
    assert flow is not None
    assert np.allclose(flow, [1.5, -0.5], atol=1e-5)
    assert [tuple(cell) for cell in np.argwhere(motion.unknown)] == [(4, 6)]


@pytest.mark.parametrize(("width", "height"), [(16, 16), (16, 8), (8, 16), (8, 8)])
def test_one_block_that_moves_is_found_in_its_place(width: int, height: int) -> None:
    ground = _macroblocks((0, 0), but=(4, 6))
    rest = [(-1, 8, 8, 96 + 4 + x, 64 + 4 + y, 0, 0, 4) for x in (0, 8) for y in (0, 8)]
    block = (-1, width, height, 96 + width // 2, 64 + height // 2, 12, -8, 4)
    motion = CodecMotion(NETWORK)
    motion.remember(_given(0, []))
    flow = motion.measure(_given(1, [*ground, *rest, block]), Geometry.fit(NETWORK, NETWORK))
    assert flow is not None
    mass = flow.sum(axis=(0, 1)) * SCALE**2
    assert mass == pytest.approx([3.0 * width * height, -2.0 * width * height], rel=1e-4)
    rows, columns = np.indices(flow.shape[:2])
    centre = [float((places * flow[..., 0]).sum() / flow[..., 0].sum()) for places in (columns, rows)]
    assert centre == pytest.approx([(96 + width / 2) / SCALE - 0.5, (64 + height / 2) / SCALE - 0.5], abs=1e-3)


def test_vectors_to_a_later_frame_are_refused() -> None:
    motion = CodecMotion(NETWORK)
    motion.remember(_given(0, []))
    forward = [(1, 16, 16, 8, 8, 4, 4, 4)]
    assert motion.measure(_given(1, forward), Geometry.fit(NETWORK, NETWORK)) is None
    assert motion.reason == "frame 1 points to a later frame"


def test_blocks_beyond_the_picture_are_left_out() -> None:
    motion = CodecMotion(NETWORK)
    motion.remember(_given(0, []))
    beyond = [(-1, 16, 16, x, y, 400, 0, 4) for x, y in ((-40, 8), (8, -40), (NETWORK.width + 8, 8), (8, 5000))]
    flow = motion.measure(_given(1, [*_macroblocks((0, 0), but=(-1, -1)), *beyond]), Geometry.fit(NETWORK, NETWORK))
    assert flow is not None
    assert not flow.any()


def test_frames_do_not_wait_for_the_garbage_collector(tmp_path: Path) -> None:
    texture = _texture()
    path = _encoded(tmp_path / "pan.mp4", (_window(texture, step) for step in range(FRAMES)), **PREDICTED)
    gc.collect()
    before = sum(type(one) is av.VideoFrame for one in gc.get_objects())
    gc.disable()
    try:
        flows = _followed(_frames(path))[1]
        assert flows[-1] is not None
        assert sum(type(one) is av.VideoFrame for one in gc.get_objects()) <= before
    finally:
        gc.enable()


def test_a_new_key_starts_anew(pan: list[Frame]) -> None:
    motion, _ = _followed(pan[:4])
    motion.remember(pan[3])
    assert not motion.unknown.any()
    flow = motion.measure(pan[4], STRETCHED)
    assert flow is not None
    assert np.abs(np.median(flow[INSIDE], axis=(0, 1)) - _backward(1)).max() < 0.05


def test_what_measuring_gave_is_not_overwritten_by_the_next(pan: list[Frame]) -> None:
    motion = CodecMotion(NETWORK)
    motion.remember(pan[0])
    first = motion.measure(pan[1], STRETCHED)
    assert first is not None
    kept = first.copy()
    motion.measure(pan[2], STRETCHED)
    assert np.array_equal(first, kept)


def test_an_i_frame_breaks_the_chain_until_the_next_key(tmp_path: Path) -> None:
    texture = _texture()
    options = PREDICTED | {"g": "3"}
    frames = _frames(_encoded(tmp_path / "groups.mp4", (_window(texture, step) for step in range(6)), **options))
    motion, flows = _followed(frames)
    assert [flow is None for flow in flows] == [False, False, True, True, True]
    assert motion.reason == "frame 3 is an I-frame"
    motion.remember(frames[3])
    assert motion.measure(frames[4], STRETCHED) is not None
    assert motion.reason == ""


def test_b_frames_are_refused(tmp_path: Path) -> None:
    texture = _texture()
    options = {"bf": "2", "g": "250", "x264-params": "scenecut=0:b-adapt=0"}
    frames = _frames(_encoded(tmp_path / "reordered.mp4", (_window(texture, step) for step in range(8)), **options))
    kinds = [frame.video.pict_type if frame.video is not None else 0 for frame in frames]
    assert kinds[:4] == [1, 3, 3, 2]
    motion, flows = _followed(frames)
    assert flows == [None] * 7
    assert motion.reason == "frame 1 is a B-frame"
    motion.remember(frames[2])
    assert motion.measure(frames[3], STRETCHED) is None
    assert motion.reason == "frame 3 comes after a B-frame"


def test_a_frame_left_out_breaks_the_chain(pan: list[Frame]) -> None:
    motion, _ = _followed(pan[:2])
    assert motion.measure(pan[3], STRETCHED) is None
    assert motion.reason == "frame 3 does not follow frame 1"
    assert motion.measure(pan[4], STRETCHED) is None


def test_another_size_breaks_the_chain(pan: list[Frame]) -> None:
    motion = CodecMotion(NETWORK)
    motion.remember(Frame.of(np.zeros((64, 96, 3), np.uint8)))
    assert motion.measure(pan[1], STRETCHED) is None
    assert motion.reason == "frame 1 is 384x256, not 96x64"


def test_frames_without_vectors(pan: list[Frame], tmp_path: Path) -> None:
    motion = CodecMotion(NETWORK)
    assert motion.measure(pan[1], STRETCHED) is None
    assert motion.reason == "there is no key frame yet"
    pictures = [Frame.of(frame.rgb(), index=frame.index, order="rgb") for frame in pan[:2]]
    assert _followed(pictures)[1] == [None]
    path = _encoded(tmp_path / "silent.mp4", [frame.rgb() for frame in pan[:2]], **PREDICTED)
    motion, flows = _followed(_frames(path, motion=False))
    assert flows == [None]
    assert motion.reason == "frame 1 comes without motion vectors"


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [("mpeg4", ".avi", {"g": "100", "b": "8000000"}), ("mpeg2video", ".mkv", {"g": "100", "b": "8000000"})],
)
def test_other_codecs(tmp_path: Path, codec: str, suffix: str, options: dict[str, str]) -> None:
    texture = _texture()
    path = _encoded(tmp_path / f"pan{suffix}", (_window(texture, step) for step in range(5)), codec, **options)
    _, flows = _followed(_frames(path)[:-1])  # FFmpeg's MPEG-2 decoder exports none for a clip's last frame
    assert flows[-1] is not None
    assert np.abs(np.median(flows[-1][INSIDE], axis=(0, 1)) - _backward(3)).max() < 0.2


@pytest.mark.parametrize("size", [Size(180, 250), Size(90, 130)])
def test_sizes_that_no_grid_divides(pan: list[Frame], size: Size) -> None:
    geometry = Geometry.fit(SOURCE, size, "stretch")
    motion, flows = _followed(pan, geometry)
    flow = flows[-1]
    assert flow is not None
    assert flow.shape == (size.height // SCALE, size.width // SCALE, 2)
    assert motion.unknown.shape == (-(-size.height // CELL), -(-size.width // CELL))
    assert np.abs(np.median(flow, axis=(0, 1)) - _backward(5, geometry)).max() < 0.2


@pytest.mark.real
def test_a_real_drive_is_explained_nearly_as_well_as_by_optical_flow(data: Path) -> None:
    path = data / "clips" / "moving-dashcam.mp4"
    frames = list(islice(VideoSource.file(str(path), motion=True), 8))
    geometry = Geometry.fit(frames[0].size, Size(384, 640), "stretch")
    halves = [cv2.resize(frame.rgb(), (320, 192), interpolation=cv2.INTER_AREA).view(np.uint8) for frame in frames]
    optical = OpticalFlow(geometry.network)
    optical.remember(halves[3])
    motion = CodecMotion(geometry.network)
    motion.remember(frames[3])
    for frame, half in zip(frames[4:], halves[4:], strict=True):
        decoded = motion.measure(frame, geometry)
        assert decoded is not None
        searched = optical.measure(half)
        missed = {}
        for name, flow in (("still", np.zeros_like(decoded)), ("searched", searched), ("decoded", decoded)):
            optical.flow = flow
            missed[name] = float(optical.residual().mean())
        assert missed["decoded"] < 0.8 * missed["still"]
        assert missed["decoded"] < 1.4 * missed["searched"]
