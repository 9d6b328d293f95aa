"""Learned masks (Edge Pruning; Bhaskar et al. 2024, arXiv 2406.16778): gates on all edges, trained together.

Every edge has a hard-concrete gate (Louizos et al. 2018, arXiv 1712.01312) from 0, ablated, to 1, kept. Adam lowers the
metric of the gated circuit while a Lagrangian pulls the expected share of open gates towards its target, which falls
from everything to ``num_edges``, or to ``SHARE`` of the edges. Gates start by the ranking of ``eap-ig``: the best
``num_edges`` open, the others half open. The score of an edge is the chance that its gate is open.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from vitprune.circuit.activations import check_finite, run_whole
from vitprune.circuit.graph import Graph
from vitprune.circuit.levels import Levels
from vitprune.circuit.methods.eap_ig import EAP_IG
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.metrics import metric_named
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.circuit.ranking import top_edges
from vitprune.circuit.soft import run_soft
from vitprune.core.compute.distributed import from_main

STEPS = 300
LEARNING_RATE = 0.1
BATCH_SIZE = 32
SHARE = 0.05
"""The target, of all edges, if ``num_edges`` is not given."""
OPEN = 3.0
"""Logit of the gates that start open; the others start at 0."""
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""Of the hard-concrete distribution: a stretched, clipped sigmoid of a noisy logit."""


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """The chance that each edge's gate is open, ``(receivers, senders)``."""
    ranking = EAP_IG.scores(problem, options)
    # Ranks must not drift apart, so that one of them learns for all.
    return from_main(lambda: _learn(problem, options, ranking))


def _learn(problem: Problem, options: DiscoveryOptions, ranking: Tensor) -> Tensor:
    assert options.metric is not None
    model, images, graph = problem.model, problem.images, problem.graph
    levels, metric, edges = Levels(model, graph), metric_named(options.metric), graph.all_edges
    count = int(edges.sum())
    target = (options.num_edges or math.ceil(SHARE * count)) / count
    generator = torch.Generator().manual_seed(options.seed)
    logits = OPEN * top_edges(graph, ranking, round(target * count)).double()
    logits.requires_grad_()
    multipliers = torch.zeros(2, dtype=logits.dtype, requires_grad=True)
    groups: list[dict[str, Any]] = [{"params": [logits]}, {"params": [multipliers], "maximize": True}]
    optimiser = torch.optim.Adam(groups, lr=LEARNING_RATE)
    size = min(options.batch_size or BATCH_SIZE, len(images))
    for step in range(STEPS):
        chosen = torch.randperm(len(images), generator=generator)[:size]
        part = problem.on(chosen.tolist())
        full, activations = run_whole(model, part.images)
        check_finite(full)
        removed = levels.send_all(levels.by_level(part.ablation.activations(model, part.images, 0)))
        reference = part.reference(full)
        with torch.enable_grad():
            keep = _gates(logits, generator, graph)
            outcome = run_soft(levels, levels.by_level(activations)[0][0], removed, keep.to(images), rules=None)
            excess = _open_chance(logits)[edges].mean() - (1 - (1 - target) * min(1, 2 * step / STEPS))
            penalty = multipliers[0] * excess + multipliers[1] * excess.square()
            loss = metric(outcome, reference).mean().cpu().to(logits) + penalty
            optimiser.zero_grad()
            loss.backward()
        optimiser.step()
    return _open_chance(logits.detach()) * edges


def _gates(logits: Tensor, generator: torch.Generator, graph: Graph) -> Tensor:
    noise = torch.rand(logits.shape, generator=generator, dtype=logits.dtype).clamp(1e-6, 1 - 1e-6)
    soft = ((noise.log() - (1 - noise).log() + logits) / TEMPERATURE).sigmoid()
    return (soft * (HIGH - LOW) + LOW).clamp(0, 1) * graph.all_edges


def _open_chance(logits: Tensor) -> Tensor:
    return (logits - TEMPERATURE * math.log(-LOW / HIGH)).sigmoid()


EDGE_PRUNING = Ranking(name="edge-pruning", scores=scores, is_quick=False, unsuitable=EAP_IG.unsuitable)
