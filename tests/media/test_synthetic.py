"""The synthetic street: labels agree with colours, depth, flow and the camera; everything is repeatable."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from sharedbb.errors import SourceError
from sharedbb.media import open_source
from sharedbb.media.synthetic import CLASSES, OBJECTS, LabelledFrame, StreetVideo, object_ids, open_synthetic
from sharedbb.media.synthetic.camera import NEAR
from sharedbb.types import Size

SIZE = Size(120, 200)
MOTIONS = ("drive", "static", "pan")


def _video(motion: str = "drive", **more: object) -> StreetVideo:
    return StreetVideo(**{"size": SIZE, "frames": 12, "motion": motion, "seed": 3, "noise": 0.0, **more})


@pytest.fixture(scope="module", params=MOTIONS)
def pair(request: pytest.FixtureRequest) -> tuple[StreetVideo, LabelledFrame, LabelledFrame]:
    video = _video(request.param)
    return video, video.render(5), video.render(6)


def _followed(first: LabelledFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where every pixel of the first frame lies in the second, and whether that is inside of the picture."""
    rows, columns = np.mgrid[0 : SIZE.height, 0 : SIZE.width].astype(np.float32)
    x, y = columns + first.flow[..., 0], rows + first.flow[..., 1]
    inside = (x >= 0) & (x <= SIZE.width - 1) & (y >= 0) & (y <= SIZE.height - 1)
    return x, y, inside


def test_flow_leads_to_the_same_colour_class_and_instance(
    pair: tuple[StreetVideo, LabelledFrame, LabelledFrame],
) -> None:
    _, first, second = pair
    x, y, inside = _followed(first)
    landed = (np.rint(y).astype(int).clip(0, SIZE.height - 1), np.rint(x).astype(int).clip(0, SIZE.width - 1))
    same_class = second.classes[landed] == first.classes
    assert same_class[inside].mean() > 0.95
    objects = inside & (first.instances > 0)
    assert (second.instances[landed] == first.instances)[objects].mean() > 0.85
    assert first.frame.pixels is not None
    assert second.frame.pixels is not None
    seen = inside & same_class & (second.instances[landed] == first.instances)
    moved = cv2.remap(second.frame.pixels.astype(np.float32), x, y, cv2.INTER_LINEAR)
    apart = np.abs(moved - first.frame.pixels).mean(-1)[seen]
    still = np.abs(second.frame.pixels.astype(np.float32) - first.frame.pixels).mean(-1)[seen]
    assert np.median(apart) < 2.0
    assert apart.mean() < 6.0
    if np.abs(first.flow[seen]).mean() > 0.5:
        assert apart.mean() < 0.7 * still.mean()


def test_static_things_move_as_the_camera_and_their_depth_say(
    pair: tuple[StreetVideo, LabelledFrame, LabelledFrame],
) -> None:
    video, first, _ = pair
    rows, columns = np.mgrid[0 : SIZE.height, 0 : SIZE.width] + 0.5
    static = np.isin(first.classes, [CLASSES.index(name) for name in ("road", "pavement", "building", "pole")])
    now, then = video.camera_at(5), video.camera_at(6)
    pixels = np.stack([columns, rows, np.ones_like(rows)]) * first.depth
    square, shift = now.matrix[:, :3], now.matrix[:, 3]
    world = np.linalg.solve(square, pixels.reshape(3, -1) - shift[:, None])
    projected = then.matrix @ np.vstack([world, np.ones(world.shape[1])])
    ahead = (projected[2] > NEAR).reshape(first.depth.shape)
    expected = (projected[:2] / projected[2]).reshape(2, *first.depth.shape) - np.stack([columns, rows])
    error = np.abs(expected.transpose(1, 2, 0) - first.flow).max(-1)
    assert error[static & ahead].max() < 0.05


