"""What reading the picture in another form saves: from the decoder's frame to the network's input, and in the network.

``python -m benchmarks.transforms --data DIR`` with a folder that holds ``clips/``; without one, a generated street
takes their place. ``--only intake,forms,half,wavelet,agreement,certificates`` runs some sections and keeps the
results of the others.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pywt
import torch
from rich.console import Console

import sharedbb as sb
from benchmarks import networks
from benchmarks.schema import Number
from benchmarks.sections import Section, chosen, measure
from benchmarks.timing import Parser, interleaved, show
from sharedbb.cli.clip import street_clip
from sharedbb.cli.session import Screen
from sharedbb.compiler import build_network
from sharedbb.compiler.form import Given
from sharedbb.compiler.formed import formed
from sharedbb.graph.capture import capture
from sharedbb.graph.ir import Graph
from sharedbb.graph.lower import run
from sharedbb.graph.merge import fold_batch_norms, prune
from sharedbb.outputs.agreement import Agreement
from sharedbb.transforms import RgbIntake
from sharedbb.transforms.yuv420 import Yuv420Intake
from sharedbb.types import Frame, Normalization, Size

SIZE = Size(384, 640)
FULL = Size(720, 1280)
IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
FRAMES, CERTIFIED_FRAMES = 60, 20
ARCHS = ("mobilenet_v2", "resnet50", "convnext_tiny")
FORMS = (
    "{type: rgb}",
    "{type: space_to_depth}",
    "{type: haar}",
    "{type: haar, bands: low}",
    "{type: yuv420}",
    "{type: auto}",
)
LONGER = (
    "PyWavelets takes about as long for every filter; here a longer one costs more, and the shortest still has to read "
    "the picture and write its bands"
)
RGB, AUTO = FORMS[0], FORMS[-1]
AUTO_MISSES = "the forms are compared once, when the pipeline is compiled; what disturbs that moment stays chosen"
AGREE_LESS = (
    "the RGB run is the less exact of the two: its conversion cuts products off, and clips colours that RGB lacks; "
    "rounding exactly would cost the RGB path time"
)

console = Console()


@dataclass(frozen=True, slots=True)
class Clips:
    """Video files, one of 1280×720 and all there are; ``rounds`` of every comparison; ``quick``: some of everything."""

    large: Path
    every: Sequence[Path]
    rounds: int
    quick: bool = False

    def some(self, usual: int) -> int:
        """How many frames to look at where ``usual`` is enough for numbers to keep."""
        return max(4, usual // 10) if self.quick else usual


def frames(clip: Path, count: int, every: int = 1) -> Iterator[Frame]:
    """Every ``every``-th frame of a clip, as many as ``count``."""
    with sb.open_source(clip) as source:
        yield from islice(source, 0, count * every, every)


def intake(clips: Clips) -> Section:
    """From a decoded 1280×720 frame to what the network reads at 640×384."""
    (frame, *_) = frames(clips.large, 1)
    video = frame.video
    assert video is not None
    rgb, planes = _rgb_buffer(), _planes()
    ours, plain = (
        Yuv420Intake(planes, "letterbox", IMAGENET, Given(frame).colour),
        RgbIntake(rgb, "letterbox", IMAGENET),
    )
    height, width = ours.needs(frame.size).height, ours.needs(frame.size).width
    mean, scale = np.float32(IMAGENET.mean), 1 / np.float32(IMAGENET.std)

    def converted() -> np.ndarray:
        return cv2.resize(video.to_ndarray(format="rgb24"), (width, height), interpolation=cv2.INTER_LINEAR)

    resized, normalised = "RGB, then resized", "RGB, resized, normalised"
    cases = {
        "planes": lambda: ours(frame),
        "planes resized, then RGB": lambda: plain(frame),
        resized: converted,
        normalised: lambda: (converted() - mean) * scale,
    }
    rounds = interleaved(cases, 2 * clips.rounds)
    show("1280x720 4:2:0 to 640x384", rounds.timings, "planes")
    return Section(
        details={},
        timings=rounds.timings,
        numbers={
            f"planes over {normalised}": rounds.ratio("planes", normalised, goal=0.5, better="lower"),
            f"planes over {resized}": rounds.ratio("planes", resized, better="lower"),
        },
    )


def _rgb_buffer() -> np.ndarray:
    return np.zeros((1, SIZE.height, SIZE.width, 3), np.uint8)


def _planes() -> dict[str, np.ndarray]:
    half = np.zeros((2, 1, SIZE.height // 2, SIZE.width // 2, 1), np.uint8)
    return {"input.y": np.zeros((1, SIZE.height, SIZE.width, 1), np.uint8), "input.u": half[0], "input.v": half[1]}


def forms(clips: Clips) -> Section:
    """Intake and network by form, the whole engine without decoding, for each trunk."""
    timings, numbers, details = {}, {}, {}
    (frame, *_) = frames(clips.large, 1)
    for arch in ARCHS[:1] if clips.quick else ARCHS:
        engines: dict[str, sb.Engine] = {}
        for form in FORMS:
            try:
                engines[form] = _engine(arch, form, clips.large)
            except sb.SharedBBError as error:
                console.print(f"{arch} {form}: {error}", markup=False)
        rounds = interleaved({form: _stepping(engine, frame) for form, engine in engines.items()}, clips.rounds // 2)
        show(arch, rounds.timings, RGB)
        timings |= {f"{arch}, {form}": case for form, case in rounds.timings.items()}
        numbers[f"{arch}, auto over rgb"] = rounds.ratio(AUTO, RGB, goal=1.03, better="lower", why=AUTO_MISSES)
        details[arch] = [line for line in engines[AUTO].program.choices if "by form" in line]
    return Section(details={"auto chose": details}, timings=timings, numbers=numbers)


def _engine(arch: str, form: str, clip: Path) -> sb.Engine:
    weights = [] if arch == "mobilenet_v2" else [f"backbone.arch={arch}", "backbone.weights=null"]
    return sb.compile(sb.load(networks.PIPELINE, [f"transform={form}", *weights]), source=clip)


def _stepping(engine: sb.Engine, frame: Frame) -> Callable[[], Any]:
    return lambda: engine.step(frame)


def half(clips: Clips) -> Section:
    """The trunk at half the size, and with two branches, against the whole picture."""
    timings, numbers, macs = {}, {}, {}
    for arch in ARCHS[:1] if clips.quick else ARCHS[:2]:
        base = [f"backbone.arch={arch}", "backbone.weights=null", "neck=null", *TAGS]
        cases = {
            "whole": base,
            "half size": [*base, f"input.size=[{SIZE.height // 2}, {SIZE.width // 2}]"],
            "two branches": [*base, "backbone.decomposition=two_branch"],
        }
        engines = {name: sb.compile(sb.load(networks.PIPELINE, changes)) for name, changes in cases.items()}
        rounds = interleaved({name: _trunk(engine) for name, engine in engines.items()}, clips.rounds)
        show(f"{arch}, networks alone", rounds.timings, "whole")
        timings |= {f"{arch}, {name}": case for name, case in rounds.timings.items()}
        for name in ("half size", "two branches"):
            numbers[f"{arch}, whole over {name}"] = rounds.ratio("whole", name, goal=2.0)
        macs[arch] = {name: sum(stage.facts.macs for stage in one.program.stages) for name, one in engines.items()}
    return Section(details={"macs": macs}, timings=timings, numbers=numbers)


TAGS = ("heads={scene: {type: tags, taps: [32], labels: [road]}}",)


def _trunk(engine: sb.Engine) -> Callable[[], Any]:
    """Runs all networks of an engine on the frame that it saw last."""
    size = engine.program.size
    engine.step(np.random.default_rng(0).integers(0, 256, (size.height, size.width, 3), np.uint8))
    state = engine.state()
    stages = engine.program.stages_for(frozenset(engine.program.heads))
    sessions = [(state.session(stage), stage.facts) for stage in stages]

    def networks_alone() -> None:
        for session, facts in sessions:
            results = session([state.features[name] for name in facts.inputs])
            state.features.update(zip(facts.outputs, results, strict=True))

    return networks_alone


def wavelet(clips: Clips) -> Section:
    """One level of 3×384×640 float32, against PyWavelets."""
    picture = np.random.default_rng(0).standard_normal((3, SIZE.height, SIZE.width)).astype(np.float32)
    tensor, timings, numbers = torch.from_numpy(picture), {}, {}
    for name in ("haar", "db2", "db4"):
        with torch.inference_mode():
            rounds = interleaved(
                {
                    "sharedbb": lambda name=name: sb.wavelet.dwt2(tensor, name),
                    "PyWavelets": lambda name=name: pywt.dwt2(picture, name),
                },
                2 * clips.rounds,
            )
        show(f"{name}, one level", rounds.timings, "sharedbb")
        timings |= {f"{name}, {library}": case for library, case in rounds.timings.items()}
        numbers[f"{name}, PyWavelets over sharedbb"] = rounds.ratio("PyWavelets", "sharedbb", goal=5.0, why=LONGER)
    return Section(details={}, timings=timings, numbers=numbers)


def agreement(clips: Clips) -> Section:
    """The street pipeline's answers to planes against those to RGB, clip by clip."""
    found = {}
    plain = sb.compile(sb.load(networks.PIPELINE))
    for clip in clips.every:
        engine = sb.compile(sb.load(networks.PIPELINE, ["transform.type=yuv420"]), source=clip)
        heads: dict[str, Agreement] = {}
        plain.reset()
        for frame in frames(clip, clips.some(FRAMES)):
            ours, theirs = engine.step(frame), plain.step(frame)
            for name, answer in ours.items():
                heads.setdefault(name, Agreement.of(type(answer))).add(answer, theirs[name])
        reasons = list(engine.state().reading.intake.reasons)
        found[clip.name] = {"heads": {name: one.overall() for name, one in heads.items()}, "reasons": reasons}
        console.print(
            clip.name, {name: one.overall()["agreement"] for name, one in heads.items()}, reasons, markup=False
        )
    least = min(told["heads"]["surface"]["agreement"] for told in found.values())
    number = Number(measured=round(least, 4), goal=0.995, unit="", why=AGREE_LESS)
    return Section(details={"clips": found}, numbers={"surface on planes and on RGB, least of the clips": number})


