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

from torch import Tensor

from vitprune.circuit.circuit import Circuit, scores_of_trace
from vitprune.circuit.engine.search import Search, Settlement, run_search
from vitprune.circuit.methods.method import Searching, Watch
from vitprune.circuit.problem import DiscoveryOptions, Problem


def search_of(
    problem: Problem,
    options: DiscoveryOptions,
    watch: Watch,
    method: str,
    settlement: Settlement | None = None,
    key_options: tuple[object, ...] = (),
) -> Search:
    """A finished search by ``options``; ``settlement`` and ``key_options`` as for ``run_search``."""
    assert options.tau is not None
    assert options.metric is not None
    return run_search(
        problem.model,
        problem.images,
        problem.graph,
        problem.ablation,
        method=method,
        tau=options.tau,
        granularity=options.granularity,
        metric=options.metric,
        labels=problem.labels,
        batch_size=options.batch_size,
        candidates=options.candidates,
        settlement=settlement,
        key_options=key_options,
        on_progress=watch.on_progress,
        journal=watch.journal,
    )


def circuit_of(
    search: Search,
    options: DiscoveryOptions,
    method: str,
    keep_mask: Tensor | None = None,
    scores: Tensor | None = None,
) -> Circuit:
    """The circuit of a finished search; its KL is computed from scratch.

    ``keep_mask`` and ``scores`` default to those of the search.
    """
    evaluator = search.evaluator
    assert options.metric is not None
    circuit = Circuit(
        graph=evaluator.graph,
        keep_mask=evaluator.keep_mask if keep_mask is None else keep_mask,
        ablation=evaluator.ablation,
        kl=math.nan,
        method=f"{method}-{options.granularity}",
        metric=options.metric,
        tau=options.tau,
        scores=scores_of_trace(evaluator.graph, search.trace) if scores is None else scores,
        trace=tuple(search.trace),
    )
    return circuit.measured(evaluator.model, evaluator.images, evaluator.full_logits)


def search(problem: Problem, options: DiscoveryOptions, watch: Watch) -> Circuit:
    """The circuit that ACDC keeps."""
    return circuit_of(search_of(problem, options, watch, "acdc"), options, "acdc")


ACDC = Searching(name="acdc", search=search)
