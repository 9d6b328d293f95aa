"""Automated Circuit Discovery (Conmy et al. 2023, arXiv 2304.14997), over edges, over nodes, or over both.

Receivers are visited in reverse topological order, and the senders of each latest first. An edge whose removal makes
KL(full ‖ circuit) grow by less than τ is left out for good. The growth is signed and is taken against the circuit as it
stands. A receiver from which no path leads to the logits loses its edges without a test.

Over nodes the rule is the same, with all edges out of one head or neuron group as the candidate: dense hardware gets
faster only when a whole node goes. ``node-edge`` searches nodes first and then the edges between those that stay,
always against the full model and with the same τ.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit, scores_of_trace
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import Journal
from vitprune.circuit.engine.search import Search, SearchProgress
from vitprune.circuit.graph import Graph
from vitprune.circuit.metrics import MetricName, metric_named
from vitprune.distributed import world
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT

Granularity = Literal["edge", "node", "node-edge"]


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
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Circuit:
    """Find the circuit of ``model`` on normalised ``images (b, c, height, width)``.

    ``graph`` defaults to ``Graph.of(model)`` and ``ablation`` to the mean over ``images``; ``tau`` is in units of the
    metric (nats for KL). ``labels (b,)`` serve the other metrics and default to the model's own answers. ``batch_size``
    bounds the images whose activations are held at once: with fewer than there are images the search needs less memory
    and more time, with a multiple of them it evaluates several candidates together, which pays on an accelerator. With
    ``journal``, decisions are written to that file, and a search that was interrupted goes on from there. The model
    must be in evaluation mode.

    Raises CircuitError for a τ below zero, no images, images of another shape, a graph of another model, an unknown
    granularity or metric, or logits that are not finite.
    """
    check_search(tau, granularity, metric)
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
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
    options = ("acdc", tau, granularity, metric, batch_size)
    written = Journal(journal, search_key(model, images, labels, graph, ablation, options)) if journal else None
    search = Search(evaluator, tau, on_progress=on_progress, journal=written)
    with closing(written) if written else nullcontext():
        if granularity != "edge":
            search.over_nodes()
        if granularity != "node":
            search.over_edges()
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


def check_search(tau: float, granularity: str, metric: str) -> None:
    """CircuitError for options that no search can have."""
    if not (math.isfinite(tau) and tau >= 0):
        raise CircuitError(f"tau must be a finite number of at least 0, got {tau}")
    if granularity not in get_args(Granularity):
        raise CircuitError(f"granularity must be one of {', '.join(get_args(Granularity))}, got {granularity!r}")
    metric_named(metric)


def candidates_in(batch_size: int | None, images: int) -> int:
    """How many candidates are evaluated together."""
    return 1 if batch_size is None else max(1, batch_size // -(-images // world().size))


def search_key(
    model: ViT, images: Tensor, labels: Tensor | None, graph: Graph, ablation: Ablation, options: tuple[Any, ...]
) -> str:
    """A digest of everything that the decisions of a search depend on."""
    digest = hashlib.sha256(repr((graph, ablation.kind, ablation.std, ablation.seed, options)).encode())
    tensors = [
        *model.state_dict().values(),
        images,
        ablation.embed,
        *ablation.heads,
        *ablation.neurons,
        ablation.sources,
    ]
    for tensor in tensors if labels is None else [*tensors, labels]:
        digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
