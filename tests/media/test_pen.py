"""Lines and letters in proportion, and labels that keep clear of each other and of the picture's edge."""

from __future__ import annotations

import numpy as np
import pytest

from sharedbb.media.pen import INK, PAPER, STRIP_SHARE, Chip, Label, Pen, Rect

RED, YELLOW = (200, 20, 20), (250, 240, 90)


def pen(height: int = 180, width: int = 320, grey: int = 100) -> Pen:
    return Pen(np.full((height, width, 3), grey, np.uint8))


def touched(one: Pen, grey: int = 100) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what was drawn."""
    rows, columns = np.nonzero((one.canvas != grey).any(-1))
    return int(rows.min()), int(rows.max()) + 1, int(columns.min()), int(columns.max()) + 1


@pytest.mark.parametrize(
    ("one", "other"), [((180, 320), (360, 640)), ((360, 640), (720, 1280)), ((720, 1280), (1080, 1920))]
)
def test_larger_pictures_get_larger_letters_but_fewer_of_their_pixels(
    one: tuple[int, int], other: tuple[int, int]
) -> None:
    small, large = pen(*one), pen(*other)
    assert small.line_height < large.line_height
    assert small.line_height / small.height > large.line_height / large.height
    assert small.line <= large.line


@pytest.mark.parametrize("width", [320, 640, 1280, 1920])
def test_letters_are_large_enough_to_read_and_do_not_fill_the_picture(width: int) -> None:
    one = pen(width * 9 // 16, width)
    one.write("H", 10, 10, INK)
    top, bottom, *_ = touched(one)
    assert bottom - top >= 7
    assert 20 <= width / one.text_width("m") <= 130


@pytest.mark.parametrize("text", ["", "a", "Agjpqy |", "vehicle 0.87", "größe 日本"])
@pytest.mark.parametrize("width", [320, 1280])
def test_text_stays_in_its_box(text: str, width: int) -> None:
    one = pen(180, width)
    one.write(text, 50, 60, INK)
    if text:
        top, bottom, left, right = touched(one)
        assert top >= 59
        assert bottom <= 61 + one.line_height
        assert left >= 48
        assert right <= 50 + one.text_width(text) + 2


class TestCut:
    def test_what_fits_stays(self) -> None:
        assert pen().cut("vehicle", 300) == "vehicle"
        assert pen().cut("", 300) == ""

    def test_what_does_not_fit_is_shortened_as_little_as_possible(self) -> None:
        one, text = pen(), "a class of a very long name"
        for width in range(20, 200, 7):
            cut = one.cut(text, width)
            assert one.text_width(cut) <= width
            if cut and cut != text:
                assert cut.endswith("...")
                assert text.startswith(cut[:-3])
                assert one.text_width(text[: len(cut) - 3 + 2] + "...") > width
        assert one.cut(text, 1) == ""

    def test_hostile_names(self) -> None:
        one = pen()
        assert one.cut("a\nb\0c\x1b[31m", 300) == "a?b?c?[31m"
        assert one.cut("\udcff", 300) == "?"
        assert one.text_width(one.cut("x" * 100_000, 100)) <= 100


class TestLabel:
    def test_a_plate_of_its_colour_at_the_place(self) -> None:
        one = pen()
        assert one.label(Label("car", RED, ((40, 50),), 1.0))
        right, bottom = 40 + one.text_width("car") + 2 * one.pad, 50 + one.line_height
        assert touched(one) == (50, bottom, 40, right)
        assert one.taken == [Rect(40, 50, right, bottom)]
        assert (one.canvas[50, 40:right] == RED).all()

    def test_letters_stand_out_from_the_plate(self) -> None:
        for color, ink in ((RED, INK), (YELLOW, PAPER)):
            one = pen()
            one.label(Label("MMM", color, ((40, 50),), 1.0))
            distance = np.abs(one.canvas.astype(int) - ink).sum(-1)
            assert distance[50:70, 40:].min() < 60

    @pytest.mark.parametrize("corner", [(-50, -50), (1000, 1000), (-50, 1000), (318, 2)])
    def test_it_is_kept_in_the_picture(self, corner: tuple[int, int]) -> None:
        one = pen()
        assert one.label(Label("car", RED, (corner,), 1.0))
        [rect] = one.taken
        assert rect.left >= 0
        assert rect.top >= 0
        assert rect.right <= 320
        assert rect.bottom <= 180

    def test_the_first_free_place_is_taken(self) -> None:
        one = pen()
        one.taken.append(Rect(0, 0, 100, 100))
        assert one.label(Label("car", RED, ((10, 10), (90, 90), (150, 20), (150, 60)), 1.0))
        assert (one.taken[1].left, one.taken[1].top) == (150, 20)

    def test_without_a_free_place_nothing_is_drawn(self) -> None:
        one = pen()
        one.taken.append(Rect(0, 0, 320, 180))
        assert not one.label(Label("car", RED, ((10, 10),), 1.0))
        assert not pen(8, 8).label(Label("car", RED, ((0, 0),), 1.0))
        assert (one.canvas == 100).all()

    def test_the_surest_go_first_and_none_overlap(self) -> None:
        one = pen()
        random = np.random.default_rng(0)
        corners = random.integers(0, 180, (60, 2)).tolist()
        one.labels(Label(f"{number}", RED, ((x, y),), number / 60) for number, (x, y) in enumerate(corners))
        assert 10 < len(one.taken) < 60
        assert (one.taken[0].left, one.taken[0].top) == (corners[59][0], min(corners[59][1], 180 - one.line_height))
        for number, rect in enumerate(one.taken):
            assert not any(rect.overlaps(other) for other in one.taken[:number])


def test_rectangles_overlap_only_with_a_pixel_in_common() -> None:
    rect = Rect(10, 10, 20, 20)
    for other in (Rect(20, 10, 30, 20), Rect(0, 10, 10, 20), Rect(10, 20, 20, 30), Rect(10, 0, 20, 10)):
        assert not rect.overlaps(other)
        assert not other.overlaps(rect)
    for other in (Rect(19, 19, 30, 30), Rect(0, 0, 11, 11), Rect(12, 12, 13, 13), Rect(0, 0, 50, 50)):
        assert rect.overlaps(other)
        assert other.overlaps(rect)


def test_filling_excludes_the_last_row_and_column() -> None:
    one = pen(10, 10)
    one.fill(Rect(2, 3, 5, 7), RED)
    assert touched(one) == (3, 7, 2, 5)
    one.fill(Rect(8, 8, 8, 9), RED)
    one.fill(Rect(-5, -5, 0, 0), RED)
    assert touched(one) == (3, 7, 2, 5)


class TestCaption:
    def test_a_dark_strip_along_the_lower_edge(self) -> None:
        one = pen()
        one.caption([[Chip("frame 3")]])
        [strip] = one.taken
        assert (strip.left, strip.right, strip.bottom) == (0, 320, 180)
        assert (one.canvas[: strip.top] == 100).all()
        assert (one.canvas[strip.top :, 200:] == 30).all()
        assert one.canvas[strip.top :, :100].max() > 200

    def test_colours_have_patches(self) -> None:
        one = pen()
        one.caption([[Chip("road", RED), Chip("tree", YELLOW)]])
        for color in (RED, YELLOW):
            patch = np.argwhere((one.canvas == color).all(-1))
            assert len(patch) == (np.ptp(patch, axis=0) + 1).prod() > 20

    def test_it_covers_no_more_than_its_share(self) -> None:
        for height in (20, 60, 180, 400):
            one = pen(height, 320)
            one.caption([[Chip(f"a word {number}") for number in range(40)], [Chip("last")]])
            covered = sum(rect.bottom - rect.top for rect in one.taken)
            assert covered <= height * STRIP_SHARE
            assert bool(covered) == (height > 60)

    def test_the_last_line_always_stays(self) -> None:
        long, short = pen(), pen()
        last = [Chip("frame 12")]
        long.caption([[Chip(f"word {number}") for number in range(99)], last])
        short.caption([last])
        height = short.line_height
        assert np.array_equal(long.canvas[-height:], short.canvas[-height:])

    def test_no_words_no_strip(self) -> None:
        one = pen()
        one.caption([])
        one.caption([[], []])
        assert (one.canvas == 100).all()

    def test_words_wider_than_the_picture(self) -> None:
        one = pen(300, 50)
        one.caption([[Chip("a word that is far too long for it", RED)], [Chip("x" * 300)]])
        assert (one.canvas[:200] == 100).all()
