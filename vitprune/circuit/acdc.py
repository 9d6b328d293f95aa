"""Automated Circuit Discovery (Conmy et al. 2023, arXiv 2304.14997), over edges, over nodes, or over both.

Receivers are visited in reverse topological order, and the senders of each latest first. An edge whose removal makes
KL(full ‖ circuit) grow by less than τ is left out for good. The growth is signed and is taken against the circuit as it
stands. A receiver from which no path leads to the logits loses its edges without a test.

Over nodes the rule is the same, with all edges out of one head or neuron group as the candidate: dense hardware gets
faster only when a whole node goes. ``node-edge`` searches nodes first and then the edges between those that stay,
always against the full model and with the same τ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit, scores_of_trace
from vitprune.circuit.engine.search import Granularity, Search, SearchProgress, check_search, run_search
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName
from vitprune.model.vit import ViT


def acdc(
    model: ViT,
    images: Tensor,
    *,
    tau: float,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    granularity: Granularity = "edge",
    metric: MetricName = "kl",
    labels: Tensor | None = None,
    batch_size: int | None = None,
    candidates: int = 1,
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Circuit:
    """Find the circuit of ``model`` on normalised ``images (b, c, height, width)``.

    ``graph`` defaults to ``Graph.of(model)`` and ``ablation`` to the mean over ``images``; ``tau`` is in units of the
    metric (nats for KL). ``labels (b,)`` serve the other metrics and default to the model's own answers. ``batch_size``
    bounds the images whose activations are held at once: with fewer than there are images the search needs less memory
    and more time. ``candidates`` are evaluated together, which pays on an accelerator and changes no decision. With
    ``journal``, decisions are written to that file, and a search that was interrupted goes on from there. The model
    must be in evaluation mode.

    Raises CircuitError for a τ below zero, no images, images of another shape, a graph of another model, an unknown
    granularity or metric, or logits that are not finite.
    """
    check_search(tau, granularity, metric, candidates)
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    search = run_search(
        model,
        images,
        graph,
        ablation,
        method="acdc",
        tau=tau,
        granularity=granularity,
        metric=metric,
        labels=labels,
        batch_size=batch_size,
        candidates=candidates,
        on_progress=on_progress,
        journal=journal,
    )
    return circuit_of(search, f"acdc-{granularity}", metric)


def circuit_of(
    search: Search, method: str, metric: MetricName, keep_mask: Tensor | None = None, scores: Tensor | None = None
) -> Circuit:
    """The result of a search that has come to its end; its KL is computed from scratch.

    ``keep_mask`` and ``scores`` default to those of the search.
    """
    evaluator = search.evaluator
    circuit = Circuit(
        graph=evaluator.graph,
        keep_mask=evaluator.keep_mask if keep_mask is None else keep_mask,
        ablation=evaluator.ablation,
        kl=math.nan,
        method=method,
        metric=metric,
        tau=search.tau,
        scores=scores_of_trace(evaluator.graph, search.trace) if scores is None else scores,
        trace=tuple(search.trace),
    )
    return circuit.measured(evaluator.model, evaluator.images, evaluator.full_logits)
