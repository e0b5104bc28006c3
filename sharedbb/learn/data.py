"""Pictures to learn from and to judge by, with labels or without: labelled folders, folders, videos, synthetic streets.

A set is divided into ``train``, ``val`` and ``test``: by its own folders where it has them, otherwise by position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import parse_qsl, urlencode

import cv2
import numpy as np
from numpy.typing import NDArray

from sharedbb.errors import DataError, SourceError
from sharedbb.learn.labels import VOID, Boxes, LabelMap
from sharedbb.media.sources import PICTURES, open_source
from sharedbb.media.synthetic import CLASSES, StreetVideo, open_synthetic
from sharedbb.types import Size

if TYPE_CHECKING:
    from sharedbb.learn.known import Known

PARTS = ("train", "val", "test")
CLASS_FILE = "classes.txt"

KEPT_BYTES = 512 << 20  # of pictures that stay in memory once they were read
MOST_FRAMES = 256  # taken of a video
LARGEST = (720, 1280)  # height and width of what is taken of a video, where no size is given
LONGEST_BLOCK = 25  # consecutive pictures that come into one part
STREET_FRAMES = 4  # of one synthetic street before the next
STREET_SECONDS = 4.0  # between two of them

VIDEO_PART = re.compile(r"(?P<file>.+)\?(?P<query>(?:from|to)=[^?]*)")
"""A part of a video: ``clip.mp4?from=0.5&to=1``, as shares of its length."""

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One picture: ``rgb`` uint8 [H, W, 3], ``labels`` uint8 [H, W] (position in ``Data.classes``, VOID unknown).

    ``depth`` float32 [H, W] is in metres. ``boxes`` are objects of ``Data.classes``. ``known`` is what teachers said of
    it, by head. ``unnamed``: numbers in its label file that are neither of a class nor of void (255, or the first
    behind the classes). The arrays belong to the set: copy them to change them.
    """

    name: str
    rgb: Rgb
    labels: LabelMap | None = None
    depth: NDArray[np.float32] | None = None
    boxes: Boxes | None = None
    known: Mapping[str, Known] = field(default_factory=dict)
    unnamed: tuple[int, ...] = ()


@dataclass(slots=True)
class Memory:
    """How many bytes of pictures a set may still keep."""

    free: int = KEPT_BYTES


@dataclass(slots=True)
class Item:
    """One picture of a set: its part, how to read it, and, as long as there is memory, what was read."""

    part: str
    read: Callable[[], Sample]
    memory: Memory = field(default_factory=Memory)
    kept: Sample | None = None

    def sample(self) -> Sample:
        """The picture, read when it is first asked for. Raises DataError."""
        if self.kept is not None:
            return self.kept
        sample = self.read()
        size = sum(array.nbytes for array in (sample.rgb, sample.labels, sample.depth) if array is not None)
        if size <= self.memory.free:
            self.memory.free -= size
            self.kept = sample
        return sample


