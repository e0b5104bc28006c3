"""What sharing costs in quality: one trunk with four heads against four such trunks with one, trained equally long.

``python -m benchmarks.sharing --data FOLDER --steps 3000`` trains the street pipeline with all of its heads, then with
each one alone, from random weights on the training pictures of CamVid (``FOLDER/camvid``), with the same course, and
judges all on ``val``, or with ``--test`` on ``test``. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.schema import Number
from benchmarks.timing import Measurement, Parser
from sharedbb import spec
from sharedbb.learn.data import open_data
from sharedbb.learn.judge import LOWEST_SCORE, headline, judge
from sharedbb.learn.network import Network
from sharedbb.learn.trainer import Course, Trainer
from sharedbb.learn.training import Training

PIPELINE = Path(__file__).resolve().parent.parent / "pipelines" / "street.yaml"
ALL = "shared"
GOAL_POINTS = -1.0
WAY = "a head that loses by sharing can be given a deeper branch of its own (sharedbb share-depth)"


def main() -> None:
    """Train what is not trained yet, judge, and keep ``results/sharing.json``."""
    parser = Parser(__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("SHAREDBB_DATA", "data"), help="holds camvid/")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--crop", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"), help="growing if absent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test", action="store_true", help="judge on test, once, at the end")
    parser.add_argument("--work", type=Path, default=Path("runs/sharing"), help="where trainings are taken up again")
    options = parser.options()
    if options.quick:
        options.steps, options.work = 20, options.work / "quick"
    measurement = Measurement("sharing", __doc__, options)
    pipeline = spec.load(str(PIPELINE))
    found = {name: judged(pipeline, heads, name, options) for name, heads in cases(pipeline).items()}
    heads = beside(found)
    course = {name: getattr(options, name) for name in ("steps", "batch", "lr", "crop", "seed")}
    measurement.keep(
        numbers={f"{head}: points that sharing gains": _number(one["points"]) for head, one in heads.items()},
        details={"course": course, "judged_on": _part(options), "heads": heads},
    )


def cases(pipeline: spec.Pipeline) -> dict[str, tuple[str, ...]]:
    """Which heads are trained together, by the name of the network."""
    return {ALL: tuple(pipeline.heads), **{f"only {head}": (head,) for head in pipeline.heads}}


def judged(pipeline: spec.Pipeline, heads: tuple[str, ...], name: str, options: argparse.Namespace) -> dict[str, float]:
    """Train one network, or take it as it was left; its headline metrics by head."""
    bare = pipeline.backbone.model_copy(update={"weights": None})
    wanted = pipeline.model_copy(update={"backbone": bare, "heads": {head: pipeline.heads[head] for head in heads}})
    network, data = Network.of(wanted), open_data(f"camvid:{options.data / 'camvid'}")
    crop = tuple(options.crop) if options.crop else None
    course = Course(options.steps, batch=options.batch, lr=options.lr, weight_decay=0.04, crop=crop, seed=options.seed)
    work = options.work / name.replace(" ", "-")
    work.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(network.copy(), course, data.of("train"), wanted)
    trained = Training(network, trainer, work, watch=lambda doing, share: _watch(name, doing, share)).run()
    part = _part(options)
    done = work / f"{part}.json"
    if not done.is_file():
        found = headline(judge(trained.predictor(lowest_score=LOWEST_SCORE), data.of(part), wanted.heads))
        done.write_text(json.dumps(found))
    kept: dict[str, float] = json.loads(done.read_text())
    return kept


def beside(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Of every head: its metric in the shared network and alone, and how many points sharing gains."""
    heads = {}
    for head, shared in found[ALL].items():
        alone = found[f"only {head}"][head]
        heads[head] = {"shared": round(shared, 4), "alone": round(alone, 4), "points": round(100 * (shared - alone), 2)}
        print(f"{head:10} shared {shared:.3f}  alone {alone:.3f}  {heads[head]['points']:+.1f} points")
    return heads


def _number(points: float) -> Number:
    return Number(measured=points, goal=GOAL_POINTS, unit="points", why=WAY)


def _part(options: argparse.Namespace) -> str:
    return "test" if options.test else "val"


def _watch(name: str, doing: str, share: float | None) -> None:
    if share is not None and round(share * 1e4) % 200 == 0:
        print(f"{name}: {doing}", flush=True)


if __name__ == "__main__":
    main()
