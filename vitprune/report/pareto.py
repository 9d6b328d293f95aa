"""Accuracy against latency, as a picture and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vitprune.evaluation.pareto import Experiment, pareto_front
from vitprune.storage import atomic_file


def write_pareto(path: Path, experiments: Sequence[Experiment]) -> None:
    """Write one row for each experiment, and whether it is on the front."""
    front = pareto_front(list(experiments))
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["experiment", "speedup", "accuracy", "unpruned_accuracy", "is_on_front"])
        for each in sorted(experiments, key=lambda each: each.speedup):
            writer.writerow([each.name, each.speedup, each.accuracy, each.control_accuracy, each in front])


def draw_pareto(path: Path, experiments: Sequence[Experiment], batch_size: int) -> None:
    """Draw the experiments, their front, and the unpruned models that were trained for as long, as a PNG."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    controls = sorted({each.control_accuracy for each in experiments})
    axes.plot([1] * len(controls), controls, "s", color="black", label="baseline, trained for as long")
    axes.plot([1 / each.speedup for each in experiments], [each.accuracy for each in experiments], "o", label="pruned")
    front = pareto_front(list(experiments))
    axes.plot([1 / each.speedup for each in front], [each.accuracy for each in front], linewidth=1, color="C0")
    for each in experiments:
        axes.annotate(
            f"{each.name}\n{each.speedup:.2f}×",
            (1 / each.speedup, each.accuracy),
            textcoords="offset points",
            xytext=(6, -4),
            va="top",
            fontsize=8,
        )
    axes.set_xlim(0, 1.1)
    axes.margins(y=0.2)
    axes.set(xlabel=f"time of a batch of {batch_size}, against the baseline's beside it", ylabel="test accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=120, metadata={"Software": None})
