"""How often bootstrap samples keep each edge, and how alike their circuits are, as CSV and as a picture."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from vitprune.circuit.stability import Agreement, Stability, Verdict, mean_over_pairs, verdict
from vitprune.report.drawing import drawn
from vitprune.storage import atomic_file

COLOURS: dict[Verdict, str] = {"in": "#0072b2", "undecided": "#e69f00", "out": "0.6"}
BINS = 20


def write_stability(path: Path, stability: Stability | None, keep_mask: Tensor) -> None:
    """Write a row for each edge that the circuit of ``keep_mask (receivers, senders)`` or a sample's keeps."""
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sender", "receiver", "frequency", "verdict", "in_circuit"])
        if stability is None:
            return
        frequency, graph = stability.frequency, stability.graph
        for row, column in torch.nonzero((frequency > 0) | keep_mask).tolist():
            share = float(frequency[row, column])
            kept = "yes" if keep_mask[row, column] else "no"
            names = graph.senders[column].name, graph.receivers[row].name
            writer.writerow([*names, round(share, 4), verdict(share), kept])


def draw_stability(path: Path, stability: Stability | None, agreement: Agreement | None) -> None:
    """Write a PNG: how many edges are kept by how many samples, and how alike pairs of samples' circuits are."""
    with drawn(path, (11, 3.8)) as figure:
        edges, pairs = figure.subplots(1, 2)
        if stability is None or agreement is None:
            edges.set_axis_off()
            pairs.set_axis_off()
            figure.text(0.5, 0.5, "no samples: acdc.bootstrap_samples is null", ha="center", va="center", color="0.4")
            return
        _draw_edges(edges, stability)
        _draw_pairs(pairs, stability, agreement)


def _draw_edges(axes: Axes, stability: Stability) -> None:
    shares = stability.frequency[stability.graph.all_edges].numpy()
    shown = shares[shares > 0]
    bins = np.linspace(0, 1, BINS + 1).tolist()
    for name, colour in COLOURS.items():
        chosen = [share for share in shown if verdict(share) == name]
        axes.hist(chosen, bins, color=colour, label=f"{name}: {len(chosen)}", edgecolor="white", linewidth=0.5)
    axes.set(
        xlabel="share of the samples that keep an edge",
        ylabel="edges",
        title=f"{len(shown):,} of {len(shares):,} edges are kept by any of {len(stability.masks)} samples",
    )
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)


def _draw_pairs(axes: Axes, stability: Stability, agreement: Agreement) -> None:
    above = np.triu_indices(len(stability.masks), k=1)
    bins = np.linspace(0, 1, 2 * BINS + 1).tolist()
    for name, values, colour in (
        ("edges: Jaccard index", stability.jaccard, "#0072b2"),
        ("predicted classes: share that is the same", agreement.same_class, "#009e73"),
    ):
        mean = mean_over_pairs(values).mean
        axes.hist(values.numpy()[above], bins, color=colour, alpha=0.6, label=f"{name}, mean {mean:.2f}")
        axes.plot([mean], [0], marker="^", markersize=8, color=colour, clip_on=False)
    # Room for the legend.
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    axes.set(xlabel="1: the same", ylabel="pairs of circuits", title="How alike two samples' circuits are")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, loc="upper left")
    axes.spines[["top", "right"]].set_visible(False)
