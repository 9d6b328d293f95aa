"""Attribution first, ACDC for what it leaves unsettled.

EAP-IG predicts what the removal of each edge costs. Edges that it puts far below τ are removed and edges far above are
kept, both without a test; those in between are decided by ACDC's exact test, against the circuit as it then stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.acdc import Granularity, candidates_in, check_search, circuit_of, search_key
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.eap_ig import eap_ig_scores
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import Journal
from vitprune.circuit.engine.search import Search, SearchProgress
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
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Circuit:
    """Find the circuit of ``model`` on normalised ``images (b, c, height, width)``; arguments as for ``acdc``.

    Edges whose absolute EAP-IG score is below ``low`` · τ are removed and those above ``high`` · τ kept without a test.
    Over nodes the search is the exact one: there are few of them. The circuit is closed.

    Raises CircuitError as ``acdc`` and ``eap_ig`` do, and for ``low`` above ``high``.
    """
    check_search(tau, granularity, metric)
    if not 0 <= low <= high < math.inf:
        raise CircuitError(f"low and high must be finite with 0 ≤ low ≤ high, got {low} and {high}")
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    scores = eap_ig_scores(model, images, graph, ablation, metric, labels, steps, batch_size)
    evaluator = IncrementalEvaluator(
        model,
        images,
        graph,
        graph.all_edges,
        ablation,
        metric=metric,
        labels=labels,
        batch_size=batch_size,
        candidates=candidates_in(batch_size, len(images)),
    )
    options = ("hybrid", tau, granularity, metric, batch_size, steps, low, high)
    written = Journal(journal, search_key(model, images, labels, graph, ablation, options)) if journal else None
    search = Search(evaluator, tau, on_progress=on_progress, journal=written)
    with closing(written) if written else nullcontext():
        if granularity != "edge":
            search.over_nodes()
        if granularity != "node":
            magnitude = scores.abs()
            search.settle(remove=magnitude < low * tau, keep=magnitude > high * tau, scores=scores)
            search.over_edges()
    closed = graph.close(evaluator.keep_mask)
    return circuit_of(search, f"hybrid-{granularity}", metric, closed, scores)
