"""What the circuit explorer draws: the graph, the score of each edge, and the order in which edges went."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vitprune.circuit import Circuit
from vitprune.circuit.circuit import ALL_RECEIVERS
from vitprune.circuit.graph import Graph
from vitprune.circuit.stability import verdict

REMOVING = ("removed", "unreachable", "removed-untested")


def explorer_data(circuit: Circuit, other: Circuit | None = None) -> dict[str, Any]:
    """The circuit as plain data for ``explorer.js``.

    ``edges`` has parallel lists of senders, receivers (as indices), scores (None where unknown), and of the steps after
    which an edge is gone: 1 for the first removal, 0 for an edge of the circuit. ``frequency`` is the share of
    bootstrap samples that keep an edge, and ``undecided`` whether that says neither yes nor no; both are None without
    samples. ``gate`` is what an edge is, None where that is unknown. ``other`` is whether an ``other`` circuit of
    the same graph keeps an edge; None without one.
    """
    graph = circuit.graph
    rows, columns = (indices.tolist() for indices in np.nonzero(graph.all_edges.numpy()))
    steps = removal_steps(circuit)
    scores = None if circuit.scores is None else circuit.scores.numpy()
    shares = None if circuit.frequency is None else circuit.frequency[rows, columns].tolist()
    return {
        "senders": [
            {"name": node.name, "kind": node.kind, "level": node.level, "layer": node.layer, "index": node.index}
            for node in graph.senders
        ],
        "receivers": [
            {"name": receiver.name, "node": receiver.node.name, "port": receiver.port, "level": receiver.node.level}
            for receiver in graph.receivers
        ],
        "levels": graph.last_level + 1,
        "edges": {
            "sender": columns,
            "receiver": rows,
            "score": [
                None if scores is None or math.isnan(score := scores[row, column]) else float(f"{score:.4g}")
                for row, column in zip(rows, columns, strict=True)
            ],
            "step": [int(steps[row, column]) for row, column in zip(rows, columns, strict=True)],
            "other": other and other.keep_mask[rows, columns].int().tolist(),
            "gate": [(circuit.gates or {}).get(edge) for edge in graph.edges],
            "frequency": shares and [round(share, 3) for share in shares],
            "undecided": shares and [int(verdict(share) == "undecided") for share in shares],
        },
        "steps": int(steps.max(initial=0)),
        "method": circuit.method,
        "metric": circuit.metric,
        "tau": circuit.tau,
        "ablation": circuit.ablation.kind,
    }


def removal_steps(circuit: Circuit) -> np.ndarray:
    """After which step each edge is gone, ``(receivers, senders)``: 0 for those that are kept.

    A search took its steps in the order of its trace; a node that is removed takes its edges with it. Without a trace,
    edges go by their score, the smallest first.
    """
    graph, removed = circuit.graph, (circuit.graph.all_edges & ~circuit.keep_mask).numpy()
    steps = np.zeros(removed.shape, np.int64)
    if circuit.trace:
        _by_trace(circuit, removed, steps)
    else:
        scores = np.zeros(removed.shape) if circuit.scores is None else np.nan_to_num(circuit.scores.abs().numpy())
        rows, columns = np.nonzero(removed)
        order = np.argsort(scores[rows, columns], kind="stable")
        steps[rows[order], columns[order]] = np.arange(1, len(order) + 1)
    # What no decision names went with the last one.
    steps[removed & (steps == 0)] = max(1, steps.max(initial=0))
    assert not steps[graph.all_edges.numpy() & ~removed].any()
    return steps


def _by_trace(circuit: Circuit, removed: np.ndarray, steps: np.ndarray) -> None:
    graph: Graph = circuit.graph
    step = 0
    for decision in circuit.trace:
        if decision.action not in REMOVING:
            continue
        column = graph.sender_index[decision.sender]
        if decision.receiver == ALL_RECEIVERS:
            gone = np.zeros_like(removed)
            gone[:, column] = True
            rows = graph.input_rows[decision.sender]
            gone[rows.start : rows.stop] = True
        else:
            gone = np.zeros_like(removed)
            gone[graph.receiver_index[decision.receiver], column] = True
        new = gone & removed & (steps == 0)
        if new.any():
            step += 1
            steps[new] = step
