"""A search from its options to its end: the evaluator it works on, and the journal it goes on from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from vitprune.circuit.circuit import Decision
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.engine.journal import ForeignDecision, Journal, search_key
from vitprune.circuit.engine.phase import SearchProgress
from vitprune.circuit.engine.search import Search, Settlement
from vitprune.circuit.problem import DiscoveryOptions, Problem

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """What is left of a search: the mask ``(receivers, senders)`` it keeps, its decisions, the full model's logits."""

    keep_mask: Tensor
    trace: tuple[Decision, ...]
    full_logits: Tensor


def run_search(
    problem: Problem,
    options: DiscoveryOptions,
    *,
    method: str,
    settlement: Settlement | None = None,
    key_options: tuple[object, ...] = (),
    on_progress: Callable[[SearchProgress], None] | None = None,
    journal: Path | None = None,
) -> Searched:
    """Search from the full graph, over nodes, edges, or nodes and then edges; what is left of it is returned.

    ``options`` have a tau, a metric and one direction. A ``settlement`` is applied before the search over edges. With
    ``journal``, decisions are written to that file and an interrupted search goes on from there, if it had the same
    ``method`` and options; ``key_options`` are those by which a settlement came about.

    Raises CircuitError as ``IncrementalEvaluator`` does, and if the journal cannot be used.
    """
    assert options.tau is not None
    search_options = (
        options.tau,
        options.granularity,
        options.direction,
        options.order,
        options.metric,
        options.batch_size,
        options.candidates,
    )
    key = search_key(problem, (method, *search_options, *key_options)) if journal else ""
    try:
        with Journal(problem.graph, journal, key) as opened:
            return _searched(problem, options, settlement, opened, on_progress)
    except ForeignDecision as foreign:
        logger.info("%s: %s; the search starts afresh", journal, foreign)
    with Journal(problem.graph, journal, key, is_afresh=True) as opened:
        return _searched(problem, options, settlement, opened, on_progress)


def _searched(
    problem: Problem,
    options: DiscoveryOptions,
    settlement: Settlement | None,
    journal: Journal,
    on_progress: Callable[[SearchProgress], None] | None,
) -> Searched:
    """Search, taking the decisions that the journal knows."""
    assert options.tau is not None
    search = Search(evaluator_of(problem, options), options, journal, on_progress)
    search.run(settlement)
    evaluator = search.evaluator
    return Searched(keep_mask=evaluator.keep_mask, trace=tuple(search.trace), full_logits=evaluator.full_logits)


def evaluator_of(
    problem: Problem, options: DiscoveryOptions, *, samples: Tensor | None = None, keep_mask: Tensor | None = None
) -> IncrementalEvaluator:
    """The evaluator of a circuit in one direction, by default of the full graph.

    ``samples (samples, b)`` are how often each image counts in each sample.
    """
    assert options.metric is not None
    return IncrementalEvaluator(
        problem.model,
        problem.images,
        problem.graph,
        problem.graph.all_edges if keep_mask is None else keep_mask,
        problem.ablation,
        metric=options.metric,
        labels=problem.labels,
        rivals=problem.rivals,
        batch_size=options.batch_size,
        candidates=options.candidates,
        samples=samples,
        is_denoising=options.direction == "denoising",
    )
