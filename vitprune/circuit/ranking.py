"""From a score for each edge to a circuit, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName
from vitprune.circuit.problem import Problem


def top_edges(graph: Graph, scores: Tensor, count: int, *, is_signed: bool = False) -> Tensor:
    """Mask ``(receivers, senders)`` of the ``count`` edges with the largest absolute score, in fixed order on ties.

    If scores are signed, it is that of the edges with the highest. Edges without a score (NaN) come last.
    """
    edges = graph.all_edges.nonzero()
    values = scores[graph.all_edges] if is_signed else scores[graph.all_edges].abs()
    order = torch.argsort(values.nan_to_num(nan=-math.inf, neginf=-math.inf), descending=True, stable=True)[:count]
    keep_mask = torch.zeros_like(graph.all_edges)
    rows, columns = edges[order].unbind(dim=1)
    keep_mask[rows, columns] = True
    return keep_mask


def ranking_of(circuit: Circuit) -> Tensor:
    """Scores ``(receivers, senders)`` of all edges, signed: those of a ranking, or what ranks a search's edges first.

    The tested changes of a search, scaled to at most 1, rank the edges of its circuit, which get 2 more, and the rest.
    """
    if circuit.scores is None:
        return circuit.keep_mask.double()
    scores = circuit.scores.nan_to_num(0.0)
    if not circuit.trace:
        return scores
    return scores / scores.abs().max().clamp_min(1e-300) + 2 * circuit.keep_mask


def circuit_of_scores(
    problem: Problem, scores: Tensor, *, method: str, metric: MetricName, tau: float | None, num_edges: int | None
) -> Circuit:
    """The closed circuit of the edges with an absolute score of at least ``tau``, or of the ``num_edges`` highest.

    Closing drops edges that are on no path from ``embed`` to ``logits``, so that fewer than ``num_edges`` may be left.
    """
    graph = problem.graph
    if num_edges is not None:
        keep_mask = top_edges(graph, scores, num_edges)
    else:
        assert tau is not None
        keep_mask = graph.all_edges & (scores.abs() >= tau)
    circuit = Circuit(
        graph=graph,
        keep_mask=graph.close(keep_mask),
        ablation=problem.ablation,
        kl=math.nan,
        method=method,
        metric=metric,
        tau=tau,
        scores=scores,
    )
    return circuit.measured(problem.model, problem.images)
