"""The same four tasks on the same decoded frames in other runtimes and frameworks, beside the engine computing all.

``python -m benchmarks.peers --data FOLDER`` takes the folder that holds ``clips`` and ``camvid``; without it, a clip is
generated. Model files stay in ``--work``, so that a second run begins sooner. ``--envs FOLDER`` lets peers that need
packages of their own install them there.
"""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.peers.suite import Bench
from benchmarks.timing import Measurement, Parser


def main() -> None:
    """Measure and keep ``results/peers.json``."""
    parser = Parser(__doc__)
    data = os.environ.get("SHAREDBB_DATA")
    parser.add_argument("--data", type=Path, default=Path(data) if data else None)
    parser.add_argument("--only", help="peers whose names contain one of these words, as OpenVINO,torch")
    parser.add_argument("--work", type=Path, default=Path("runs/peers"), help="where model files are kept")
    parser.add_argument("--envs", type=Path, help="where peers may install what they need")
    options = parser.options()
    measurement = Measurement("peers", __doc__, options)
    measurement.keep(**Bench.of(options).results())


if __name__ == "__main__":
    main()
