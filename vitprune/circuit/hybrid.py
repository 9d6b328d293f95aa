"""Attribution first, ACDC for what it leaves unsettled.

EAP-IG predicts what the removal of each edge costs. Edges that it puts far below τ are removed and edges far above are
kept, both without a test; those in between are decided by ACDC's exact test, against the circuit as it then stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.acdc import circuit_of
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.eap_ig import eap_ig_scores
from vitprune.circuit.engine.search import Granularity, SearchProgress, Settlement, check_search, run_search
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


def hybrid(
    model: ViT,
    images: Tensor,
    *,
    tau: float,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    granularity: Granularity = "edge",
    metric: MetricName = "kl",
    labels: Tensor | None = None,
    steps: int = 5,
    low: float = 0.1,
    high: float = 10.0,
    batch_size: int | None = None,
    candidates: int = 1,
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Circuit:
    """Find the circuit of ``model`` on normalised ``images (b, c, height, width)``; arguments as for ``acdc``.

    Edges whose absolute EAP-IG score is below ``low`` · τ are removed and those above ``high`` · τ kept without a test.
    Over nodes the search is the exact one: there are few of them. The circuit is closed.

    Raises CircuitError as ``acdc`` and ``eap_ig`` do, and for ``low`` above ``high``.
    """
    check_search(tau, granularity, metric, candidates)
    if not 0 <= low <= high < math.inf:
        raise CircuitError(f"low and high must be finite with 0 ≤ low ≤ high, got {low} and {high}")
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    scores = eap_ig_scores(model, images, graph, ablation, metric, labels, steps, batch_size)
    magnitude = scores.abs()
    search = run_search(
        model,
        images,
        graph,
        ablation,
        method="hybrid",
        tau=tau,
        granularity=granularity,
        metric=metric,
        labels=labels,
        batch_size=batch_size,
        candidates=candidates,
        settlement=Settlement(remove=magnitude < low * tau, keep=magnitude > high * tau, scores=scores),
        key_options=(steps, low, high),
        on_progress=on_progress,
        journal=journal,
    )
    closed = graph.close(search.evaluator.keep_mask)
    return circuit_of(search, f"hybrid-{granularity}", metric, closed, scores)
