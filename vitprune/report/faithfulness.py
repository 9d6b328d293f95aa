"""How much of the full model circuits of many sizes recover, for each method, as a plot and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from matplotlib.ticker import PercentFormatter

from vitprune.circuit.faithfulness import Faithfulness
from vitprune.report.drawing import drawn
from vitprune.storage import atomic_file

Curves = Mapping[str, Sequence[Faithfulness]]
"""For each method, circuits of rising size."""


def write_faithfulness(path: Path, curves: Curves, circuit: Faithfulness, method: str) -> None:
    """Write one row for each method and circuit; without curves, one for ``circuit``, which ``method`` found."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["method", *(column.name for column in fields(Faithfulness))])
        for name, curve in (curves or {method: [circuit]}).items():
            writer.writerows([name, *point.as_row().values()] for point in curve)


def draw_faithfulness(
    path: Path, curves: Curves, circuit: Faithfulness, method: str, edges: int, *, is_searched: bool = False
) -> None:
    """Draw recovered share and accuracy against the share of all ``edges`` as a PNG; ``method`` found ``circuit``.

    A circuit that ``is_searched`` comes with a ranking of its own edges, and of no others: its curve ends there.
    """
    with drawn(path, (11, 4)) as figure:
        recovered, accuracy = figure.subplots(1, 2)
        for name, curve in curves.items():
            label = f"{method} (found)" if name == "found" else name.replace("_", "-")
            if name == "found" and is_searched:
                curve = [*(point for point in curve if point.edges < circuit.edges), circuit]
            shares = [point.edges / edges for point in curve]
            style = {"label": label, "marker": "o", "markersize": 3, "linewidth": 2 if name == "found" else 1}
            recovered.plot(shares, [point.recovered for point in curve], **style)
            accuracy.plot(shares, [point.accuracy for point in curve], **style)
        for axes, value in ((recovered, circuit.recovered), (accuracy, circuit.accuracy)):
            axes.plot([circuit.edges / edges], [value], marker="*", markersize=13, color="black", linestyle="none")
            # The curves change most among the first edges.
            axes.set_xscale("symlog", linthresh=0.01, linscale=0.5)
            axes.set_xticks([0, 0.01, 0.1, 1])
            axes.xaxis.set_major_formatter(PercentFormatter(1))
            axes.set_xlabel(f"edges kept, of {edges:,}")
            axes.grid(alpha=0.3)
        # Circuits can be far worse than none at all. The worst would squeeze the rest of the plot and are cut off.
        recovered.set_ylim(max(-0.55, recovered.get_ylim()[0]), 1.05)
        recovered.set(ylabel="recovered share of the KL", title="How much of the baseline's output is left")
        accuracy.set(ylabel="accuracy", title="How often what is left is right")
        accuracy.yaxis.set_major_formatter(PercentFormatter(1))
        recovered.plot([], [], marker="*", markersize=10, color="black", linestyle="none", label="the circuit")
        figure.legend(*recovered.get_legend_handles_labels(), frameon=False, loc="outside right center")
