"""Scores of edges in the JSON of the benchmark MIB (arXiv 2504.13151), so that rankings can be exchanged.

``{"cfg": {…}, "nodes": {NAME: {"in_graph": …}}, "edges": {"SENDER->RECEIVER": {"score": …, "in_graph": …}}}``, in which
the embedding is ``input`` and the query of a head ``a0.h0<q>``. Groups of neurons, which MIB does not know, have our
names.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.ranking import ranking_of
from vitprune.core.model.config import ViTConfig
from vitprune.errors import CircuitError
from vitprune.storage import write_text


def write_importance(path: Path, circuit: Circuit, config: ViTConfig) -> None:
    """Write the scores of a circuit's edges, and which of them it keeps, atomically.

    The scores of a search rank its own edges before all others.
    """
    graph, scores = circuit.graph, ranking_of(circuit)
    edges = {
        _edge_name(edge): {"score": float(scores[index]), "in_graph": bool(circuit.keep_mask[index])}
        for edge in graph.edges
        for index in [(graph.receiver_index[edge[1]], graph.sender_index[edge[0]])]
    }
    live = {"embed", "logits", *circuit.live_nodes}
    content = {
        "cfg": {
            "n_layers": config.num_layers,
            "n_heads": config.num_heads,
            "parallel_attn_mlp": False,
            "d_model": config.d_model,
        },
        "nodes": {_node_name(node.name): {"in_graph": node.name in live} for node in graph.nodes},
        "edges": edges,
    }
    write_text(path, json.dumps(content) + "\n")


def read_importance(path: Path, graph: Graph) -> Tensor:
    """The scores in such a file for all edges of ``graph``, ``(receivers, senders)``.

    Raises CircuitError if the file is no such JSON, or if its edges are not those of the graph.
    """
    edges = _edges_in(path)
    scores = torch.zeros(graph.all_edges.shape, dtype=torch.float64)
    for edge in graph.edges:
        name = _edge_name(edge)
        if name not in edges:
            raise CircuitError(f"{path}: has no score for {name}, an edge of this model ({graph.describe()})")
        scores[graph.receiver_index[edge[1]], graph.sender_index[edge[0]]] = _score_in(path, name, edges.pop(name))
    if edges:
        raise CircuitError(f"{path}: {next(iter(edges))} is not an edge of this model ({graph.describe()})")
    return scores


def _edges_in(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
        edges = content["edges"]
        return dict(edges.items())
    except OSError as error:
        raise CircuitError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CircuitError(f"{path}: is not a file of scores: it needs JSON with edges, each with a score") from error


def _score_in(path: Path, name: str, entry: Any) -> float:
    score = entry.get("score") if isinstance(entry, dict) else None
    if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
        raise CircuitError(f"{path}: the score of {name} must be a finite number, got {score!r}")
    return float(score)


def _node_name(name: str) -> str:
    return "input" if name == "embed" else name


def _edge_name(edge: Edge) -> str:
    """``input->a0.h0<q>`` for the edge from the embedding to the query of the first head."""
    sender, receiver = edge
    port = re.sub(r"[.]([qkv])$", r"<\1>", receiver)
    return f"{_node_name(sender)}->{port}"
