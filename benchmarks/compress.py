"""Compression of the street network: bytes, multiply-adds, the whole engine's time, and quality on CamVid's test part.

Quality is that of the engine itself, on the backend and in the precision that are timed. ``python -m
benchmarks.compress --data FOLDER`` takes the folder that holds ``camvid``; networks are those of ``pipelines/`` and,
made here, the street network in 8 bits.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import sharedbb as sb
from benchmarks.timing import interleaved, keep, rows, show
from sharedbb.compress import Network, quantize
from sharedbb.learn import Data, headline, judge, open_data
from sharedbb.learn.judge import LOWEST_SCORE

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
WAY = ("runtime.backend=openvino", "runtime.precision=bf16", "reuse.mode=off")
FLOAT = "street, bf16"
GOALS = {
    "street, int8": {"speedup": 1.3, "quality": 0.99},
    "street-small, bf16": {"speedup": 1.6, "quality": 0.97, "macs": 2.0, "storage": 10.0},
    "street-small, int8": {"speedup": 2.5, "quality": 0.97},
}
CALIBRATION = 128


def main() -> None:
    """Measure and keep ``results/compress.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("SHAREDBB_DATA", "data")))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--pictures", type=int, help="judge on so many pictures of the test part only")
    options = parser.parse_args()

    camvid = open_data(f"camvid:{options.data / 'camvid'}")
    test = camvid.of("test") if options.pictures is None else camvid.of("test").spread(options.pictures)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), camvid.of("train"))
        numbers = {name: _size(path) for name, path in files.items()}
        picture = test[0].rgb
        engines = {name: sb.compile(sb.load(str(path), WAY), profile=False) for name, path in files.items()}
        cases = {name: partial(engine.step, picture, order="rgb") for name, engine in engines.items()}
        timings = interleaved(cases, options.rounds)
        for name, path in files.items():
            numbers[name]["quality"] = _quality(path, test)
    show("street network, a frame of four heads, dense, 480×360 picture in", timings, FLOAT)
    _compare(numbers, {name: timing.median_ms for name, timing in timings.items()})
    kept = keep("compress", {"timings": rows(timings), "networks": numbers, "goals": GOALS, "pictures": len(test)})
    print(f"kept in {kept}")


def _files(folder: Path, train: Data) -> dict[str, Path]:
    """Pipeline files: the shipped networks, and each of them in 8 bits."""
    files = {}
    for name in ("street", "street-small"):
        path = PIPELINES / f"{name}.yaml"
        network, _ = quantize(Network.of(path), train, pictures=CALIBRATION)
        network.save(folder / f"{name}-int8.sbb")
        pipeline = sb.load(str(path))
        weights = {"backbone": pipeline.backbone.model_copy(update={"weights": str(folder / f"{name}-int8.sbb")})}
        rounded = folder / f"{name}-int8.json"
        rounded.write_text(pipeline.model_copy(update=weights).model_dump_json())
        files |= {f"{name}, bf16": path, f"{name}, int8": rounded}
    return files


def _size(path: Path) -> dict[str, Any]:
    """Multiply-adds, parameters and bytes of a network; ``times_smaller``: than the street network in float32."""
    network = Network.of(path)
    stored = Path(str(sb.load(str(path)).backbone.weights)).stat().st_size
    float32 = 4 * Network.of(PIPELINES / "street.yaml").parameters
    return {
        "macs": network.macs,
        "parameters": network.parameters,
        "bytes": stored,
        "times_smaller": round(float32 / stored, 2),
    }


def _quality(path: Path, test: Data) -> dict[str, float]:
    """Every head's headline metric on the pictures, of the engine's own answers."""
    pipeline = sb.load(str(path), (*WAY, f"heads.objects.score_threshold={LOWEST_SCORE}"))
    engine = sb.compile(pipeline, profile=False, use_cache=False)
    told = headline(judge(lambda rgb: engine.step(rgb, order="rgb").outputs, test, pipeline.heads))
    return {head: round(value, 4) for head, value in told.items()}


def _compare(numbers: dict[str, dict[str, Any]], milliseconds: Mapping[str, float]) -> None:
    """Put beside every network how it stands to the street network in bf16, and print it."""
    plain = numbers[FLOAT]
    for name, found in numbers.items():
        found["milliseconds"] = milliseconds[name]
        found["speedup"] = round(milliseconds[FLOAT] / milliseconds[name], 3)
        found["fewer_macs"] = round(plain["macs"] / found["macs"], 2)
        found["of_before"] = {
            head: round(value / plain["quality"][head], 4) for head, value in found["quality"].items()
        }
        print(name, {key: value for key, value in found.items() if key != "quality"}, found["quality"])


if __name__ == "__main__":
    main()
