"""Drawing: every kind of answer at its place, nothing else touched, the frame itself never, and any input survived."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import combinations
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from sharedbb.media import draw
from sharedbb.media.draw import AREA_OPACITY, KNOWN, color_of
from sharedbb.media.pen import Pen
from sharedbb.media.synthetic import CLASSES, StreetVideo, object_ids
from sharedbb.outputs import DepthMap, Detections, Embedding, Keypoints, SegmentationMap, Tags
from sharedbb.types import Frame, FrameResult, Freshness, Geometry, Size

Image = NDArray[np.uint8]
NETWORK = Size(96, 160)


def result(picture: Image | Frame, **outputs: Any) -> FrameResult:
    frame = picture if isinstance(picture, Frame) else Frame(3, 0.12, picture)
    return FrameResult(frame, Geometry.fit(frame.size, NETWORK, "stretch"), outputs, {})


def grey(height: int = 180, width: int = 320, level: int = 100) -> Image:
    return np.full((height, width, 3), level, np.uint8)


def segmentation(size: Size, cells: NDArray[Any], *names: str) -> SegmentationMap:
    """A map whose cells, [24, 40], say the class."""
    logits = np.eye(len(names), dtype=np.float32)[cells] * 9
    return SegmentationMap(logits, Geometry.fit(size, NETWORK, "stretch"), names)


def detections(
    *boxes: tuple[float, float, float, float], names: tuple[str, ...] = ("vehicle",), **more: Any
) -> Detections:
    scores = more.get("scores", np.linspace(0.9, 0.5, len(boxes)))
    classes = more.get("classes", np.zeros(len(boxes)))
    box = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(box, np.asarray(scores, np.float32), np.asarray(classes, np.int64), names)


def depth(size: Size, cells: NDArray[Any]) -> DepthMap:
    return DepthMap(cells.astype(np.float32), Geometry.fit(size, NETWORK, "stretch"))


def halves() -> NDArray[np.int64]:
    """Class 1 on the right."""
    return np.repeat([[0] * 20 + [1] * 20], 24, 0)


def caption_top(picture: Image) -> int:
    """Where the darkened strip begins, found at the right edge of a picture of grey 100."""
    return int(np.argmax(picture[:, -1, 0] == 30))


class TestColours:
    def test_known_classes_have_the_colours_people_expect(self) -> None:
        for name, color in KNOWN.items():
            assert color_of(name) == color
        red, green, blue = color_of("tree")
        assert green > max(red, blue)

    def test_every_other_name_has_one_of_its_own(self) -> None:
        names = ["car", "person", "dog", "truck", "bus", "bicycle", "cat", "asphalt", "grass", "water"]
        colors = [color_of(name) for name in names]
        assert len(set(colors)) == len(names)
        assert colors == [color_of(name) for name in names]
        assert all(max(color) >= 150 for color in colors)  # seen on dark ground

    @pytest.mark.parametrize("name", ["", "x" * 100_000, "日本", "\0", "\udcff"])
    def test_hostile_names(self, name: str) -> None:
        assert all(0 <= level <= 255 for level in color_of(name))


class TestAreas:
    def test_are_tinted_with_their_classes_colours(self) -> None:
        classes = segmentation(Size(180, 320), halves() * 2, "sky", "road", "tree")
        drawn = draw(result(grey(), surface=classes))
        for name, columns in (("sky", slice(0, 140)), ("tree", slice(180, 320))):
            expected = 100 * (1 - AREA_OPACITY) + np.array(KNOWN[name]) * AREA_OPACITY
            assert np.abs(drawn[:120, columns] - expected).max() <= 1

    def test_the_picture_shines_through(self, scene: Callable[..., Image]) -> None:
        picture = scene(0, 180, 320)
        classes = segmentation(Size(180, 320), halves() * 0, "sky", "road", "tree")
        drawn = draw(result(picture, surface=classes))[:120]
        expected = picture[:120] * (1 - AREA_OPACITY) + np.array(KNOWN["sky"]) * AREA_OPACITY
        assert np.abs(drawn - expected).max() <= 1

    def test_of_two_classes_only_the_second_is_drawn_with_an_outline(self) -> None:
        cells = np.zeros((24, 40), int)
        cells[4:12, 10:30] = 1
        drawn = draw(result(grey(), edges=segmentation(Size(180, 320), cells, "inside", "edge")))
        inside = segmentation(Size(180, 320), cells, "inside", "edge").mask("edge")
        above = drawn[: caption_top(drawn)]
        untouched = (above == 100).all(-1)
        assert np.array_equal(untouched, ~inside[: len(above)])
        solid = (above == KNOWN["edge"]).all(-1)
        tinted = np.abs(above - (100 * (1 - AREA_OPACITY) + np.array(KNOWN["edge"]) * AREA_OPACITY)).max(-1) <= 1
        assert np.array_equal(solid | tinted, inside[: len(above)])
        assert tinted[60, 160]
        assert solid[60, np.flatnonzero(inside[60])[[0, -1]]].all()
        assert 0.02 < solid.sum() / inside.sum() < 0.2

    def test_the_caption_names_what_is_seen(self) -> None:
        classes = segmentation(Size(360, 640), halves() * 2, "sky", "road", "tree")
        drawn = draw(result(grey(360, 640), surface=classes))
        strip = drawn[int(360 * 0.8) :]
        found = {name for name in ("sky", "road", "tree") if (strip == KNOWN[name]).all(-1).any()}
        assert found == {"sky", "tree"}

    def test_an_answer_to_an_earlier_frame_of_another_size(self) -> None:
        classes = segmentation(Size(90, 100), halves() * 2, "sky", "road", "tree")
        edges = segmentation(Size(7, 7), halves(), "inside", "edge")
        assert draw(result(grey(), surface=classes, edges=edges)).shape == (180, 320, 3)
        drawn = draw(result(grey(), surface=classes))[:120]
        left, right = (100 * (1 - AREA_OPACITY) + np.array(KNOWN[name]) * AREA_OPACITY for name in ("sky", "tree"))
        assert np.abs(drawn[:, :159] - left).max() <= 1
        assert np.abs(drawn[:, 162:] - right).max() <= 1
        colours = {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}
        assert len(colours) == 2  # nothing of the class between them


class TestBoxes:
    @pytest.mark.parametrize(("height", "width"), [(180, 320), (360, 640), (720, 1280), (1080, 1920)])
    def test_edges_lie_on_the_box(self, height: int, width: int) -> None:
        left, top, right, bottom = width // 4, height // 4, width // 2, height // 2
        drawn = draw(result(grey(height, width), objects=detections((left, top, right, bottom))))
        color = KNOWN["vehicle"]
        assert (drawn[bottom, left : right + 1] == color).all()
        assert (drawn[top, left : right + 1] == color).all()
        assert (drawn[top : bottom + 1, left] == color).all()
        assert (drawn[top : bottom + 1, right] == color).all()
        margin = 12 * width // 1280 + 3
        within = drawn[top + margin : bottom - margin, left + margin : right - margin]
        assert (within == 100).all()
        outside = drawn[: caption_top(drawn)].copy()
        outside[top - margin : bottom + margin, left - margin : right + margin] = 100
        plate = (outside != 100).any(-1)
        rows, columns = np.nonzero(plate)
        assert rows.max() < top  # the label, above the box
        assert columns.min() >= left - margin

    def test_the_surest_is_on_top(self) -> None:
        names = ("vehicle", "pedestrian")
        boxes = ((40, 40, 120, 100), (40, 60, 160, 100))
        for scores in ((0.9, 0.4), (0.4, 0.9)):
            drawn = draw(result(grey(), objects=detections(*boxes, names=names, scores=scores, classes=(0, 1))))
            assert drawn[100, 60].tolist() == list(KNOWN[names[int(np.argmax(scores))]])

    @pytest.mark.parametrize(
        "box",
        [
            (-500.0, -500.0, 2000.0, 2000.0),
            (-50.0, 20.0, 60.0, 90.0),
            (1e9, 1e9, 2e9, 2e9),
            (-1e9, 0.0, -1e8, 10.0),
            (60.0, 60.0, 60.0, 60.0),
            (90.0, 90.0, 50.0, 50.0),
            (np.nan, 10.0, 50.0, 50.0),
            (10.0, 10.0, np.inf, 50.0),
            (3e38, -3e38, 3e38, 3e38),
        ],
    )
    def test_boxes_of_any_kind(self, box: tuple[float, float, float, float]) -> None:
        drawn = draw(result(grey(), objects=detections(box)))
        inside = np.clip(np.nan_to_num(box), 0, [319, 179, 319, 179])
        visible = np.isfinite(box).all() and inside[0] < inside[2] and inside[1] < inside[3]
        assert bool((drawn[:120] != 100).any()) == visible
        if box[0] == -500:
            assert (drawn[:120, 0] == KNOWN["vehicle"]).all(-1).sum() > 60  # the frame of the whole picture
            assert (drawn[:120, -1] == KNOWN["vehicle"]).all()

    @pytest.mark.parametrize("name", ["", " ", "x" * 10_000, "größer 日本 ж", "two\nlines\0", "\udcff"])
    @pytest.mark.parametrize("width", [64, 320])
    def test_names_of_any_kind(self, name: str, width: int) -> None:
        drawn = draw(result(grey(180, width), objects=detections((20, 60, 50, 90), names=(name,))))
        assert (drawn[90, 20:51] == color_of(name)).all()

    def test_no_boxes(self) -> None:
        assert (draw(result(grey(), objects=detections()))[:120] == 100).all()


class TestPoints:
    def test_a_dot_at_every_place_that_is_sure_enough(self) -> None:
        points = np.array([[50, 40], [200, 60], [120, 90], [160, 30]], np.float32)
        answer = Keypoints(points, np.array([0.9, 0.31, 0.29, np.nan], np.float32), ("eye", "ear", "nose", "chin"))
        drawn = draw(result(grey(), pose=answer))
        assert drawn[40, 50].tolist() == list(color_of("eye"))
        assert drawn[60, 200].tolist() == list(color_of("ear"))
        assert drawn[90, 120].tolist() == drawn[30, 160].tolist() == [100, 100, 100]

    def test_labels_stand_beside_their_dots(self) -> None:
        drawn = draw(result(grey(), pose=Keypoints(np.array([[50, 60]], np.float32), np.ones(1, np.float32), ("eye",))))
        plate = np.argwhere((drawn == color_of("eye")).all(-1))
        assert 50 < np.median(plate[:, 1]) < 110
        assert 50 < np.median(plate[:, 0]) < 70

    @pytest.mark.parametrize("place", [(-1e9, 0), (np.nan, 5), (np.inf, 5), (5, 1e30)])
    def test_points_outside_are_left_out(self, place: tuple[float, float]) -> None:
        answer = Keypoints(np.array([place], np.float32), np.ones(1, np.float32), ("eye",))
        assert (draw(result(grey(), pose=answer))[:120] == 100).all()


class TestDepth:
    def inset(self, drawn: Image) -> tuple[slice, slice]:
        changed = (drawn[:120] != 100).any(-1)
        frame = np.argwhere((drawn[:120] == 255).all(-1) & changed)
        (top, left), (bottom, right) = frame.min(0), frame.max(0)
        return slice(int(top), int(bottom) + 1), slice(int(left), int(right) + 1)

    def test_near_is_bright_and_far_is_dark_in_the_upper_right(self) -> None:
        cells = np.repeat(np.geomspace(1, 80, 24)[:, None], 40, 1)
        drawn = draw(result(grey(), depth=depth(Size(180, 320), cells)))
        rows, columns = self.inset(drawn)
        assert rows.start < 10
        assert columns.stop > 310
        assert 0.2 < (columns.stop - columns.start) / 320 < 0.3
        light = drawn[rows, columns].astype(int).sum(-1)[2:40, 10:-10].mean(1)
        assert (np.diff(light) < 6).all()
        assert light[0] > light[-1] + 200
        assert (drawn[: rows.stop, : columns.start] == 100).all()

    def test_it_says_how_near_and_how_far(self) -> None:
        def plate(near: float, far: float) -> Image:
            cells = np.repeat(np.geomspace(near, far, 24)[:, None], 40, 1)
            return draw(result(grey(), depth=depth(Size(180, 320), cells)))[50:90, 230:]

        assert not np.array_equal(plate(1, 80), plate(2, 80))
        assert not np.array_equal(plate(1, 80), plate(1, 90))
        assert np.array_equal(plate(1, 80), plate(1, 80))

    def test_two_maps_stand_one_below_the_other(self) -> None:
        cells = np.repeat(np.geomspace(1, 80, 24)[:, None], 40, 1)
        one = draw(result(grey(360, 640), near=depth(Size(360, 640), cells)))
        both = draw(result(grey(360, 640), near=depth(Size(360, 640), cells), far=depth(Size(360, 640), cells)))
        assert np.array_equal(one[:100], both[:100])
        assert (one[150:250, 500:] == 100).all()
        assert (both[150:200, 500:] != 100).any()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.0, -5.0, 1e30, 7.0])
    def test_values_of_any_kind(self, value: float) -> None:
        cells = np.full((24, 40), value)
        assert (draw(result(grey(), depth=depth(Size(180, 320), cells)))[:120, 250:] != 100).any()
        cells[:5] = 3.0
        assert (draw(result(grey(), depth=depth(Size(180, 320), cells)))[:120, 250:] != 100).any()

    def test_what_is_not_known_counts_as_far(self) -> None:
        cells = np.where(halves() == 0, 5.0, np.nan)
        rows, columns = self.inset(drawn := draw(result(grey(), depth=depth(Size(180, 320), cells))))
        light = drawn[rows, columns].astype(int).sum(-1)[10:30]
        assert light[:, 10:30].mean() > light[:, -30:-10].mean() + 300


def test_words_along_the_lower_edge() -> None:
    picture = grey(360, 640)
    tags = Tags(("day", "rain"), np.array([0.9, 0.1], np.float32), 0.5)
    none = Tags(("day", "rain"), np.array([0.1, 0.1], np.float32), 0.5)
    embedding = Embedding(np.full(64, 0.125, np.float32))
    drawings = [draw(result(picture, scene=answer)) for answer in (tags, none, embedding)]
    for drawn in drawings:
        assert (drawn[:300] == 100).all()
        assert drawn[300:].max() > 200
    assert not any(np.array_equal(one, other) for one, other in combinations(drawings, 2))


def test_what_is_not_fresh_is_said() -> None:
    fresh, aged = result(grey()), result(grey())
    fresh.freshness["depth"] = Freshness(True, 0, 0.0, "full")
    aged.freshness["depth"] = Freshness(False, 3, 120.0, "reused")
    assert np.array_equal(draw(fresh), draw(result(grey())))
    assert not np.array_equal(draw(aged), draw(fresh))


def test_answers_of_other_types_are_left_out() -> None:
    class Count:
        def to_dict(self) -> dict[str, Any]:
            return {"count": 3}

    assert np.array_equal(draw(result(grey(), count=Count())), draw(result(grey())))


@pytest.fixture(scope="module")
def street() -> Callable[[int], FrameResult]:
    """A street of the width asked for, its labels taken for answers of every kind."""

    def answered(width: int) -> FrameResult:
        size = Size(width * 9 // 16, width)
        truth = StreetVideo(size, 30, seed=1).render(20)
        rows = (np.arange(24) * size.height) // 24 + size.height // 48
        columns = (np.arange(40) * size.width) // 40 + size.width // 80
        cells = np.minimum(truth.classes[np.ix_(rows, columns)], len(CLASSES) - 1)
        edges = (cells != np.roll(cells, 1, 1)).astype(int)
        ids = object_ids()
        names = tuple(CLASSES[number] for number in ids)
        present = np.array([name in truth.tags for name in CLASSES], np.float32)
        points = np.array([[0.5, 0.5], [0.2, 0.8]], np.float32) * [size.width, size.height]
        made = result(
            truth.frame,
            surface=segmentation(size, cells, *CLASSES),
            edges=segmentation(size, edges, "inside", "edge"),
            objects=Detections(
                truth.boxes,
                np.linspace(0.95, 0.3, len(truth.boxes), dtype=np.float32),
                np.array([ids.index(number) for number in truth.box_classes], np.int64),
                names,
            ),
            depth=depth(size, np.minimum(truth.depth[np.ix_(rows, columns)], 100)),
            points=Keypoints(points.astype(np.float32), np.array([0.9, 0.8], np.float32), ("horizon", "kerb")),
            scene=Tags(CLASSES, present, 0.5),
            place=Embedding(np.full(64, 0.125, np.float32)),
        )
        made.freshness["depth"] = Freshness(False, 2, 80.0, "reused")
        return made

    return answered


class TestAllAtOnce:
    @pytest.mark.parametrize("width", [320, 640, 1280])
    def test_a_new_picture_and_the_same_every_time(self, street: Callable[[int], FrameResult], width: int) -> None:
        answers = street(width)
        before = answers.frame.rgb().copy()
        one, other = draw(answers), draw(answers)
        assert np.array_equal(one, other)
        assert np.array_equal(answers.frame.rgb(), before)
        assert not np.shares_memory(one, answers.frame.rgb())
        assert one.shape == before.shape
        assert one.dtype == np.uint8
        assert np.mean(one != before) > 0.8

    @pytest.mark.parametrize("width", [320, 640, 1280])
    def test_nothing_written_overlaps(
        self, street: Callable[[int], FrameResult], monkeypatch: pytest.MonkeyPatch, width: int
    ) -> None:
        pens: list[Pen] = []

        class Watched(Pen):
            def __init__(self, canvas: Image) -> None:
                super().__init__(canvas)
                pens.append(self)

        monkeypatch.setattr(sys.modules["sharedbb.media.draw"], "Pen", Watched)
        draw(street(width))
        [pen] = pens
        assert len(pen.taken) >= 5  # depth, its label, the caption, and labels
        assert not any(one.overlaps(other) for one, other in combinations(pen.taken, 2))

    @pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (2, 3), (9, 16), (33, 17), (400, 40)])
    def test_pictures_of_any_size(self, street: Callable[[int], FrameResult], height: int, width: int) -> None:
        answers = street(320)
        size = Size(height, width)
        small = result(grey(height, width), **answers.outputs)
        small.outputs["surface"] = segmentation(size, halves(), "sky", "road", "tree")
        small.outputs["edges"] = segmentation(size, halves(), "inside", "edge")
        small.outputs["depth"] = depth(size, halves() + 1.0)
        assert draw(small).shape == (height, width, 3)

    def test_frames_of_any_kind(self, street: Callable[[int], FrameResult], scene: Callable[..., Image]) -> None:
        answers = street(320)
        picture = scene(0, 180, 320)
        backwards = np.ascontiguousarray(picture[..., ::-1])
        backwards.setflags(write=False)
        video = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frames = (Frame(0, 0.0, picture), Frame(0, 0.0, backwards, "bgr"), Frame(0, 0.0, video=video))
        drawings = [draw(result(frame, **answers.outputs)) for frame in frames]
        assert np.array_equal(drawings[0], drawings[1])
        assert np.array_equal(drawings[0], drawings[2])