def certificates(clips: Clips) -> Section:
    """The certified bound of the street stem's error, without detail, beside the error itself, clip by clip."""
    found = {}
    pipeline = sb.load(networks.PIPELINE, ["transform={type: haar, bands: low}"])
    graph = capture(build_network(pipeline), torch.zeros(1, 3, SIZE.height, SIZE.width), "")
    stem = fold_batch_norms(graph)
    made, form, _ = formed(graph, pipeline.transform, pipeline.input, (), None, Given())
    (certificate,) = form.certificates
    conv = next(node for node in stem.nodes if node.kind == "conv2d")
    alone = [_until(one, conv.name) for one in (stem, made)]
    for clip in clips.every:
        ratios, broken = [], 0
        for frame in frames(clip, clips.some(CERTIFIED_FRAMES), every=10):
            buffer = _rgb_buffer()
            RgbIntake(buffer, "letterbox", IMAGENET)(frame)
            x = torch.from_numpy((buffer[0] - np.float64(IMAGENET.mean)) / IMAGENET.std).permute(2, 0, 1)[None].float()
            exact, without = (run(one, x)["stem"] for one in alone)
            error = (exact - without).abs().amax((0, 2, 3)).numpy()
            bound = certificate.bound(certificate.measure(buffer[0]))
            broken += int((error > bound).any())
            ratios += list(bound[error > 0] / error[error > 0])
        found[clip.name] = {"frames_above": broken, "bound_of_error": _spread(ratios)}
        console.print(clip.name, found[clip.name], markup=False)
    above = sum(told["frames_above"] for told in found.values())
    loosest = max(told["bound_of_error"]["p50"] for told in found.values())
    return Section(
        details={"clips": found},
        numbers={
            "frames whose error is above its bound": Number(measured=above, goal=0, better="lower", unit="frames"),
            "bound over error, median, most of the clips": Number(measured=loosest, goal=20, better="lower"),
        },
    )


