"""From a score for each edge to a circuit, and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


def top_edges(graph: Graph, scores: Tensor, count: int) -> Tensor:
    """Mask ``(receivers, senders)`` of the ``count`` edges with the largest absolute score, in fixed order on ties."""
    places = graph.all_edges.nonzero()
    magnitude = scores[graph.all_edges].abs().nan_to_num(nan=-1.0)
    order = torch.argsort(magnitude, descending=True, stable=True)[:count]
    keep_mask = torch.zeros_like(graph.all_edges)
    rows, columns = places[order].unbind(dim=1)
    keep_mask[rows, columns] = True
    return keep_mask


def ranking_of(circuit: Circuit) -> Tensor:
    """A score ``(receivers, senders)`` that ranks edges as the circuit does: its own before all others."""
    importance = torch.zeros(circuit.graph.all_edges.shape, dtype=torch.float64)
    if circuit.scores is not None:
        # A removal that helped does not make an edge important; ties between kept and removed go to the kept.
        importance = circuit.scores.nan_to_num(0.0).abs()
    return importance / importance.max().clamp_min(1e-300) + circuit.keep_mask


def check_choice(graph: Graph, threshold: float | None, num_edges: int | None) -> None:
    """CircuitError unless either a threshold or a number of edges says what to keep."""
    if (threshold is None) == (num_edges is None):
        raise CircuitError(
            f"say what to keep, either threshold or num_edges; got threshold {threshold} and num_edges {num_edges}"
        )
    if threshold is not None and not (math.isfinite(threshold) and threshold >= 0):
        raise CircuitError(f"threshold must be a finite number of at least 0, got {threshold}")
    if num_edges is not None and not 0 <= num_edges <= len(graph.edges):
        raise CircuitError(f"num_edges must be from 0 to {len(graph.edges)}, got {num_edges}")


def circuit_of_scores(
    model: ViT,
    images: Tensor,
    graph: Graph,
    ablation: Ablation,
    scores: Tensor,
    *,
    method: str,
    metric: MetricName,
    threshold: float | None,
    num_edges: int | None,
) -> Circuit:
    """Keep the edges whose absolute score is at least ``threshold``, or the ``num_edges`` highest; then close.

    Closing drops edges that are on no path from ``embed`` to ``logits``, so that fewer may be left.
    """
    check_choice(graph, threshold, num_edges)
    if threshold is not None:
        keep_mask = graph.all_edges & (scores.abs() >= threshold)
    else:
        assert num_edges is not None
        keep_mask = top_edges(graph, scores, num_edges)
    circuit = Circuit(
        graph=graph,
        keep_mask=graph.close(keep_mask),
        ablation=ablation,
        kl=math.nan,
        method=method,
        metric=metric,
        tau=threshold,
        scores=scores,
    )
    return circuit.measured(model, images)
