"""Attribution first, ACDC for the edges that it leaves unsettled.

EAP-IG predicts what the removal of each edge costs. Edges with an absolute score below ``low`` · τ are removed and
those above ``high`` · τ are kept, both without a test; ACDC's exact test decides on those in between, against the
circuit as it then stands. Over nodes the search is ACDC's: there are few of them. The circuit is closed.
"""

from __future__ import annotations

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.engine.search import Settlement
from vitprune.circuit.methods import acdc
from vitprune.circuit.methods.eap_ig import EAP_IG
from vitprune.circuit.methods.method import Searching, Watch
from vitprune.circuit.problem import DiscoveryOptions, Problem


def search(problem: Problem, options: DiscoveryOptions, watch: Watch) -> Circuit:
    """The circuit that attribution and ACDC keep together."""
    assert options.tau is not None
    scores = EAP_IG.scores(problem, options)
    magnitude = scores.abs()
    settlement = Settlement(
        remove=magnitude < options.low * options.tau, keep=magnitude > options.high * options.tau, scores=scores
    )
    key_options = (options.ig_steps, options.low, options.high)
    return acdc.search(problem, options, watch, method="hybrid", settlement=settlement, key_options=key_options)


HYBRID = Searching(name="hybrid", search=search, unsuitable=EAP_IG.unsuitable)
