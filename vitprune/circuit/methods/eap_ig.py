"""Edge attribution with integrated gradients over inputs (EAP-IG; Hanna et al. 2024, arXiv 2403.17806).

The gradients are averaged along the straight line from the ablated embedding to that of the image, at the middles of
``ig_steps`` parts of equal length. Each point takes a forward and a backward pass. Away from the full model the
gradient of KL is not zero, so that every differentiable metric serves.
"""

from __future__ import annotations

from torch import Tensor

from vitprune.circuit.attribution import attribute, middles
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """Attribution of every edge, ``(receivers, senders)``, in units of the metric."""
    return attribute(problem, options, points=middles(options.ig_steps))


EAP_IG = Ranking(
    name="eap-ig",
    scores=scores,
    unsuitable={"accuracy": "it has no gradient; set {section}metric to kl, cross-entropy or logit-difference"},
)
