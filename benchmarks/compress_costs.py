"""The cost model against ten configurations that it was not fitted to: other sizes, widths, heads; pruned ones."""

from __future__ import annotations

from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import networks
from benchmarks.schema import Number
from benchmarks.timing import Measurement, Parser
from sharedbb.cli.costing import NETWORK, Prepared, Way, cost_model, measured, subject, ways
from sharedbb.cli.probes import Probe, heads
from sharedbb.compress.costs import CostModel
from sharedbb.compress.operators import operators
from sharedbb.compress.planning import Choice, plan
from sharedbb.compress.prune import prune
from sharedbb.learn.network import Network
from sharedbb.spec import Runtime

GOAL_PERCENT = 15
PRUNED = (0.25, 0.5)  # shares of the street network's multiply-adds

UNSEEN = (
    Probe("mobilenet_v2", (320, 512), 64, heads(64, "surface", "objects", "edges", "scene")),
    Probe("mobilenet_v2", (384, 640), 32, heads(32, "surface", "objects"), 0.75),
    Probe("mobilenet_v2", (416, 736), 64, heads(48, "surface", "edges", "scene"), 0.35),
    Probe("mobilenet_v3_large", (352, 576), 96, heads(96, "surface", "edges", "scene")),
    Probe("efficientnet_b0", (384, 640), 32, heads(32, "surface", "objects")),
    Probe("resnet18", (320, 512), 48, heads(48, "surface", "objects", "edges", "scene")),
    Probe("resnet50", (288, 480), 32, heads(64, "surface", "depth")),
    Probe("shufflenet_v2_x1_0", (480, 800), 32, heads(64, "surface", "scene")),
)


def main() -> None:
    """Fit or read the model, measure what it has not seen, and keep ``results/compress_costs.json``."""
    parser = Parser(__doc__, rounds=3)
    parser.add_argument("--anew", action="store_true", help="measure the machine anew")
    options = parser.options()
    measurement = Measurement("compress_costs", __doc__, options)

    asked, console = ways(Runtime(device="cpu")), Console()

    def tell(what: str, at: int, total: int) -> None:
        console.print(f"fitting, {at + 1} of {total}: {what}")

    model = cost_model(asked, None, anew=options.anew, tell=tell)
    rows: list[dict[str, Any]] = []
    for probe in UNSEEN[:2] if options.quick else UNSEEN:
        rows += compare(str(probe), probe.network(), model, asked, options.rounds)
    rows += pruned(model, asked, options.rounds)
    show(rows, console)
    measurement.keep(
        numbers=_numbers(rows),
        details={"networks": len({one["network"] for one in rows}), "rows": rows, "model": model.to_dict()},
    )


def compare(name: str, network: Network, model: CostModel, asked: tuple[Way, ...], rounds: int) -> list[dict[str, Any]]:
    """A network's predicted and measured milliseconds in every way."""
    prepared = Prepared.of(network, asked)
    taken = [measured(prepared, None) for _ in range(rounds)]
    known = tuple(operators(prepared.forms[0].parts.graph).values())
    return [
        row(name, way, "plain", model.predict(known, way).milliseconds, median(one[way][NETWORK] for one in taken))
        for way in taken[0]
    ]


def pruned(model: CostModel, asked: tuple[Way, ...], rounds: int) -> list[dict[str, Any]]:
    """What the plan says of the street network pruned, before it is, against the pruned network measured."""
    network = Network.of(networks.street())
    known = subject(network, asked)
    rows = []
    for amount in PRUNED:
        found = prune(network, method="structured", amount=amount)[0]
        taken = [measured(Prepared.of(found, asked), None) for _ in range(rounds)]
        for way in taken[0]:
            told = plan(model, known, [way])
            said = next(one for one in told.alone if one.choice == Choice(way, pruning=amount))
            times = median(one[way][NETWORK] for one in taken)
            rows.append(row(f"street, {amount:.0%} pruned", way, "anchored", said.time.milliseconds, times))
    return rows


def row(name: str, way: str, kind: str, predicted: float, took: float) -> dict[str, Any]:
    """One comparison."""
    told = {
        "network": name,
        "way": way,
        "kind": kind,
        "predicted_ms": round(predicted, 3),
        "measured_ms": round(took, 3),
    }
    return {**told, "error": round(predicted / took - 1, 4)}


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the comparisons."""
    table = Table(title="Predicted and measured, ms", title_justify="left")
    for column in ("network", "way", "predicted", "measured", "error"):
        table.add_column(column, justify="left" if column in ("network", "way") else "right")
    for one in rows:
        numbers = f"{one['predicted_ms']:.2f}", f"{one['measured_ms']:.2f}", f"{one['error']:+.0%}"
        table.add_row(one["network"], one["way"], *numbers)
    console.print(table)


def _numbers(rows: list[dict[str, Any]]) -> dict[str, Number]:
    """The median error of every way, in percent of what was measured."""
    return {
        f"median error, {way}": Number(
            measured=round(100 * median(abs(one["error"]) for one in rows if one["way"] == way), 2),
            goal=GOAL_PERCENT,
            better="lower",
            unit="%",
        )
        for way in dict.fromkeys(one["way"] for one in rows)
    }


if __name__ == "__main__":
    main()
