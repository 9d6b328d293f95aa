"""Automated Circuit Discovery (Conmy et al. 2023, arXiv 2304.14997), over edges, over nodes, or over both.

Receivers are visited in reverse topological order, and the senders of each latest first. An edge whose removal makes
the metric, KL(full ‖ circuit) by default, grow by less than τ is left out for good. The growth is signed and is taken
against the circuit as it stands. A receiver from which no path leads to the logits loses its edges without a test.

Over nodes the rule is the same, with all edges out of one head or neuron group as the candidate: dense hardware gets
faster only when a whole node goes. ``node-edge`` searches nodes first and then the edges between those that stay,
always against the full model and with the same τ.
"""

from __future__ import annotations

import math

from vitprune.circuit.circuit import Circuit, scores_of_trace
from vitprune.circuit.engine.samples import search_samples
from vitprune.circuit.engine.search import Settlement, run_search
from vitprune.circuit.methods.method import Searching, Watch
from vitprune.circuit.problem import DiscoveryOptions, Problem


def search(
    problem: Problem,
    options: DiscoveryOptions,
    watch: Watch,
    *,
    method: str = "acdc",
    settlement: Settlement | None = None,
    key_options: tuple[object, ...] = (),
) -> Circuit:
    """The circuit that ACDC keeps; its KL is computed from scratch.

    With a ``settlement`` the circuit is closed and has the scores of the settlement instead of the tested changes.
    ``key_options`` are the options by which it was settled: a journal serves only searches with the same ones.
    """
    assert options.metric is not None
    found = run_search(
        problem,
        options,
        method=method,
        settlement=settlement,
        key_options=key_options,
        on_progress=watch.on_progress,
        journal=watch.journal,
    )
    keep_mask = found.evaluator.keep_mask
    circuit = Circuit(
        graph=problem.graph,
        keep_mask=problem.graph.close(keep_mask) if settlement else keep_mask,
        ablation=problem.ablation,
        kl=math.nan,
        method=f"{method}-{options.granularity}",
        metric=options.metric,
        tau=options.tau,
        scores=settlement.scores if settlement else scores_of_trace(problem.graph, found.trace),
        trace=tuple(found.trace),
    )
    return circuit.measured(problem.model, problem.images, found.evaluator.full_logits)


ACDC = Searching(name="acdc", search=search, search_samples=search_samples)