def test_the_ground_is_as_far_as_the_camera_is_high(pair: tuple[StreetVideo, LabelledFrame, LabelledFrame]) -> None:
    video, first, _ = pair
    camera = video.camera_at(5)
    rows, columns = np.mgrid[0 : SIZE.height, 0 : SIZE.width] + 0.5
    rays = np.linalg.solve(camera.matrix[:, :3], np.stack([columns, rows, np.ones_like(rows)]).reshape(3, -1))
    depth = (-camera.position[1] / rays[1]).reshape(first.depth.shape)
    ground = np.isin(first.classes, [CLASSES.index("road"), CLASSES.index("pavement")])
    assert np.allclose(first.depth[ground], depth[ground], rtol=1e-3)
    assert (first.depth[first.classes == CLASSES.index("sky")] > 1000).all()


def test_boxes_are_tight_around_what_is_seen(pair: tuple[StreetVideo, LabelledFrame, LabelledFrame]) -> None:
    for labelled in pair[1:]:
        assert len(labelled.boxes) > 3
        assert labelled.boxes.dtype == np.float32
        for box, kind, instance in zip(labelled.boxes, labelled.box_classes, labelled.box_instances, strict=True):
            rows, columns = np.nonzero(labelled.instances == instance)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert set(labelled.classes[rows, columns]) == {kind}
        missing = set(np.unique(labelled.instances)) - {0, *labelled.box_instances}
        assert all((labelled.instances == instance).sum() < 12 for instance in missing)
        assert set(labelled.box_classes) <= set(object_ids())
        assert {CLASSES[kind] for kind in object_ids()} == set(OBJECTS)


def test_every_object_has_a_number_of_its_own(pair: tuple[StreetVideo, LabelledFrame, LabelledFrame]) -> None:
    """Pixels of one number are of one class and lie together, give or take what stands before them."""
    _, first, _ = pair
    for instance in np.unique(first.instances[first.instances > 0]):
        depth = first.depth[first.instances == instance]
        assert depth.max() - depth.min() < 6.0


def test_tags_are_the_classes_in_the_picture(pair: tuple[StreetVideo, LabelledFrame, LabelledFrame]) -> None:
    for labelled in pair[1:]:
        assert labelled.tags == {CLASSES[number] for number in np.unique(labelled.classes)}
        assert labelled.classes.max() < len(CLASSES)


def test_the_same_arguments_give_the_same_bytes_in_any_order() -> None:
    video = _video(noise=2.0, frames=6)
    frames = [frame.pixels for frame in video]
    for index in (4, 0, 5, 2):
        assert np.array_equal(_video(noise=2.0, frames=6).render(index).frame.pixels, frames[index])
    assert not np.array_equal(_video(noise=2.0, seed=4).render(0).frame.pixels, frames[0])
    assert [labelled.frame.index for labelled in video.labelled()] == list(range(6))


def test_noise_has_the_stated_strength_and_changes_from_frame_to_frame() -> None:
    clean, noisy = _video("static").render(3).frame.pixels, _video("static", noise=4.0).render(3).frame.pixels
    assert clean is not None
    assert noisy is not None
    inner = (clean > 20) & (clean < 235)
    assert (noisy.astype(int) - clean)[inner].std() == pytest.approx(4.0, abs=0.2)
    assert not np.array_equal(_video("static", noise=4.0).render(4).frame.pixels, noisy)


def test_a_static_camera_without_noise_leaves_the_background_as_it_was() -> None:
    video = _video("static")
    first, second = video.render(5), video.render(6)
    assert first.frame.pixels is not None
    assert second.frame.pixels is not None
    still = (first.instances == 0) & (second.instances == 0) & (np.abs(first.flow).max(-1) == 0)
    same = (first.frame.pixels == second.frame.pixels).all(-1)
    assert still.mean() > 0.5
    ground = np.isin(first.classes, [CLASSES.index("road"), CLASSES.index("pavement")])  # shadows pass over it
    objects = ((first.instances > 0) | (second.instances > 0)).astype(np.uint8)
    beside = cv2.dilate(objects, np.ones((5, 5), np.uint8)) > 0  # soft edges of what moves
    assert same[still & ~ground & ~beside].all()
    assert not same.all()