def _until(graph: Graph, name: str) -> Graph:
    """Of a graph, what one node needs."""
    return prune(replace(graph, outputs={"stem": name}))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {key: round(float(np.percentile(values, at)), 2) for key, at in (("p10", 10), ("p50", 50), ("p90", 90))}


SECTIONS: Mapping[str, Callable[[Clips], Section]] = {
    "intake": intake,
    "forms": forms,
    "half": half,
    "wavelet": wavelet,
    "agreement": agreement,
    "certificates": certificates,
}


def main() -> None:
    """Run the sections asked for and write ``results/transforms.json``."""
    parser = Parser(__doc__, rounds=100)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA"), help="folder that holds clips/")
    parser.add_argument("--only", type=chosen(SECTIONS), default=list(SECTIONS), help="sections, by comma")
    options = parser.options()
    with tempfile.TemporaryDirectory() as folder:
        measure("transforms", __doc__, options, SECTIONS, lambda: _clips(options, Path(folder)))


def _clips(options: argparse.Namespace, folder: Path) -> Clips:
    if options.data is None:
        street = street_clip(folder, FRAMES, FULL, Screen(console, console))
        return Clips(street, [street], options.rounds, options.quick)
    every = sorted((options.data / "clips").glob("*.*"))
    large = options.data / "clips" / "moving-cartoon.mp4"
    return Clips(large, every[:2] if options.quick else every, options.rounds, options.quick)


if __name__ == "__main__":
    main()
