"""A static picture of a circuit: layers as columns, the nodes on its paths, and the edges between them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from vitprune.circuit import Circuit
from vitprune.circuit.graph import Node, Receiver
from vitprune.report.drawing import drawn

MAX_EDGES = 150
"""More edges than this are a black disc."""
STYLES: dict[str, tuple[str, Any]] = {
    "q": ("#0072b2", "-"),
    "k": ("#d55e00", "--"),
    "v": ("#009e73", ":"),
    "": ("#444444", "-"),
}
"""Colour and dash of the edges into each port: they differ in print too (colours of Okabe and Ito, 2008)."""
MEANINGS = {"q": "into queries", "k": "into keys", "v": "into values", "": "into MLPs, heads as a whole and logits"}
_WIDTHS = (0.5, 2.8)
_HALF_WIDTH, _HALF_HEIGHT = 0.24, 0.3
"""Of a node; columns and rows are 1 apart."""


def draw_circuit(path: Path, circuit: Circuit) -> None:
    """Write the circuit as PNG or SVG, by the ending of ``path``: what is kept and on a path from images to logits.

    An edge is the wider, the larger its score in the ranks of all that are drawn. Of more than MAX_EDGES, those with
    the largest scores are drawn.
    """
    closed = circuit.closed()
    graph = closed.graph
    rows, columns = np.nonzero(closed.keep_mask.numpy())
    # Attributions have a sign; how far they are from zero is what counts.
    scores = np.full(len(rows), np.nan) if closed.scores is None else closed.scores.abs().numpy()[rows, columns]
    # Edges without a score of their own are drawn thin, and left out first.
    order = np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable")[::-1][:MAX_EDGES]
    live = {graph.nodes[0].name, *closed.live_nodes, "logits"}
    shown = [node for node in graph.nodes if node.name in live]
    places = _places(shown, graph.last_level)
    top = max(y for _, y in places.values())
    # Above the nodes there is room for the edges that pass them.
    limit = top + 0.9 + 0.1 * graph.last_level
    with drawn(path, (min(1.5 + 0.95 * graph.last_level, 20), min(1.2 + 0.9 * limit, 14))) as figure:
        axes = figure.add_subplot()
        axes.set_ylim(-limit, limit)
        for rank, edge in enumerate(reversed(order.tolist())):
            receiver, sender = graph.receivers[rows[edge]], graph.senders[columns[edge]]
            width = _WIDTHS[0] + (_WIDTHS[1] - _WIDTHS[0]) * rank / max(1, len(order) - 1)
            _draw_edge(axes, places[sender.name], places[receiver.node.name], receiver, width)
        for node in shown:
            _draw_node(axes, node, *places[node.name])
        _label_columns(axes, graph.last_level, [node.level for node in shown])
        left_out = f", of which the {len(order)} with the largest scores are drawn" if len(rows) > len(order) else ""
        axes.set_title(
            f"The circuit: {len(rows):,} of {len(graph.edges):,} edges{left_out}, found by {circuit.method}"
            f"{'' if circuit.tau is None else f' with τ = {circuit.tau:g}'}",
            fontsize=11,
        )
        ports = sorted({graph.receivers[rows[edge]].port for edge in order.tolist()}, key=list(STYLES).index)
        handles = [
            Line2D([], [], color=STYLES[port][0], linestyle=STYLES[port][1], label=MEANINGS[port]) for port in ports
        ]
        if handles:
            figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def _places(nodes: Sequence[Node], last_level: int) -> dict[str, tuple[float, float]]:
    """Where each node is drawn: its level, and a row so that every column is centred."""
    columns = [[node for node in nodes if node.level == level] for level in range(last_level + 1)]
    return {
        node.name: (float(level), (len(column) - 1) / 2 - row)
        for level, column in enumerate(columns)
        for row, node in enumerate(column)
    }


def _draw_edge(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], receiver: Receiver, width: float
) -> None:
    colour, dash = STYLES[receiver.port]
    # An edge that passes columns bends, so that it does not run through their nodes.
    span = end[0] - start[0]
    bend = 0.0 if span <= 1 else (-1 if start[1] + end[1] >= 0 else 1) * min(0.35, 0.5 / span + 0.12)
    shift = {"q": 0.14, "k": 0.0, "v": -0.14, "": 0.0}[receiver.port]
    axes.add_patch(
        FancyArrowPatch(
            (start[0] + _HALF_WIDTH, start[1]),
            (end[0] - _HALF_WIDTH, end[1] + shift),
            connectionstyle=f"arc3,rad={bend}",
            arrowstyle="-|>,head_length=2.5,head_width=1.5",
            color=colour,
            linestyle=dash,
            linewidth=width,
            alpha=0.75,
            shrinkA=0,
            shrinkB=0,
            zorder=1,
        )
    )


def _draw_node(axes: Axes, node: Node, x: float, y: float) -> None:
    label = {"embed": "image", "logits": "logits"}.get(node.kind, node.name.split(".")[-1])
    corner, width, height = (x - _HALF_WIDTH, y - _HALF_HEIGHT), 2 * _HALF_WIDTH, 2 * _HALF_HEIGHT
    is_mlp = node.kind == "mlp"
    axes.add_patch(
        FancyBboxPatch(
            corner,
            width,
            height,
            boxstyle="square,pad=0" if is_mlp else "round,pad=0,rounding_size=0.12",
            facecolor="#e8e8e8" if is_mlp else "white",
            edgecolor="black",
            linewidth=0.9,
            zorder=3,
        )
    )
    axes.text(x, y, label, ha="center", va="center_baseline", fontsize=9, zorder=4)


def _label_columns(axes: Axes, last_level: int, levels: Sequence[int]) -> None:
    names = ["", *(f"{kind}\nlayer {level // 2}" for level in range(last_level - 1) for kind in [_kind(level)]), ""]
    axes.set_xticks(range(last_level + 1), names, fontsize=9)
    for level in sorted({*range(last_level + 1)} - {*levels}):
        axes.text(level, 0, "removed", rotation=90, ha="center", va="center", fontsize=9, color="0.5", zorder=0)
    axes.set_xlim(-0.6, last_level + 0.6)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _kind(level: int) -> str:
    return "MLP" if level % 2 else "attention"
