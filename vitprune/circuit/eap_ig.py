"""Edge attribution with integrated gradients over inputs (EAP-IG; Hanna et al. 2024, arXiv 2403.17806).

The gradients are averaged along the straight line from the ablated embedding to that of the image, at the middles of
equally long steps. Away from the full model the gradient of KL is not zero, so that every differentiable metric serves.
"""

from __future__ import annotations

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.attribution import attribute
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName, metric_named
from vitprune.circuit.ranking import check_choice, circuit_of_scores
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


def eap_ig_scores(
    model: ViT,
    images: Tensor,
    graph: Graph,
    ablation: Ablation,
    metric: MetricName = "kl",
    labels: Tensor | None = None,
    steps: int = 5,
    batch_size: int | None = None,
) -> Tensor:
    """Score of every edge, ``(receivers, senders)``; CircuitError for a metric without a gradient or no steps."""
    if metric == "accuracy":
        raise CircuitError("eap-ig cannot use metric 'accuracy': it has no gradient; use 'kl' or 'cross-entropy'")
    if steps < 1:
        raise CircuitError(f"steps must be at least 1, got {steps}")
    positions = [(step + 0.5) / steps for step in range(steps)]
    return attribute(model, images, graph, ablation, metric_named(metric), labels, positions, batch_size)


def eap_ig(
    model: ViT,
    images: Tensor,
    *,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    metric: MetricName = "kl",
    labels: Tensor | None = None,
    steps: int = 5,
    threshold: float | None = None,
    num_edges: int | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """The circuit of the edges with the largest attribution on normalised ``images (b, c, height, width)``.

    ``steps`` forward and backward passes each add one point of the line. Edges stay if their absolute score, in units
    of the metric, is at least ``threshold``, or the ``num_edges`` highest stay; the circuit is then closed.

    Raises CircuitError for the metric 'accuracy', no steps, and inputs that do not go together.
    """
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    check_choice(graph, threshold, num_edges)
    scores = eap_ig_scores(model, images, graph, ablation, metric, labels, steps, batch_size)
    return circuit_of_scores(
        model,
        images,
        graph,
        ablation,
        scores,
        method="eap-ig",
        metric=metric,
        threshold=threshold,
        num_edges=num_edges,
    )
