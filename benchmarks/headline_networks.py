"""The networks that the headline compares with: four of their own and the street pipeline, all in 8 bits.

``python -m benchmarks.headline_networks FOLDER [DATA]`` writes ``FOLDER/<head>.xml`` and ``FOLDER/street-int8.json``.
Calibrated on ``DATA/camvid``, or on frames of a clip where there is none.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import sharedbb as sb
from benchmarks.networks import PIPELINE
from benchmarks.peers.base import CALIBRATION, Work
from benchmarks.peers.quantized import int8_models
from sharedbb.compress import Network, quantize
from sharedbb.learn import open_data


def main() -> None:
    """Make what is not there yet."""
    models, data = Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] and sys.argv[2] else None
    models.mkdir(parents=True, exist_ok=True)
    work = Work.street(data, models / "peers", frames=1)
    for head, path in int8_models(work).items():
        for suffix in (".bin", ".xml"):
            shutil.copy(path.with_suffix(suffix), models / f"{head}{suffix}")
    camvid = None if data is None else data / "camvid"
    labelled = camvid is not None and camvid.is_dir()
    train = open_data(f"camvid:{camvid}").of("train") if labelled else open_data(str(work.clip))
    network, _ = quantize(Network.of(PIPELINE), train, pictures=CALIBRATION)
    network.save(models / "street-int8.sbb")
    pipeline = sb.load(PIPELINE)
    rounded = pipeline.backbone.model_copy(update={"weights": str(models / "street-int8.sbb")})
    (models / "street-int8.json").write_text(pipeline.model_copy(update={"backbone": rounded}).model_dump_json())


if __name__ == "__main__":
    main()
