"""The baseline that every method must beat: edges in random order."""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """A number from 0 to 1 for every edge, ``(receivers, senders)``: ``tau`` is about the share that is left out."""
    generator = torch.Generator().manual_seed(options.seed)
    edges = problem.graph.all_edges
    return torch.rand(edges.shape, generator=generator, dtype=torch.float64) * edges


RANDOM = Ranking(name="random", scores=scores, metric=None)
