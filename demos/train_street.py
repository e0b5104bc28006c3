"""Train the street pipeline on CamVid and the synthetic street: ``python demos/train_street.py train --data DIR``.

``render`` fills the cache of synthetic frames, ``train`` trains (and resumes: the same command again), ``report``
judges the averaged weights on ``val`` or ``test``, ``publish`` writes the artifact and its model card.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from street import evaluation, pictures, publishing, synthetic
from street.batches import Mix
from street.steady import unlabelled
from street.training import Recipe, Trainer
from street.workers import Team, join

from sharedbb import artifact, nets, spec
from sharedbb.learn.batches import Pool
from sharedbb.learn.losses import questions_of, tasks_of

PIPELINE = Path(__file__).resolve().parent.parent / "pipelines" / "street.yaml"


def main() -> None:
    options = _options()
    torch.manual_seed(options.seed)
    if options.threads:
        torch.set_num_threads(options.threads)
    {"render": render, "train": train, "report": report, "publish": publish}[options.command](options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("render", "train", "report", "publish"))
    parser.add_argument("--data", type=Path, help="folder of CamVid: train, trainannot, val, valannot, test, testannot")
    parser.add_argument("--run", type=Path, default=Path("runs/street"), help="folder of checkpoint, log and cache")
    parser.add_argument("--minutes", type=float, default=60.0, help="minutes of work until the learning rate is zero")
    parser.add_argument("--steps", type=int, help="train for so many steps instead")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--every", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="which split to report on")
    parser.add_argument("--out", type=Path, default=PIPELINE.with_suffix(".sbb"), help="the artifact to write")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the card about this training")
    parser.add_argument("--frames", type=int, default=288, help="synthetic frames to render")
    parser.add_argument("--workers", type=int, default=1, help="processes that train together, one thread each")
    parser.add_argument("--threads", type=int, help="torch threads of a lone process")
    parser.add_argument("--start", type=Path, help="an artifact to begin with, instead of random weights")
    parser.add_argument("--overlap", type=float, default=0.0, help="weight of IoU in what surface learns")
    parser.add_argument("--steady", type=float, default=0.0, help="weight of answering alike under noise")
    parser.add_argument("--unlabelled", type=Path, nargs="*", default=[], help="clips that --steady may use as well")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def untrained() -> tuple[spec.Pipeline, torch.nn.Module]:
    """The street pipeline and its network with random weights."""
    pipeline = spec.load(str(PIPELINE))
    bare = pipeline.model_copy(update={"backbone": pipeline.backbone.model_copy(update={"weights": None})})
    return pipeline, nets.build(bare)


def trainer(options: argparse.Namespace, team: Team) -> Trainer:
    """A trainer at the start, or where its checkpoint left off."""
    pipeline, network = untrained()
    real = pictures.camvid(options.data, "train")
    rendered = pictures.cached_synthetic(options.run / "synthetic")
    if options.start:
        network.load_state_dict(artifact.load(options.start).weights)
    recipe = Recipe(
        options.minutes,
        options.steps,
        options.batch,
        lr=options.lr,
        overlap=options.overlap,
        steady=options.steady,
        seed=options.seed,
    )
    pools = [Pool(real, questions_of(pipeline, real), 1 - recipe.synthetic if rendered else 1.0)]
    if rendered:
        pools.append(Pool(rendered, questions_of(pipeline, rendered), recipe.synthetic))
    clips = unlabelled(options.unlabelled, tuple(pipeline.input.size))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = Trainer(
        network,
        recipe,
        Mix(pools, tasks_of(pipeline, real, overlap=recipe.overlap), pipeline.input, recipe.seed, clips),
        device,
        pipeline.input.normalization,
        team,
    )
    checkpoint = options.run / "checkpoint.safetensors"
    if checkpoint.is_file():
        made.resume(checkpoint)
    print(
        f"{len(real)} pictures of CamVid, {len(rendered or ())} synthetic, from step {made.clock.step}, {device}",
        flush=True,
    )
    return made


def train(options: argparse.Namespace) -> None:
    """Train to the end, with a checkpoint every few minutes and a JSON line every ten steps."""
    options.run.mkdir(parents=True, exist_ok=True)
    team = join(options.workers)
    made = trainer(options, team)
    if team.rank > 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for _ in made.run():
            pass
        team.leave()
        return
    print(f"process group {os.getpgrp()}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: setattr(made, "stopped", True))
    saved = time.monotonic()
    with (options.run / "log.jsonl").open("a") as log:
        for line in made.run():
            if line["step"] % 10 == 0:
                log.write(json.dumps(line) + "\n")
                log.flush()
            if time.monotonic() - saved > 60 * options.every:
                made.save(options.run / "checkpoint.safetensors")
                saved = time.monotonic()
    made.save(options.run / "checkpoint.safetensors")
    team.leave()


def render(options: argparse.Namespace) -> None:
    """Fill the cache of synthetic frames."""
    synthetic.render(options.run / "synthetic", options.frames, options.seed)


def judged(state: dict[str, torch.Tensor], data: Path, split: str) -> dict[str, Any]:
    """The metrics of these weights on one split of CamVid."""
    pipeline, network = untrained()
    network.load_state_dict(state)
    network.to(memory_format=torch.channels_last)
    return evaluation.report(network, pipeline, pictures.camvid(data, split))


def report(options: argparse.Namespace) -> None:
    """Judge the averaged weights of the checkpoint on one split and print the metrics as JSON."""
    state = publishing.averaged(options.run / "checkpoint.safetensors")
    print(json.dumps(judged(state, options.data, options.split), indent=1), flush=True)


def publish(options: argparse.Namespace) -> None:
    """Judge the averaged weights, rounded as they are stored, on ``val`` and ``test``; write artifact and card."""
    checkpoint = options.run / "checkpoint.safetensors"
    state = publishing.rounded(publishing.averaged(checkpoint))
    metrics = {split: judged(state, options.data, split) for split in ("val", "test")}
    rendered = len(pictures.cached_synthetic(options.run / "synthetic") or ())
    recipe = publishing.recipe_of(checkpoint) | {"synthetic_frames": rendered, "notes": options.note}
    if options.start:
        recipe["before"] = dict(artifact.load(options.start).manifest.recipe)
    publishing.publish(untrained()[0], state, metrics, recipe, options.out)
    print(json.dumps(metrics, indent=1), flush=True)


if __name__ == "__main__":
    main()
