"""Edge attribution patching (Syed et al. 2023, arXiv 2310.10348): all edges from two forward passes and a backward."""

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


def check_eap_metric(metric: str) -> None:
    """CircuitError for metrics whose gradient at the full model says nothing."""
    if metric == "kl":
        raise CircuitError(
            "eap cannot use metric 'kl': KL(full ‖ circuit) has its minimum at the full model, so that its gradient "
            "there is zero; use 'cross-entropy' or 'logit-difference', or eap-ig"
        )
    if metric == "accuracy":
        raise CircuitError("eap cannot use metric 'accuracy': it has no gradient; use 'cross-entropy'")


def eap(
    model: ViT,
    images: Tensor,
    *,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    metric: MetricName = "cross-entropy",
    labels: Tensor | None = None,
    threshold: float | None = None,
    num_edges: int | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """The circuit of the edges with the largest attribution on normalised ``images (b, c, height, width)``.

    Edges stay if their absolute score, in units of the metric, is at least ``threshold``, or the ``num_edges`` highest
    stay; the circuit is then closed. ``labels (b,)`` default to the model's own answers.

    Raises CircuitError for a metric without a useful gradient (KL, accuracy) and for inputs that do not go together.
    """
    metric_named(metric)
    check_eap_metric(metric)
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    check_choice(graph, threshold, num_edges)
    scores = attribute(model, images, graph, ablation, metric_named(metric), labels, (1.0,), batch_size)
    return circuit_of_scores(
        model,
        images,
        graph,
        ablation,
        scores,
        method="eap",
        metric=metric,
        threshold=threshold,
        num_edges=num_edges,
    )