class Data(Sequence[Sample]):
    """A set of pictures, read one by one when they are asked for.

    ``classes``: the names of the labels' values, none without labels. ``depth``: whether there are distances.
    ``boxed``: labels are boxes, not maps. ``taught``: the heads of which teachers have said what they should answer.
    ``said``: sentences for people, about pictures that were left out, say. ``digest``: of all pictures with their
    labels, once somebody has read them all (``survey.usable``), else "".
    """

    digest = ""

    def __init__(
        self,
        name: str,
        classes: Sequence[str],
        items: Sequence[Item],
        *,
        depth: bool = False,
        boxed: bool = False,
        taught: Sequence[str] = (),
        said: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.classes = tuple(classes)
        self.depth, self.boxed = depth, boxed
        self.taught, self.said = tuple(taught), tuple(said)
        self._items = items

    @classmethod
    def given(cls, name: str, samples: Sequence[Sample], classes: Sequence[str] = ()) -> Data:
        """A set of samples that are at hand, divided by position. ``boxed`` and ``taught`` are what they have."""
        depth = bool(samples) and all(sample.depth is not None for sample in samples)
        boxed = any(sample.boxes is not None for sample in samples)
        taught = tuple(dict.fromkeys(head for sample in samples for head in sample.known))
        items = [Item(part, partial(_same, one)) for part, one in zip(divided(len(samples)), samples, strict=True)]
        return cls(name, classes, items, depth=depth, boxed=boxed, taught=taught)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Data: ...

    def __getitem__(self, index: int | slice) -> Sample | Data:
        return self._with(self._items[index]) if isinstance(index, slice) else self._items[index].sample()

    def __iter__(self) -> Iterator[Sample]:
        return (item.sample() for item in self._items)

    def __repr__(self) -> str:
        return f"Data({self.name!r}, {len(self)} pictures, {len(self.classes)} classes)"

    def of(self, part: str) -> Data:
        """The pictures of ``train``, ``val`` or ``test``. Raises DataError where there are none."""
        items = [item for item in self._items if item.part == part]
        if not items:
            there = [name for name in PARTS if any(item.part == name for item in self._items)]
            raise DataError(f"{self.name} has no pictures for {part!r}; of its {len(self)} there is {_listed(there)}")
        return self._with(items)

    def spread(self, count: int) -> Data:
        """``count`` pictures evenly spread over the set, or all of them where it has no more."""
        if count < 1:
            raise DataError(f"a choice of pictures has at least 1, got {count}")
        if count >= len(self):
            return self
        return self._with([self._items[place * len(self) // count] for place in range(count)])

    def only(self, places: Sequence[int], *said: str) -> Data:
        """The pictures at ``places``, and what there is to say of the others."""
        return self._with([self._items[place] for place in places], said=(*self.said, *said))

    def taught_by(self, heads: Sequence[str], read: Callable[[Sample], Mapping[str, Known]]) -> Data:
        """The set with what teachers say of ``heads``: ``read`` gives it for a picture, when that is asked for."""
        items = [Item(item.part, partial(_taught, item, read), Memory(0)) for item in self._items]
        made = self._with(items, taught=tuple(dict.fromkeys((*self.taught, *heads))))
        made.digest = self.digest
        return made

    def _with(self, items: Sequence[Item], **changes: Any) -> Data:
        kept: dict[str, Any] = {"depth": self.depth, "boxed": self.boxed, "taught": self.taught, "said": self.said}
        return Data(self.name, self.classes, items, **(kept | changes))


def open_data(text: str | Path, size: tuple[int, int] | None = None) -> Data:
    """The set that ``text`` names.

    ``camvid:DIR``: CamVid's 11 classes in DIR/train with DIR/trainannot, and so on for val and test. A folder of such
    pairs NAME, NAMEannot (pictures; PNG files of class numbers, any number beyond the classes being void), with the
    classes' names, one a line, in classes.txt. ``coco:DIR``: boxes, as COCO stores them (``coco.open_coco``). A folder
    of pictures, or a picture. A video: up to MOST_FRAMES evenly spread frames, decoded at once; ``clip.mp4?to=0.5`` is
    its first half, ``clip.mp4?from=0.5`` its second.
    ``synthetic:street?frames=200&seed=1``: rendered streets with labels and depth, unless the text says otherwise four
    frames of each, four seconds apart.

    ``size`` (height, width) is that of rendered pictures, and unlabelled pictures are reduced to fit into it.

    Raises DataError when there is nothing there or labels do not fit; reading a picture raises it later.
    """
    name = str(text)
    if name.startswith("synthetic:"):
        return _streets(name, size)
    if name.startswith("camvid:"):
        return _labelled(name, Path(name.removeprefix("camvid:")), CLASSES)
    if name.startswith("coco:"):
        from sharedbb.learn.coco import open_coco

        return open_coco(name, Path(name.removeprefix("coco:")))
    path = Path(name)
    if path.is_dir():
        return _labelled(name, path, _class_names(path)) if _pairs(path) else _unlabelled(name, path, size)
    return _video(name, size)


def labelled(name: str, folders: Sequence[tuple[Path, Path]], classes: Sequence[str]) -> Data:
    """A set of folders of pictures, each with its folder of labels (see ``open_data``), by name of the files.

    Folders of pictures called ``train``, ``val`` and ``test`` are the parts. Raises DataError as ``open_data`` does.
    """
    files = [(picture, labels / f"{picture.stem}.png") for pictures, labels in folders for picture in _files(pictures)]
    absent = [annotation for _, annotation in files if not annotation.is_file()]
    if absent:
        raise DataError(f"{len(absent)} of {len(files)} pictures have no labels; the first is {absent[0]}")
    own = all(pictures.name in PARTS for pictures, _ in folders)
    parts = [picture.parent.name for picture, _ in files] if own else divided(len(files))
    memory = Memory()
    items = [
        Item(part, partial(_read_labelled, picture, annotation, len(classes)), memory)
        for part, (picture, annotation) in zip(parts, files, strict=True)
    ]
    return Data(name, classes, items)


def divided(count: int, block: int = LONGEST_BLOCK) -> list[str]:
    """The part of each of ``count`` pictures: of ten blocks of consecutive ones, eight, one and one."""
    block = max(1, min(block, count // 10))
    turn = min(10, count)
    places = [index // block % turn for index in range(count)]
    return ["test" if place == turn - 1 else "val" if place == turn - 2 else "train" for place in places]


def _same(sample: Sample) -> Sample:
    return sample


def _taught(item: Item, read: Callable[[Sample], Mapping[str, Known]]) -> Sample:
    sample = item.sample()
    return replace(sample, known={**sample.known, **read(sample)})


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Folders of pictures with their folders of labels; train, val and test alone where there are such."""
    try:
        annotations = sorted(path for path in folder.glob("*annot") if path.is_dir())
    except OSError as error:
        raise DataError(f"cannot read {folder}: {error.strerror or error}") from error
    found = [(path.with_name(path.name.removesuffix("annot")), path) for path in annotations]
    found = [(pictures, labels) for pictures, labels in found if pictures.is_dir()]
    return [pair for pair in found if pair[0].name in PARTS] or found


def _class_names(folder: Path) -> tuple[str, ...]:
    try:
        lines = (folder / CLASS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{folder} has labels, but the names of their classes cannot be read: write them into "
            f"{folder / CLASS_FILE}, one a line, in the order of their numbers"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not 0 < len(names) < VOID or len(set(names)) < len(names):
        raise DataError(f"{folder / CLASS_FILE} has {len(names)} names; 1 to {VOID - 1} different ones will do")
    return names


def _files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.is_file())
    if not files:
        raise DataError(f"no pictures in {folder} ({', '.join(sorted(PICTURES))})")
    return files


def _labelled(name: str, folder: Path, classes: Sequence[str]) -> Data:
    pairs = _pairs(folder)
    if not pairs:
        raise DataError(f"{folder} has no labelled pictures: it needs train with trainannot, val with valannot, ...")
    return labelled(name, pairs, classes)


def _read_labelled(picture: Path, annotation: Path, classes: int) -> Sample:
    rgb, labels = read_picture(picture).rgb, cv2.imread(str(annotation), cv2.IMREAD_UNCHANGED)
    if labels is None or labels.dtype != np.uint8 or labels.shape != rgb.shape[:2]:
        got = "nothing readable" if labels is None else f"{labels.dtype} {labels.shape}"
        if labels is not None and labels.ndim == 3:
            got = f"colours, {got}: store the numbers themselves as 8-bit grey, not a palette"
        raise DataError(f"{annotation} must hold one uint8 class number a pixel, {rgb.shape[:2]}, got {got}")
    numbers = np.flatnonzero(np.bincount(labels.ravel(), minlength=VOID + 1)[:VOID]).tolist()
    unnamed = tuple(number for number in numbers if number > classes)
    return Sample(picture.stem, rgb, np.where(labels < classes, labels, VOID).astype(np.uint8), unnamed=unnamed)


def _unlabelled(name: str, folder: Path, size: tuple[int, int] | None) -> Data:
    files, memory = _files(folder), Memory()
    parts = divided(len(files))
    return Data(
        name,
        (),
        [Item(part, partial(read_picture, file, size), memory) for part, file in zip(parts, files, strict=True)],
    )


def read_picture(file: Path, size: tuple[int, int] | None = None) -> Sample:
    """A picture without labels, reduced to fit into ``size`` (height, width). Raises DataError."""
    try:
        with open_source(file) as source:
            return Sample(file.stem, _reduced(next(iter(source)).rgb(), size))
    except SourceError as error:
        raise DataError(f"cannot read {file}: {error}") from error


def _reduced(rgb: Rgb, size: tuple[int, int] | None) -> Rgb:
    """The picture, reduced where it is larger, so that it fits into ``size`` (height, width)."""
    height, width = rgb.shape[:2]
    scale = min(size[0] / height, size[1] / width) if size else 1.0
    if scale >= 1:
        return rgb
    smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(rgb, smaller, interpolation=cv2.INTER_AREA).view(np.uint8)


def _video(name: str, size: tuple[int, int] | None) -> Data:
    """Every so many frames; how many is doubled whenever there are too many, since no one knows a video's length."""
    kept: list[Sample] = []
    file, begin, end = _span(name)
    every = 1
    try:
        with open_source(file) as source:
            if source.live:
                raise DataError(f"{name} never ends: record it, and give the file")
            for index, frame in enumerate(source):
                if index % every:
                    continue
                kept.append(Sample(f"{Path(file).stem}-{index:06d}", _reduced(frame.rgb(), size or LARGEST)))
                if len(kept) > MOST_FRAMES:
                    kept, every = kept[::2], 2 * every
    except SourceError as error:
        raise DataError(
            f"{error}; data is camvid:DIR, coco:DIR, a folder, a video, or synthetic:street?frames=200"
        ) from error
    return Data.given(name, kept[round(begin * len(kept)) : round(end * len(kept))])


def _span(name: str) -> tuple[str, float, float]:
    """A video's file, and where in it to begin and to end, 0 to 1."""
    found = VIDEO_PART.fullmatch(name)
    if not found:
        return name, 0.0, 1.0
    asked = dict(parse_qsl(found["query"], keep_blank_values=True))
    try:
        begin, end = float(asked.pop("from", 0)), float(asked.pop("to", 1))
    except ValueError:
        begin, end = 1.0, 0.0
    if asked or not 0 <= begin < end <= 1:
        raise DataError(f"a part of a video is ?from=A&to=B with 0 <= A < B <= 1, got {name}")
    return found["file"], begin, end


def _streets(name: str, size: tuple[int, int] | None) -> Data:
    scene, _, query = name.removeprefix("synthetic:").partition("?")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    try:
        frames = open_synthetic(f"{scene}?{query}").frames or 0
        usual = {"cuts": str(max(0, -(-frames // STREET_FRAMES) - 1)), "fps": str(1 / STREET_SECONDS)}
        if size:
            usual["size"] = str(Size(*size))
        video = open_synthetic(f"{scene}?{urlencode(usual | asked)}")
    except SourceError as error:
        raise DataError(str(error)) from error
    memory = Memory()
    parts = divided(len(video), STREET_FRAMES)
    items = [Item(part, partial(_rendered, video, index), memory) for index, part in enumerate(parts)]
    return Data(name, CLASSES, items, depth=True)


def _rendered(video: StreetVideo, index: int) -> Sample:
    made = video.render(index)
    return Sample(f"street-{index:06d}", made.frame.rgb(), made.classes, made.depth)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"
