"""Edge attribution with integrated gradients over activations (Hanna et al. 2024, arXiv 2403.17806).

As ``eap-ig``, but for the edges out of each level the way leads from the ablated to the real outputs of that level,
with everything before it as it is. Every level takes ``ig_steps`` passes of its own.
"""

from __future__ import annotations

from torch import Tensor

from vitprune.circuit.attribution import attribute, middles
from vitprune.circuit.methods.eap_ig import EAP_IG
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """Attribution of every edge, ``(receivers, senders)``, in units of the metric."""
    return attribute(problem, options, points=middles(options.ig_steps), between="activations")


EAP_IG_ACTIVATIONS = Ranking(name="eap-ig-activations", scores=scores, unsuitable=EAP_IG.unsuitable)
