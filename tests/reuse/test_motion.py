"""Motion: flow on pictures that moved in a known way, maps and boxes carried along, and cuts told from the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sharedbb.backends.patches import ArrayPatches
from sharedbb.backends.torch_patches import TensorPatches
from sharedbb.media import open_source
from sharedbb.reuse.change import Picture, largest
from sharedbb.reuse.motion import (
    AROUND,
    EVERYWHERE,
    LEAST_SIDE,
    MOST_GROWTH,
    SCALE,
    SIDE_STEP,
    Flow,
    OpticalFlow,
    Warp,
    around,
    follow_boxes,
    glance,
    is_cut,
)
from sharedbb.reuse.regions import CELL
from sharedbb.types import Geometry, Size

SIZE = Size(192, 256)
HALF = 2  # pictures are given at half the resolution
HALVED = (SIZE.height // HALF, SIZE.width // HALF)
MEASURED = (SIZE.height // SCALE, SIZE.width // SCALE)
FRAMED = Geometry.fit(SIZE, SIZE)


def _texture(seed: int, height: int, width: int, *, grain: float = 3.0, contrast: float = 35.0) -> Picture:
    """A picture with detail of several sizes, uint8 [H, W, 3]."""
    dice = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for scale in (grain, 4 * grain, 16 * grain):
        layer = cv2.GaussianBlur(dice.normal(size=(height, width, 3)).astype(np.float32), None, scale)
        total += layer / layer.std()
    return np.clip(128 + contrast * total, 0, 255).astype(np.uint8)


def _seen(picture: Picture, dx: float = 0.0, dy: float = 0.0, zoom: float = 1.0) -> Picture:
    """The content of a picture moved by (dx, dy) and grown about the middle, as its central 96×128 pixels."""
    height, width, _ = picture.shape
    grown = np.array([[zoom, 0, dx + (1 - zoom) * width / 2], [0, zoom, dy + (1 - zoom) * height / 2]])
    moved = cv2.warpAffine(picture, grown, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    top, left = (height - HALVED[0]) // 2, (width - HALVED[1]) // 2
    return np.ascontiguousarray(moved[top : top + HALVED[0], left : left + HALVED[1]].astype(np.uint8))


def _flow(dx: float = 0.0, dy: float = 0.0) -> Flow:
    """The same motion everywhere, in network pixels."""
    return np.broadcast_to(np.array([dx, dy], np.float32), (*MEASURED, 2)).copy()


def _zoomed(by: float) -> Flow:
    """What grew by a factor about the middle, pointing back: what is seen now was 1 / ``by`` as far from there."""
    rows, columns = np.indices(MEASURED, np.float32)
    middle = (MEASURED[0] - 1) / 2, (MEASURED[1] - 1) / 2
    return np.stack([columns - middle[1], rows - middle[0]], axis=-1) * np.float32((1 / by - 1) * SCALE)


@pytest.fixture(scope="module")
def scene() -> Picture:
    return _texture(0, 2 * HALVED[0], 2 * HALVED[1])


def _measured(key: Picture, *now: Picture) -> OpticalFlow:
    flow = OpticalFlow(SIZE)
    flow.remember(key)
    for picture in now:
        flow.measure(picture)
    return flow


def test_an_equal_picture_has_not_moved_at_all(scene: Picture) -> None:
    flow = _measured(_seen(scene), _seen(scene, 5, 3), _seen(scene))
    assert not flow.flow.any()
    assert flow.flow.shape == (*MEASURED, 2)
    assert flow.flow.dtype == np.float32
    assert not flow.residual().any()


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -4), (-5, 2), (6.5, 1.5)])
def test_a_translation_is_found(scene: Picture, dx: float, dy: float) -> None:
    """Half-resolution pixels on the way there; network pixels, backwards, in the flow."""
    found = _measured(_seen(scene), _seen(scene, dx, dy)).flow[6:-6, 6:-6]
    assert np.median(found[..., 0]) == pytest.approx(-dx * HALF, abs=0.3)
    assert np.median(found[..., 1]) == pytest.approx(-dy * HALF, abs=0.3)
    assert np.quantile(np.abs(found - [-dx * HALF, -dy * HALF]), 0.9) < 1.0


@pytest.mark.parametrize("by", [1.1, 0.92])
def test_a_zoom_is_found(scene: Picture, by: float) -> None:
    found = _measured(_seen(scene), _seen(scene, zoom=by)).flow
    inside = np.s_[6:-6, 6:-6]
    assert np.quantile(np.abs(found - _zoomed(by))[inside], 0.9) < 1.2


def test_motion_is_measured_from_the_key_and_not_added_up(scene: Picture) -> None:
    """Pictures in between help to find a motion too large for one look; they are no part of it."""
    steps = [_seen(scene, dx) for dx in range(2, 22, 2)]
    assert np.median(_measured(_seen(scene), *steps).flow[..., 0]) == pytest.approx(-20 * HALF, abs=0.5)
    back = _measured(_seen(scene), *steps, *reversed(steps[:-1]), _seen(scene, 1))
    assert np.median(back.flow[..., 0]) == pytest.approx(-1 * HALF, abs=0.5)
    afresh = _measured(_seen(scene), *steps)
    afresh.remember(steps[-1])
    assert np.median(afresh.measure(_seen(scene, 21))[..., 0]) == pytest.approx(-1 * HALF, abs=0.5)


def test_what_measuring_gave_is_not_overwritten_by_the_next(scene: Picture) -> None:
    flow = OpticalFlow(SIZE)
    flow.remember(_seen(scene))
    first = flow.measure(_seen(scene, 3))
    kept = first.copy()
    flow.measure(_seen(scene, -7))
    assert np.array_equal(first, kept)


def test_nothing_is_left_of_a_pan_and_much_of_a_new_object(scene: Picture) -> None:
    pan = _seen(scene, 4, -2)
    quiet = _measured(_seen(scene), pan).residual()
    assert quiet.shape == (SIZE.height // CELL, SIZE.width // CELL)
    assert quiet.dtype == np.float32
    assert quiet[1:-1, 1:-1].max() < 6
    half = CELL // HALF
    stripes = 255 * (np.arange(4 * half) // 8 % 2)[:, None]
    pan[4 * half : 8 * half, 6 * half : 10 * half] = stripes[..., None]
    missed = _measured(_seen(scene), pan).residual()
    assert missed[4:8, 6:10].mean() > 25
    missed[3:9, 5:11] = 0
    assert missed[1:-1, 1:-1].max() < 12


@pytest.mark.parametrize("place", [(0, 0), (6, 9), (3, 5)])
def test_motion_in_a_part_of_the_picture_is_found_as_well_as_in_the_whole(
    scene: Picture, place: tuple[int, int]
) -> None:
    """An object that moves over a still ground: it is followed, and outside of the rectangle nothing moves."""
    half, (row, column) = CELL // HALF, place
    key, now = _seen(scene), _seen(scene)
    side, (down, right) = 6 * half, (3, 5)
    thing, (top, left) = _texture(3, side, side), (row * half, column * half)
    key[top : top + side, left : left + side] = thing
    room = now[top + down : top + down + side, left + right : left + right + side]
    room[...] = thing[: room.shape[0], : room.shape[1]]
    changed = largest(cv2.absdiff(now, key), half) > 0
    area = around(changed)
    inside = tuple(slice(one.start * CELL // SCALE, one.stop * CELL // SCALE) for one in area)
    flow = OpticalFlow(SIZE)
    flow.remember(key)
    found, whole = flow.measure(now, area).copy(), _measured(key, now)
    outside = np.ones(MEASURED, bool)
    outside[inside] = False
    assert not found[outside].any()
    middle = np.s_[top // 2 + 8 : top // 2 + 16, left // 2 + 8 : left // 2 + 16]
    off, off_whole = (
        np.hypot(*(np.median(one[middle], axis=(0, 1)) - [-right * HALF, -down * HALF])) for one in (found, whole.flow)
    )
    assert off < off_whole + 0.25  # network pixels
    assert off < 1.0
    residual = flow.residual(area)
    assert residual.shape == (area[0].stop - area[0].start, area[1].stop - area[1].start)
    assert residual[changed[area]].mean() < whole.residual()[changed].mean() + 1.0


def test_areas_of_all_sizes_may_follow_each_other(scene: Picture) -> None:
    """OpenCV's search writes beyond its buffers when the size changes on a search without a guess."""
    size, dice = Size(384, 640), np.random.default_rng(0)
    rows, columns = size.height // CELL, size.width // CELL
    wide = cv2.resize(scene, (size.width // HALF, size.height // HALF))
    flow = OpticalFlow(size)
    flow.remember(wide)
    for step in range(300):
        high, broad = int(dice.integers(LEAST_SIDE, rows + 1)), int(dice.integers(LEAST_SIDE, columns + 1))
        top, left = int(dice.integers(0, rows - high + 1)), int(dice.integers(0, columns - broad + 1))
        shift = 1 + step % 5
        if dice.random() < 0.3:
            flow.remember(wide)
        found = flow.measure(np.roll(wide, shift, 1), (slice(top, top + high), slice(left, left + broad)))
        inside = found[top * CELL // SCALE :, left * CELL // SCALE :][: high * CELL // SCALE, : broad * CELL // SCALE]
        assert np.median(inside[4:-4, 8:-4, 0]) == pytest.approx(-HALF * shift, abs=1.0)


def test_the_area_holds_what_changed_and_what_lies_around_it() -> None:
    dice = np.random.default_rng(0)
    for _ in range(300):
        rows, columns = (int(side) for side in dice.integers(1, 50, 2))
        changed = dice.random((rows, columns)) < dice.choice([0.002, 0.02, 0.5])
        area = around(changed)
        if not changed.any():
            assert area == EVERYWHERE
            continue
        for one, places, count in zip(area, np.nonzero(changed), (rows, columns), strict=True):
            assert one.start == 0 or one.start <= places.min() - AROUND
            assert one.stop == count or one.stop > places.max() + AROUND
            assert 0 <= one.start < one.stop <= count
            assert one.stop - one.start >= min(LEAST_SIDE, count)
            assert (one.stop - one.start) % SIDE_STEP == 0 or one.stop - one.start == count
    corner = np.zeros((24, 40), bool)
    corner[23, 0] = True
    assert around(corner) == (slice(24 - LEAST_SIDE, 24), slice(0, LEAST_SIDE))


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_outside_of_its_area_a_warp_moves_nothing(stride: int) -> None:
    """Cells that the area only touches are read at where the flow leads, which is nowhere outside of it."""
    dice = np.random.default_rng(stride)
    values = dice.normal(size=(SIZE.height // stride, SIZE.width // stride, 5)).astype(np.float32)
    area = slice(3, 8), slice(5, 11)
    flow = np.zeros((*MEASURED, 2), np.float32)
    inside = tuple(slice(one.start * CELL // SCALE, one.stop * CELL // SCALE) for one in area)
    flow[inside] = dice.normal(0, 12, flow[inside].shape)
    given = values.copy()
    assert np.array_equal(Warp(flow, area)(values), Warp(flow)(values))
    assert np.array_equal(values, given)
    assert not np.array_equal(Warp(flow, area)(values), values)


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
def test_no_flow_leaves_a_map_as_it_is(stride: int) -> None:
    values = np.random.default_rng(stride).normal(size=(SIZE.height // stride, SIZE.width // stride, 5))
    values = values.astype(np.float32)
    assert np.array_equal(Warp(_flow())(values), values)


@pytest.mark.parametrize("stride", [2, 4, 8, 16])
@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 2), (-2, 1)])
def test_whole_strides_shift_a_map_by_whole_cells(stride: int, right: int, down: int) -> None:
    height, width = SIZE.height // stride, SIZE.width // stride
    values = np.random.default_rng(0).normal(size=(height, width, 3)).astype(np.float32)
    moved = Warp(_flow(-right * stride, -down * stride))(values)
    rows, columns = np.arange(height)[:, None] - down, np.arange(width) - right
    assert np.array_equal(moved, values[rows.clip(0, height - 1), columns.clip(0, width - 1)])


def test_maps_of_any_channels_and_sizes_take_the_same_way() -> None:
    """One channel keeps its axis, more go through than OpenCV takes at once, and sizes do not get mixed up."""
    flow = np.random.default_rng(0).normal(0, 6, (*MEASURED, 2)).astype(np.float32)
    warp = Warp(flow)
    values = np.random.default_rng(1).normal(size=(24, 32, 300)).astype(np.float32)
    together = warp(values)
    assert together.shape == values.shape
    for channel in (0, 127, 128, 299):
        alone = warp(values[..., channel : channel + 1])[..., 0]
        assert np.abs(alone - together[..., channel]).max() < 0.1  # OpenCV rounds places of one channel differently
    assert warp(values[:12, :16, :2].copy()).shape == (12, 16, 2)


def _plain(values: np.ndarray, flow: Flow) -> np.ndarray:
    """A map [h, w, C] read where the mean of its cell's flow points to, by OpenCV alone."""
    height, width, _ = values.shape
    stride = SIZE.height / height
    per_cell = flow.reshape(height, MEASURED[0] // height, width, MEASURED[1] // width, 2).mean((1, 3)) / stride
    rows, columns = np.indices((height, width), np.float32)
    return cv2.remap(
        values, columns + per_cell[..., 0], rows + per_cell[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "torch", "torch bfloat16"])
def test_moving_a_map_on_the_device_is_moving_its_numbers(kind: str) -> None:
    dice = np.random.default_rng(0)
    rows, columns = np.indices(MEASURED, np.float32)
    flow = np.stack([9 * np.sin(rows / 10) + columns / 20, 5 * np.cos(columns / 15)], axis=-1).astype(np.float32)
    tensor = torch.from_numpy(dice.normal(size=(1, 24, 32, 7)).astype(np.float32))
    held = tensor.bfloat16() if "bfloat16" in kind else tensor
    values, into = held.float().numpy(), torch.full_like(held, 7.0)
    if kind == "float32":
        ArrayPatches(values).move(Warp(flow), ArrayPatches(into.numpy()))
    elif kind == "bfloat16":
        bits = held.view(torch.uint16).numpy(), into.view(torch.uint16).numpy()
        ArrayPatches(bits[0], bfloat16=True).move(Warp(flow), ArrayPatches(bits[1], bfloat16=True))
    else:
        TensorPatches(held).move(Warp(flow), TensorPatches(into))
    expected = _plain(values[0], flow)
    found = into.float().numpy()[0]
    rounding = 2.0**-8 if "bfloat16" in kind else 0.0
    assert (np.abs(found - expected) <= rounding * np.abs(expected) + 1e-4).all()
    assert np.abs(found - values[0]).max() > 0.5
    if "bfloat16" in kind:  # rounded to the nearest, not cut off
        assert np.array_equal(found, torch.from_numpy(Warp(flow)(values[0])).bfloat16().float().numpy())


BOXES = np.array([[60, 50, 110, 120], [150, 20, 200, 60], [10, 150, 14, 154]], np.float32)


def test_boxes_stay_without_motion() -> None:
    for geometry in (FRAMED, Geometry.fit(Size(360, 640), SIZE)):
        assert np.array_equal(follow_boxes(BOXES, _flow(), geometry), BOXES)
    assert follow_boxes(np.empty((0, 4), np.float32), _flow(3, 3), FRAMED).shape == (0, 4)


@pytest.mark.parametrize(("dx", "dy"), [(12, 0), (-7, 5), (0, 9)])
def test_boxes_pan_with_the_picture(dx: float, dy: float) -> None:
    moved = follow_boxes(BOXES, _flow(-dx, -dy), FRAMED)
    assert moved.dtype == np.float32
    assert np.allclose(moved, BOXES + np.array([dx, dy, dx, dy]), atol=1e-3)


def test_boxes_are_in_source_pixels() -> None:
    """A source of twice the size under letterbox bars: a motion of 6 network pixels is one of 12 there."""
    source = Size(2 * SIZE.height, SIZE.width)
    geometry = Geometry.fit(source, SIZE)
    boxes = np.array([[60, 120, 120, 240]], np.float32)
    moved = follow_boxes(boxes, _flow(-6, 4), geometry)
    step = np.array([6 / geometry.scale_x, -4 / geometry.scale_y] * 2)
    assert np.allclose(moved, boxes + step, atol=1e-2)


@pytest.mark.parametrize("by", [1.0, 1.15, 0.9, 1.3])
def test_boxes_grow_with_what_is_inside(by: float) -> None:
    """About the middle of the picture, a box centred there and one beside it, which also moves away."""
    middle = np.array([SIZE.width, SIZE.height] * 2, np.float32) / 2 - SCALE / 2
    boxes = np.array([[-50, -40, 50, 40], [10, -60, 70, 0]], np.float32) + middle
    moved = follow_boxes(boxes, _zoomed(by), FRAMED)
    assert np.allclose(moved, (boxes - middle) * by + middle, atol=3)
    assert np.allclose(moved[:, 2:] - moved[:, :2], (boxes[:, 2:] - boxes[:, :2]) * by, rtol=0.02)


@pytest.mark.parametrize("by", [3.0, 0.3])
def test_growth_beyond_belief_is_bounded(by: float) -> None:
    box = np.array([[100, 70, 156, 122]], np.float32)
    (moved,) = follow_boxes(box, _zoomed(by), FRAMED)
    bound = MOST_GROWTH if by > 1 else 1 / MOST_GROWTH
    assert moved[2] - moved[0] == pytest.approx(56 * bound, rel=0.01)


def test_each_box_follows_what_is_in_it() -> None:
    flow = _flow()
    flow[40 // SCALE : 140 // SCALE, 44 // SCALE : 132 // SCALE] = (
        -8,
        -4,
    )  # around the first box, there and where it goes
    moved = follow_boxes(BOXES, flow, FRAMED)
    assert np.allclose(moved, BOXES + np.array([[8, 4, 8, 4], [0] * 4, [0] * 4]), atol=1e-3)


@pytest.mark.parametrize(("dx", "dy"), [(-150, 0), (250, 0), (0, -170), (0, 160)])
def test_a_box_that_leaves_the_picture_has_no_area_left(dx: float, dy: float) -> None:
    moved = follow_boxes(BOXES[:1], _flow(-dx, -dy), FRAMED)
    width, height = moved[0, 2:] - moved[0, :2]
    assert width * height == 0
    assert (moved >= 0).all()
    assert (moved <= [SIZE.width, SIZE.height] * 2).all()
    partly = follow_boxes(BOXES[:1], _flow(80, 0), FRAMED)
    assert np.allclose(partly, [[0, 50, 30, 120]], atol=1e-3)


def _glance(picture: Picture) -> np.ndarray:
    """A picture as cuts are looked for: halved, small, grey."""
    height, width, _ = picture.shape
    half = cv2.resize(picture, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    return glance(half.view(np.uint8))


def _cuts(pictures: Iterable[Picture]) -> list[int]:
    """The positions of the pictures that begin a scene."""
    small = [_glance(picture) for picture in pictures]
    return [at for at in range(1, len(small)) if is_cut(small[at], small[at - 1])]


def _letterboxed(picture: Picture) -> Picture:
    barred = picture.copy()
    barred[: SIZE.height // 6] = barred[-SIZE.height // 6 :] = 0
    return barred


def _darker(picture: Picture) -> Picture:
    return (picture * 0.35).astype(np.uint8)


@pytest.mark.parametrize("dressed", [lambda picture: picture, _letterboxed], ids=["full", "letterboxed"])
@pytest.mark.parametrize("seed", range(5))
def test_another_scene_is_a_cut(dressed: Callable[[Picture], Picture], seed: int) -> None:
    one, other = (_texture(2 * seed + k, SIZE.height, SIZE.width, grain=6, contrast=60) for k in range(2))
    assert _cuts(map(dressed, [one, one, other, other, one])) == [2, 4]
    assert _cuts(map(dressed, [one, np.ascontiguousarray(255 - one[:, ::-1])])) == [1]


@pytest.mark.parametrize("seed", range(3))
def test_no_cut_is_seen_in_one_scene(seed: int) -> None:
    dice = np.random.default_rng(seed)
    wide = _texture(seed, SIZE.height, 3 * SIZE.width, grain=5)
    scene, other = wide[:, : SIZE.width].copy(), _texture(seed + 50, SIZE.height, SIZE.width, grain=5)
    step = SIZE.width // 10
    fading = [(scene * weight).astype(np.uint8) for weight in np.linspace(1, 0, 12)]
    dissolving = [cv2.addWeighted(scene, 1 - weight, other, weight, 0) for weight in np.linspace(0, 1, 15)]
    flash = cv2.addWeighted(scene, 0.5, np.full_like(scene, 255), 0.5, 0)
    noisy = [np.clip(scene + dice.normal(0, 8, scene.shape), 0, 255).astype(np.uint8) for _ in range(5)]
    walking = []
    for at in range(8):  # 20 % of the picture
        picture = scene.copy()
        picture[:, at * 15 : at * 15 + SIZE.width // 5] = 255 - other[:, : SIZE.width // 5]
        walking.append(picture)
    clips: dict[str, list[Picture]] = {
        "still": [scene, scene],
        "fade out": fading,
        "fade in": fading[::-1],
        "dissolve": [one.astype(np.uint8) for one in dissolving],
        "flash": [scene, flash.astype(np.uint8), scene],
        "light goes out": [scene, _darker(scene), scene],
        "noise": noisy,
        "pan": [np.ascontiguousarray(wide[:, x : x + SIZE.width]) for x in range(0, 2 * SIZE.width, step)],
        "object": [scene, *walking, scene],
    }
    assert {name: _cuts(pictures) for name, pictures in clips.items()} == {name: [] for name in clips}


def test_pictures_without_detail_are_no_cuts_unless_they_differ_much() -> None:
    """Grey to grey has no correlation to lose: a change of level alone counts when it is large."""
    assert _cuts(np.full((SIZE.height, SIZE.width, 3), level, np.uint8) for level in (100, 104, 130, 100)) == []


@pytest.mark.real
@pytest.mark.slow
def test_cuts_of_real_clips(data: Path) -> None:
    clips = sorted(
        [*(data / "clips").glob("static-*"), data / "clips" / "moving-dashcam.mp4", data / "clips" / "cuts.mp4"]
    )
    for clip in clips:
        expected = [30, 76, 137, 187, 242] if clip.stem == "cuts" else []
        most = None if clip.stem == "cuts" else 200
        pictures = (cv2.resize(frame.rgb(), (640, 384), interpolation=cv2.INTER_AREA) for frame in open_source(clip))
        assert _cuts(islice(pictures, most)) == expected, clip.name
