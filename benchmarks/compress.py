"""Compression of the street network: bytes, multiply-adds, the whole engine's time, and quality on CamVid's test part.

Quality is that of the engine itself, on the backend and in the precision that are timed. ``python -m
benchmarks.compress --data FOLDER`` takes the folder that holds ``camvid``; networks are those of ``pipelines/`` and,
made here, the street network in 8 bits.
"""

from __future__ import annotations

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import sharedbb as sb
from benchmarks.schema import Number
from benchmarks.timing import Measurement, Parser, Rounds, interleaved, show
from sharedbb.compress import Network, quantize
from sharedbb.learn import Data, headline, judge, open_data
from sharedbb.learn.judge import LOWEST_SCORE

PIPELINES = Path(__file__).resolve().parent.parent / "pipelines"
WAY = ("runtime.backend=openvino", "runtime.precision=bf16", "reuse.mode=off")
FLOAT = "street, bf16"
CALIBRATION = 128
SMALLER = "the pruned network needs longer fine-tuning, on more pictures than the training part has"
ROUNDED = "boxes near the threshold come and go when weights are rounded; training with rounded weights would help"
OUTSIDE = "what the frame takes outside of the network stays as it was"
NARROW = (
    "layers of few channels gain little, they do not fill the rows of units for 8-bit numbers; what the frame takes "
    "outside of the network stays as it was"
)


def main() -> None:
    """Measure and keep ``results/compress.json``."""
    parser = Parser(__doc__, rounds=100)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA", "data"), help="holds camvid/")
    parser.add_argument("--pictures", type=int, help="judge on so many pictures of the test part only")
    options = parser.options()
    measurement = Measurement("compress", __doc__, options)

    camvid = open_data(f"camvid:{options.data / 'camvid'}")
    test, calibration = camvid.of("test"), 12 if options.quick else CALIBRATION
    if options.quick or options.pictures:
        test = test.spread(options.pictures or 12)
    with tempfile.TemporaryDirectory() as folder:
        files = _files(Path(folder), camvid.of("train"), calibration)
        found = {name: _size(path) for name, path in files.items()}
        picture = test[0].rgb
        engines = {name: sb.compile(sb.load(str(path), WAY), profile=False) for name, path in files.items()}
        cases = {name: partial(engine.step, picture, order="rgb") for name, engine in engines.items()}
        rounds = interleaved(cases, options.rounds)
        for name, path in files.items():
            found[name]["quality"] = _quality(path, test)
    timings = rounds.timings
    show("street network, a frame of four heads, dense, 480×360 picture in", timings, FLOAT)
    _compare(found)
    measurement.keep(
        timings=timings,
        numbers=_numbers(rounds, found),
        details={"networks": found, "pictures": len(test)},
    )


def _files(folder: Path, train: Data, calibration: int) -> dict[str, Path]:
    """Pipeline files: the shipped networks, and each of them in 8 bits, calibrated on so many pictures."""
    files = {}
    for name in ("street", "street-medium", "street-small"):
        path = PIPELINES / f"{name}.yaml"
        network, _ = quantize(Network.of(path), train, pictures=calibration)
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


def _compare(found: dict[str, dict[str, Any]]) -> None:
    """Put beside every network how it stands to the street network in bf16, and print it."""
    plain = found[FLOAT]
    for name, one in found.items():
        one["fewer_macs"] = round(plain["macs"] / one["macs"], 2)
        one["of_before"] = {head: round(value / plain["quality"][head], 4) for head, value in one["quality"].items()}
        print(name, one)


def _numbers(rounds: Rounds, found: dict[str, dict[str, Any]]) -> dict[str, Number]:
    """Speed, quality and size beside the goals, each against the street network in bf16."""

    def speed(name: str, goal: float, why: str = NARROW) -> Number:
        return rounds.ratio(FLOAT, name, goal=goal, why=why)

    def quality(name: str, goal: float, why: str) -> Number:
        return Number(measured=min(found[name]["of_before"].values()), goal=goal, unit="", why=why)

    int8, medium, small, both = "street, int8", "street-medium, bf16", "street-small, bf16", "street-small, int8"
    return {
        f"{int8}: speedup": speed(int8, 1.3),
        f"{int8}: quality kept by the worst head": quality(int8, 0.99, ROUNDED),
        f"{medium}: speedup": speed(medium, 1.6, OUTSIDE),
        f"{medium}: quality kept by the worst head": quality(medium, 0.97, SMALLER),
        f"{medium}: fewer multiply-adds": Number(measured=found[medium]["fewer_macs"], goal=2.0),
        f"{small}: speedup": speed(small, 1.6, OUTSIDE),
        f"{small}: quality kept by the worst head": quality(small, 0.97, SMALLER),
        f"{small}: fewer multiply-adds": Number(measured=found[small]["fewer_macs"], goal=2.0),
        f"{small}: smaller than float32": Number(measured=found[small]["times_smaller"], goal=10.0),
        f"{both}: speedup": speed(both, 2.5),
        f"{both}: quality kept by the worst head": quality(both, 0.97, SMALLER),
    }


if __name__ == "__main__":
    main()
