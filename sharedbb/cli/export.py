"""``sharedbb export``: a pipeline's network as a file for another engine, checked against ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharedbb.cli.options import QuietOption, SetOption, read_pipeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from sharedbb.compress.export import Answers, Exported
    from sharedbb.runtime import Engine
    from sharedbb.spec import Pipeline

TOLERANCE = 0.02
"""The mean difference, over the answer's largest magnitude, above which the exported file is not that network.

Rounding to integers that falls the other way in single places stays below, anything forgotten is far above.
"""


def export(
    pipeline: Annotated[
        str,
        typer.Argument(metavar="PIPELINE", help="A pipeline file, the name of a shipped one, or a .sbb artifact."),
    ],
    to: Annotated[
        str, typer.Option("--to", metavar="TARGET", help="onnx, openvino, torch-export, executorch or litert.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")],
    overrides: SetOption = None,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=0, help="On how many it is checked, 0 for none.")
    ] = 4,
    quiet: QuietOption = False,
) -> None:
    """Write the network for another engine, and check its answers.

    The file takes the picture as uint8 NHWC RGB at the pipeline's input size and gives every head's raw answers by
    name, float32. The check runs both engines in float32 on generated streets.
    """
    from rich.console import Console
    from rich.text import Text

    from sharedbb.cli.files import Files
    from sharedbb.cli.shipped import find
    from sharedbb.compress.export import export as exported
    from sharedbb.errors import CompressionError
    from sharedbb.learn.network import Network

    spec = exportable(pipeline, overrides or ())
    Files(model=out).check(find(pipeline), spec.backbone.weights or "")
    with Console(stderr=True, quiet=quiet).status(Text(f"exporting {spec.name}"), spinner_style="dim"):
        written = exported(Network.of(spec), to, out)
        differences = compared(written, spec, pictures) if pictures else {}
    if not quiet:
        console = Console(highlight=False)
        console.print(_table(written, differences))
        for line in written.said:
            console.print(line, markup=False)
        for path in written.paths:
            Files(model=path).tell(console)
    for name, difference in differences.items():
        if not difference.mean <= TOLERANCE:
            raise CompressionError(
                f"{out}: answer {name!r} is off the engine's by {difference.mean:.1%} of its magnitude on average "
                f"(up to {TOLERANCE:.0%} is rounding); do not use this file"
            )


def exportable(name: str, overrides: Sequence[str]) -> Pipeline:
    """The pipeline that a command line names, by its file or by its artifact, which holds its pipeline."""
    from sharedbb import artifact
    from sharedbb.learn.network import pipeline_of
    from sharedbb.spec import loads

    if not name.endswith(artifact.SUFFIX):
        return read_pipeline(name, overrides)
    told = pipeline_of(os.path.abspath(name)).model_dump(mode="json")
    return loads(json.dumps(told), overrides=overrides)


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two engines' answers are apart: the ``largest`` difference, and the ``mean`` and ``most`` of all numbers
    over the answer's largest magnitude.
    """

    largest: float = 0.0
    most: float = 0.0
    mean: float = 0.0

    @classmethod
    def of(cls, ours: NDArray[np.float32], other: NDArray[np.float32]) -> Difference:
        """Of one answer; infinite where shapes differ, or a number is not finite."""
        import numpy as np

        if ours.shape != other.shape or not (np.isfinite(ours).all() and np.isfinite(other).all()):
            return cls(float("inf"), float("inf"), float("inf"))
        apart, magnitude = abs(ours - other), max(float(abs(ours).max(initial=0.0)), 1e-12)
        return cls(float(apart.max()), float(apart.max()) / magnitude, float(apart.mean()) / magnitude)

    def worse(self, other: Difference) -> Difference:
        """The larger of each."""
        return Difference(max(self.largest, other.largest), max(self.most, other.most), max(self.mean, other.mean))


def compared(written: Exported, pipeline: Pipeline, pictures: int) -> dict[str, Difference]:
    """The exported file and the pipeline's engine, both in float32, on generated pictures: answers by name."""
    from sharedbb.compiler import compile_pipeline

    run, engine = written.open(), compile_pipeline(_plain(pipeline), profile=False)
    worst = dict.fromkeys(written.answers, Difference())
    for picture in _streets(pipeline, pictures):
        ours, other = raw_answers(engine, picture), run(picture[None])
        for name in worst:
            worst[name] = worst[name].worse(Difference.of(ours[name], other[name]))
    return worst


def _plain(pipeline: Pipeline) -> Pipeline:
    """The pipeline as it is exported: float32, every frame in full, the picture as RGB at one size."""
    from sharedbb.spec import Reuse
    from sharedbb.spec.transforms import RgbTransform

    runtime = pipeline.runtime.model_copy(update={"precision": "f32", "device": "cpu"})
    return pipeline.model_copy(update={"runtime": runtime, "reuse": Reuse(), "transform": RgbTransform()})


def _streets(pipeline: Pipeline, count: int) -> Iterator[NDArray[np.uint8]]:
    """Generated pictures (HWC uint8 RGB) of the network's size."""
    from sharedbb import media

    size = pipeline.input.network_size
    with media.open_source(f"synthetic:street?frames={count}&seed=1&size={size}&fps=1") as frames:
        for frame in frames:
            yield frame.rgb()


def raw_answers(engine: Engine, picture: NDArray[np.uint8]) -> Answers:
    """What the engine's network answers to a picture of its size, by name, feature maps NCHW."""
    import numpy as np

    program, state = engine.program, engine.state()
    engine.step(picture, order="rgb", heads=tuple(program.heads))
    answers = {}
    for head, plan in program.heads.items():
        for part, feature in plan.answers.items():
            value = program.device.answer(state.features[feature])
            answers[f"{head}.{part}"] = np.array(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)
    return answers


def _table(written: Exported, differences: Mapping[str, Difference]) -> Table:
    """The answers of the exported file, and how far they are from the engine's."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Exported to {written.target}", title_justify="left", title_style="bold")
    table.add_column("answer")
    table.add_column("shape")
    table.add_column("largest difference", justify="right")
    table.add_column("of its magnitude", justify="right")
    for name, shape in written.answers.items():
        found = differences.get(name)
        shown = ("not checked", "") if found is None else (f"{found.largest:.2g}", f"{found.most:.2g}")
        table.add_row(Text(name), "×".join(map(str, shape)), *shown)
    return table
