"""Relevance patching (RelP; arXiv 2508.21258): attribution by layer-wise relevance in place of gradients.

Backward, a norm's factor, an attention pattern, and the ratio of GELU's output to its input count as constants. What is
left is linear, so that saturated neurons and sharp patterns hide nothing. Queries and keys act through patterns alone:
edges into them have the score 0, if heads are split.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.activations import check_finite, run_whole
from vitprune.circuit.levels import Levels
from vitprune.circuit.methods.eap import EAP
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.metrics import metric_named
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.circuit.soft import Rules, constant, run_soft
from vitprune.core.compute.distributed import total, world

BATCH_SIZE = 16
"""Images at once by default; the scores do not depend on it."""
RULES = Rules(factor=constant, pattern=constant, ratio=constant)


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """Relevance of every edge, ``(receivers, senders)``, in units of the metric."""
    return relevance(problem, options, RULES)


def relevance(problem: Problem, options: DiscoveryOptions, rules: Rules) -> Tensor:
    """(Ablated − real output of the sender) · gradient by what the receiver reads, by these rules.

    Summed over tokens, mean over images; with exact rules that is ``eap``.
    """
    assert options.metric is not None
    model, images, graph = problem.model, problem.images, problem.graph
    levels, metric = Levels(model, graph), metric_named(options.metric)
    sums = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    share, size = world().share_of(len(images)), options.batch_size or BATCH_SIZE
    everything = graph.all_edges.to(images)
    for first in range(share.start, share.stop, size):
        last = min(first + size, share.stop)
        logits, activations = run_whole(model, images[first:last])
        check_finite(logits)
        clean = levels.by_level(activations)
        ablated = levels.by_level(problem.ablation.activations(model, images[first:last], first))
        removed = levels.send_all(ablated)
        changes = levels.send_all([new - old for new, old in zip(ablated, clean, strict=True)])
        reads: dict[int, Tensor] = {}
        with torch.enable_grad():
            embedding = clean[0][0].clone().requires_grad_()
            outcome = run_soft(levels, embedding, removed, everything, rules=rules, reads=reads)
            gradients = torch.autograd.grad(
                metric(outcome, problem.reference(logits, first)).sum(), list(reads.values())
            )
        for level, gradient in zip(reads, gradients, strict=True):
            rows, earlier = graph.level_receivers[level], graph.level_senders[level].start
            tokens = gradient.shape[2]
            found = torch.einsum("r b t d, s b t d -> r s", gradient, changes[:earlier, :, :tokens])
            sums[rows.start : rows.stop, :earlier] += found.cpu().double()
    return total(sums) / len(images) * graph.all_edges


RELP = Ranking(name="relp", scores=scores, metric="logit-difference", unsuitable=EAP.unsuitable)
