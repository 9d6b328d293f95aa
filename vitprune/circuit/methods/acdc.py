"""Automated Circuit Discovery (Conmy et al. 2023, arXiv 2304.14997), over edges, over nodes, or over both.

Receivers are visited in reverse topological order, and the senders of each latest first. An edge whose removal makes
the metric, KL(full ‖ circuit) by default, grow by less than τ is left out for good. The growth is signed and is taken
against the circuit as it stands. A receiver from which no path leads to the logits loses its edges without a test.

Over nodes the rule is the same, with all edges out of one head or neuron group as the candidate: dense hardware gets
faster only when a whole node goes. ``node-edge`` searches nodes first and then the edges between those that stay,
always against the full model and with the same τ.

That is noising. Denoising is its mirror image: the model starts with the ablated embedding, and an edge is restored to
what its sender computes on the image; it is left out, and stays restored, if that lowers the metric by less than τ. Of
two inputs that are needed together, an AND, noising keeps both and denoising the one that it visits last; of two that
stand in for each other, an OR, it is the other way round; inputs that add up are kept by both (arXiv 2505.10039).
``both`` keeps what one of the two keeps. Then each edge is tested alone: taken from that circuit, and restored in the
ablated model. What the circuit needs without being restored by it is of an AND, the reverse is of an OR, both is of an
ADDER. So the order of visits decides nothing about that.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit, Gate, OneDirection, scores_of_trace
from vitprune.circuit.engine import samples as engine
from vitprune.circuit.engine.run import Searched, evaluator_of, run_search
from vitprune.circuit.engine.search import Settlement
from vitprune.circuit.graph import Edge, Graph
from vitprune.circuit.methods.method import OnSample, Searching, Watch
from vitprune.circuit.problem import DiscoveryOptions, Problem

GATES: dict[tuple[bool, bool], Gate] = {(True, False): "AND", (False, True): "OR", (True, True): "ADDER"}
"""What an edge is, by whether taking it away and restoring it, alone, moves the metric by τ."""


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
    found = [
        run_search(
            problem,
            replace(options, direction=direction),
            method=method,
            settlement=settlement,
            key_options=key_options,
            on_progress=watch.on_progress,
            journal=watch.journal and journal_of(watch.journal, direction),
        )
        for direction in directions_of(options)
    ]
    keep_mask = torch.stack([search.keep_mask for search in found]).any(dim=0)
    trace = tuple(decision for search in found for decision in search.trace)
    circuit = Circuit(
        graph=problem.graph,
        keep_mask=problem.graph.close(keep_mask) if settlement else keep_mask,
        ablation=problem.ablation,
        kl=math.nan,
        method=f"{method}-{options.granularity}",
        metric=options.metric,
        tau=options.tau,
        scores=settlement.scores if settlement else _scores(problem.graph, found),
        gates=gates_of(problem, options, keep_mask) if options.direction == "both" else None,
        trace=trace,
    )
    return circuit.measured(problem.model, problem.images, found[0].full_logits)


def search_samples(problem: Problem, options: DiscoveryOptions, samples: Tensor, on_sample: OnSample) -> None:
    """Call ``on_sample`` with the mask that ACDC keeps on each sample, as ``Method.run_on_samples`` says."""
    first: dict[int, Tensor] = {}
    *earlier, last = directions_of(options)
    for direction in earlier:
        engine.search_samples(problem, replace(options, direction=direction), samples, first.__setitem__)

    def take(number: int, keep_mask: Tensor) -> None:
        on_sample(number, keep_mask | first[number] if earlier else keep_mask)

    engine.search_samples(problem, replace(options, direction=last), samples, take)


def directions_of(options: DiscoveryOptions) -> tuple[OneDirection, ...]:
    """The directions in which to search, in order."""
    return ("noising", "denoising") if options.direction == "both" else (options.direction,)


def journal_of(journal: Path, direction: OneDirection) -> Path:
    """The file in which the search in a direction is kept."""
    return journal if direction == "noising" else journal.with_name(f"{journal.stem}-denoising{journal.suffix}")


def _scores(graph: Graph, found: list[Searched]) -> Tensor:
    """The change of the metric for each tested edge; the larger one if it was tested in both directions."""
    scores = torch.stack([scores_of_trace(graph, search.trace) for search in found])
    largest = scores.nan_to_num(-math.inf).amax(dim=0)
    return torch.where(scores.isnan().all(dim=0), math.nan, largest)


def gates_of(problem: Problem, options: DiscoveryOptions, keep_mask: Tensor) -> dict[Edge, Gate]:
    """What the edges of a circuit are, as far as they have an effect of at least τ alone."""
    tau = options.tau
    assert tau is not None
    taken = _changes_alone(problem, replace(options, direction="noising"), keep_mask, keep_mask)
    restored = _changes_alone(problem, replace(options, direction="denoising"), problem.graph.all_edges, keep_mask)
    effects = [(growth >= tau, -change >= tau) for growth, change in zip(taken, restored, strict=True)]
    edges = problem.graph.named(keep_mask)
    return {edge: GATES[effect] for edge, effect in zip(edges, effects, strict=True) if any(effect)}


def _changes_alone(problem: Problem, options: DiscoveryOptions, circuit: Tensor, edges: Tensor) -> list[float]:
    """By how much the metric of a circuit grows without each edge of the mask ``edges`` alone."""
    evaluator = evaluator_of(problem, options, keep_mask=circuit)
    return [
        float(evaluator.damage_without([[(row, column)]])[0] - evaluator.damage)
        for row, column in torch.nonzero(edges).tolist()
    ]


ACDC = Searching(name="acdc", directions=("noising", "denoising", "both"), search=search, search_samples=search_samples)
