"""Several rankings in one (after arXiv 2510.06811, which won the circuit track of MIB's shared task).

The rank of an edge is the mean of its ranks by ``eap-ig``, by ``eap-ig-activations``, and by masks that were learned
from a start at the former, so that no method's units count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.methods.eap_ig import EAP_IG
from vitprune.circuit.methods.eap_ig_activations import EAP_IG_ACTIVATIONS
from vitprune.circuit.methods.edge_pruning import EDGE_PRUNING
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem

MEMBERS = (EAP_IG, EAP_IG_ACTIVATIONS, EDGE_PRUNING)


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """The mean rank of every edge, ``(receivers, senders)``, from above 0 for the last to 1 for the first."""
    edges = problem.graph.all_edges
    ranks = torch.stack([_ranks(member.scores(problem, options)[edges].abs()) for member in MEMBERS])
    mean = torch.zeros(edges.shape, dtype=torch.float64)
    mean[edges] = ranks.mean(dim=0)
    return mean


def _ranks(values: Tensor) -> Tensor:
    """From 1 / n for the smallest value to 1 for the largest; equal values have the mean of their ranks."""
    _, which, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(dim=0).double()
    return ((last + last - counts + 1) / 2 / len(values))[which]


ENSEMBLE = Ranking(name="ensemble", scores=scores, is_quick=False, unsuitable=EAP_IG.unsuitable)
