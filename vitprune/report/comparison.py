"""What two circuits share, as a table and as CSV."""

from __future__ import annotations

import csv
from pathlib import Path

import torch

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.comparison import Comparison, by_layer
from vitprune.evaluation.table import Table
from vitprune.storage import atomic_file


def comparison_table(compared: Comparison, circuit: Circuit, names: tuple[str, str]) -> Table:
    """Edges into each layer: those that both circuits keep, and those that one keeps alone."""
    columns = [by_layer(circuit, mask) for mask in (compared.shared, compared.first, compared.second)]
    layers = [*(f"layer {layer}" for layer in range(len(columns[0]) - 1)), "logits"]
    rows = [(layer, *map(str, counts)) for layer, *counts in zip(layers, *columns, strict=True)]
    totals = [sum(column) for column in columns]
    return Table(
        headers=("edges into", "both", *(f"{name} alone" for name in names)),
        rows=(*rows, ("all", *map(str, totals))),
        caption=f"Jaccard index {compared.jaccard:.3f}.",
    )


def write_comparison(path: Path, compared: Comparison, first: Circuit, second: Circuit) -> None:
    """Write a row for each edge that one of the circuits keeps, with its score in both."""
    graph = first.graph
    with atomic_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sender", "receiver", "in_first", "in_second", "score_first", "score_second"])
        kept = compared.shared | compared.first | compared.second
        for row, column in torch.nonzero(kept).tolist():
            flags = ("yes" if circuit.keep_mask[row, column] else "no" for circuit in (first, second))
            names = graph.senders[column].name, graph.receivers[row].name
            writer.writerow([*names, *flags, *(_score(circuit, row, column) for circuit in (first, second))])


def _score(circuit: Circuit, row: int, column: int) -> float | str:
    if circuit.scores is None or circuit.scores[row, column].isnan():
        return ""
    return float(circuit.scores[row, column])
