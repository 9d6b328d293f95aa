"""Edge attribution patching (Syed et al. 2023, arXiv 2310.10348): all edges from two forward passes and a backward."""

from __future__ import annotations

from torch import Tensor

from vitprune.circuit.attribution import attribute
from vitprune.circuit.methods.method import Ranking
from vitprune.circuit.problem import DiscoveryOptions, Problem


def scores(problem: Problem, options: DiscoveryOptions) -> Tensor:
    """Attribution of every edge, ``(receivers, senders)``, in units of the metric."""
    return attribute(problem, options, points=(1.0,))


EAP = Ranking(
    name="eap",
    scores=scores,
    metric="cross-entropy",
    unsuitable={
        "kl": "KL(full ‖ circuit) is least at the full model, so that its gradient there is zero; set {section}metric "
        "to cross-entropy or logit-difference, or use eap-ig",
        "accuracy": "it has no gradient; set {section}metric to cross-entropy or logit-difference",
    },
)
