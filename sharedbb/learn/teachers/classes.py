"""Names of a teacher's classes."""

from __future__ import annotations

from pathlib import Path

from sharedbb.errors import CompressionError

COCO80 = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow"),
    *("elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee"),
    *("skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch"),
    *("potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
    *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
    *("teddy bear", "hair drier", "toothbrush"),
)
"""The categories of COCO that have boxes, in the order of their numbers."""

KNOWN = {"coco80": COCO80}
"""Lists of classes by name."""


def class_names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The names, where a file with one a line or a list of KNOWN is given instead. Raises CompressionError."""
    if not isinstance(given, str):
        return tuple(given or ())
    if Path(given).name in KNOWN and not Path(given).exists():
        return KNOWN[Path(given).name]
    try:
        lines = Path(given).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CompressionError(
            f"cannot read the classes in {given}: {error}; give a file with one name a line, or {', '.join(KNOWN)}"
        ) from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not names or len(set(names)) < len(names):
        raise CompressionError(f"{given} has {len(names)} names; a teacher's classes are one or more different ones")
    return names
