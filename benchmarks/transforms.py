"""What reading the picture in another form saves: from the decoder's frame to the network's input, and in the network.

``python -m benchmarks.transforms --data DIR`` with a folder that holds ``clips/``; without one, a generated street
takes their place. ``--only intake,forms,half,wavelet,agreement,certificates`` runs some sections and keeps the
results of the others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from benchmarks.timing import RESULTS, interleaved, keep, rows, show
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
FRAMES = 60
ARCHS = ("mobilenet_v2", "resnet50", "convnext_tiny")
FORMS = (
    "{type: rgb}",
    "{type: space_to_depth}",
    "{type: haar}",
    "{type: haar, bands: low}",
    "{type: yuv420}",
    "{type: auto}",
)

console = Console()


@dataclass(frozen=True, slots=True)
class Clips:
    """Video files: one of 1280×720, and all there are."""

    large: Path
    every: Sequence[Path]


def frames(clip: Path, count: int, every: int = 1) -> Iterator[Frame]:
    """Every ``every``-th frame of a clip, as many as ``count``."""
    with sb.open_source(clip) as source:
        yield from islice(source, 0, count * every, every)


def intake(clips: Clips) -> dict[str, Any]:
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

    timings = interleaved(
        {
            "planes": lambda: ours(frame),
            "planes resized, then RGB": lambda: plain(frame),
            "RGB, then resized": converted,
            "RGB, resized, normalised": lambda: (converted() - mean) * scale,
        },
        rounds=200,
    )
    show("1280x720 4:2:0 to 640x384", timings, "planes")
    whole, best = timings["RGB, then resized"], timings["planes"]
    return {"timings": rows(timings), "numbers": {"of_rgb": round(best.median_ms / whole.median_ms, 3)}}


def _rgb_buffer() -> np.ndarray:
    return np.zeros((1, SIZE.height, SIZE.width, 3), np.uint8)


def _planes() -> dict[str, np.ndarray]:
    half = np.zeros((2, 1, SIZE.height // 2, SIZE.width // 2, 1), np.uint8)
    return {"input.y": np.zeros((1, SIZE.height, SIZE.width, 1), np.uint8), "input.u": half[0], "input.v": half[1]}


def forms(clips: Clips) -> dict[str, Any]:
    """Intake and network by form, the whole engine without decoding, for each trunk."""
    found = {}
    (frame, *_) = frames(clips.large, 1)
    for arch in ARCHS:
        engines: dict[str, sb.Engine] = {}
        for form in FORMS:
            try:
                engines[form] = _engine(arch, form, clips.large)
            except sb.SharedBBError as error:
                console.print(f"{arch} {form}: {error}", markup=False)
        timings = interleaved({form: _stepping(engine, frame) for form, engine in engines.items()}, rounds=60)
        show(arch, timings, FORMS[0])
        chosen = [line for line in engines["{type: auto}"].program.choices if "by form" in line]
        slower = timings["{type: auto}"].median_ms / timings[FORMS[0]].median_ms
        found[arch] = {"timings": rows(timings), "auto": chosen, "auto_of_rgb": round(slower, 3)}
    return found


def _engine(arch: str, form: str, clip: Path) -> sb.Engine:
    weights = [] if arch == "mobilenet_v2" else [f"backbone.arch={arch}", "backbone.weights=null"]
    return sb.compile(sb.load(networks.PIPELINE, [f"transform={form}", *weights]), source=clip)


def _stepping(engine: sb.Engine, frame: Frame) -> Callable[[], Any]:
    return lambda: engine.step(frame)


def half(clips: Clips) -> dict[str, Any]:
    """The trunk at half the size, and with two branches, against the whole picture."""
    found = {}
    for arch in ("mobilenet_v2", "resnet50"):
        base = [f"backbone.arch={arch}", "backbone.weights=null", "neck=null", *TAGS]
        cases = {
            "whole": base,
            "half size": [*base, f"input.size=[{SIZE.height // 2}, {SIZE.width // 2}]"],
            "two branches": [*base, "backbone.decomposition=two_branch"],
        }
        engines = {name: sb.compile(sb.load(networks.PIPELINE, changes)) for name, changes in cases.items()}
        timings = interleaved({name: _trunk(engine) for name, engine in engines.items()}, rounds=100)
        show(f"{arch}, networks alone", timings, "whole")
        macs = {name: sum(stage.facts.macs for stage in engine.program.stages) for name, engine in engines.items()}
        found[arch] = {"timings": rows(timings), "macs": macs}
    return found


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


def wavelet(clips: Clips) -> dict[str, Any]:
    """One level of 3×384×640 float32, against PyWavelets."""
    picture = np.random.default_rng(0).standard_normal((3, SIZE.height, SIZE.width)).astype(np.float32)
    tensor, found = torch.from_numpy(picture), {}
    for name in ("haar", "db2", "db4"):
        with torch.inference_mode():
            timings = interleaved(
                {
                    "sharedbb": lambda name=name: sb.wavelet.dwt2(tensor, name),
                    "PyWavelets": lambda name=name: pywt.dwt2(picture, name),
                },
                rounds=200,
            )
        show(f"{name}, one level", timings, "sharedbb")
        found[name] = rows(timings)
    return found


def agreement(clips: Clips) -> dict[str, Any]:
    """The street pipeline's answers to planes against those to RGB, clip by clip."""
    found = {}
    plain = sb.compile(sb.load(networks.PIPELINE))
    for clip in clips.every:
        engine = sb.compile(sb.load(networks.PIPELINE, ["transform.type=yuv420"]), source=clip)
        heads: dict[str, Agreement] = {}
        plain.reset()
        for frame in frames(clip, FRAMES):
            ours, theirs = engine.step(frame), plain.step(frame)
            for name, answer in ours.items():
                heads.setdefault(name, Agreement.of(type(answer))).add(answer, theirs[name])
        reasons = list(engine.state().intake.reasons)
        found[clip.name] = {"heads": {name: one.overall() for name, one in heads.items()}, "reasons": reasons}
        console.print(
            clip.name, {name: one.overall()["agreement"] for name, one in heads.items()}, reasons, markup=False
        )
    return found


def certificates(clips: Clips) -> dict[str, Any]:
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
        for frame in frames(clip, 20, every=10):
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
    return found


def _until(graph: Graph, name: str) -> Graph:
    """Of a graph, what one node needs."""
    return prune(replace(graph, outputs={"stem": name}))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {key: round(float(np.percentile(values, at)), 2) for key, at in (("p10", 10), ("p50", 50), ("p90", 90))}


SECTIONS: dict[str, Callable[[Clips], dict[str, Any]]] = {
    "intake": intake,
    "forms": forms,
    "half": half,
    "wavelet": wavelet,
    "agreement": agreement,
    "certificates": certificates,
}


def main() -> None:
    """Run the sections asked for and write ``results/transforms.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder that holds clips/")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, by comma")
    options = parser.parse_args()
    path = RESULTS / "transforms.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    results = {name: known[name] for name in SECTIONS if name in known}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only.split(","):
            results[name] = SECTIONS[name](_clips(options.data, Path(folder)))
            keep("transforms", results)


def _clips(data: Path | None, folder: Path) -> Clips:
    if data is not None:
        every = sorted((data / "clips").glob("*.*"))
        return Clips(data / "clips" / "moving-cartoon.mp4", every)
    made = folder / "street.mp4"
    street = made if made.is_file() else street_clip(folder, FRAMES, FULL, Screen(console, console))
    return Clips(street, [street])


if __name__ == "__main__":
    main()