def test_a_driving_camera_leaves_nothing_as_it_was() -> None:
    first, second = _video().render(5), _video().render(6)
    assert np.abs(first.flow[first.classes == CLASSES.index("road")]).mean() > 0.3
    assert not np.array_equal(first.frame.pixels, second.frame.pixels)


def test_cuts_come_where_they_are_stated() -> None:
    video = _video("static", cuts=2, frames=9)
    assert [video.scene_of(index) for index in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    pictures = [frame.pixels.astype(int) for frame in video if frame.pixels is not None]
    changes = [np.abs(before - after).mean() for before, after in pairwise(pictures)]
    assert min(changes[2], changes[5]) > 5 * max(changes[:2] + changes[3:5] + changes[6:])


def test_at_the_end_of_a_scene_the_camera_drives_on_in_the_labels() -> None:
    video = _video("drive", cuts=1, frames=4)
    moves = [float(np.median(np.abs(frame.flow[-20:]))) for frame in video.labelled()]
    assert min(moves) > 0.5 * max(moves) > 0


def test_lighting_swings() -> None:
    means = [
        float(frame.pixels.mean())
        for frame in _video("static", lighting="changing", fps=2.0)
        if frame.pixels is not None
    ]
    steady = [float(frame.pixels.mean()) for frame in _video("static", fps=2.0) if frame.pixels is not None]
    assert np.ptp(means) > 4 * np.ptp(steady)


@pytest.mark.parametrize("size", [Size(32, 32), Size(96, 33), Size(33, 96), Size(720, 1280)])
def test_sizes(size: Size) -> None:
    labelled = _video(size=size, frames=1).render(0)
    assert labelled.frame.size == size
    assert labelled.flow.shape == (size.height, size.width, 2)
    assert np.isfinite(labelled.flow).all()
    assert np.isfinite(labelled.depth).all()


def test_a_query_says_it_all() -> None:
    video = open_synthetic("street?motion=pan&frames=7&seed=5&size=96x64&fps=10&noise=0&cuts=1&lighting=changing")
    assert (video.frames, video.fps, video.size) == (7, 10.0, Size(64, 96))
    assert np.array_equal(
        video.render(2).frame.pixels,
        StreetVideo(Size(64, 96), 7, "pan", 5, 10.0, 1, 0.0, "changing").render(2).frame.pixels,
    )
    with open_source("synthetic:street?frames=2&size=64x48") as source:
        assert [frame.timestamp for frame in source] == [0.0, 0.04]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("strete", "no synthetic video 'strete'; there is synthetic:street"),
        ("street?frame=3", "knows no 'frame'; did you mean 'frames'"),
        ("street?frames=many", "frames must be a whole number, got 'many'"),
        ("street?motion=fly", "motion must be one of drive, static, pan, got 'fly'"),
        ("street?size=640", "size must be WIDTHxHEIGHT, such as 640x384, got '640'"),
        ("street?size=8x8", "sizes start at 32x32"),
        ("street?frames=3&cuts=3", "cuts are fewer than frames"),
        *((f"street?fps={fps}", "fps lies in 0.01–1000") for fps in ("0", "nan", "inf", "1e-320")),
        *((f"street?noise={noise}", "noise in 0–255") for noise in ("-1", "nan", "inf")),
        ("street?seed=-1", "no seed is below 0"),
    ],
)
def test_faults_in_a_query_are_said(query: str, said: str) -> None:
    with pytest.raises(SourceError) as raised:
        open_synthetic(query)
    assert said in str(raised.value)


def test_frames_outside_of_the_video() -> None:
    with pytest.raises(IndexError, match="frame 12 of 12"):
        _video().render(12)
