"""A baseline without gradients: an edge matters as much as its removal changes the input of its receiver."""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.activations import run_whole
from vitprune.circuit.levels import Levels
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.core.compute.distributed import total, world

BATCH_SIZE = 64
"""Images at once by default; the scores do not depend on it."""


@torch.no_grad()
def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """For every edge the norm of the change of its receiver's input, relative to that of the input.

    Mean over images and tokens (the class token alone for receivers that read no other), ``(receivers, senders)``.
    """
    model, images, graph = problem.model, problem.images, problem.graph
    batch_size = options.batch_size or BATCH_SIZE
    levels = Levels(model, graph)
    sums = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    share = world().share_of(len(images))
    for first in range(share.start, share.stop, batch_size):
        batch = images[first : min(first + batch_size, share.stop)]
        clean = levels.by_level(run_whole(model, batch)[1])
        ablated = levels.by_level(problem.ablation.activations(model, batch, first))
        writes = levels.send_all(clean)
        lengths = levels.send_all([new - old for new, old in zip(ablated, clean, strict=True)]).norm(dim=-1)
        for level, rows in enumerate(graph.level_receivers):
            if rows:
                earlier = graph.level_senders[level].start
                stream = writes[:earlier].sum(dim=0) + levels.biases[level]
                tokens = levels.reads_tokens(level, "")
                relative = lengths[:earlier, :, :tokens] / stream.norm(dim=-1)[:, :tokens].clamp_min(1e-12)
                sums[rows.start : rows.stop, :earlier] += relative.mean(dim=-1).sum(dim=-1).cpu().double()
    return total(sums) / len(images) * graph.all_edges


ACTIVATION = Ranking(name="activation", scores=scores, metric=None)
