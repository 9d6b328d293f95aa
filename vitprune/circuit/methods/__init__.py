"""The discovery methods, one file each; ``acdc.method`` in the params names one of them."""

from vitprune.circuit.methods.acdc import ACDC
from vitprune.circuit.methods.activation import ACTIVATION
from vitprune.circuit.methods.eap import EAP
from vitprune.circuit.methods.eap_ig import EAP_IG
from vitprune.circuit.methods.eap_ig_activations import EAP_IG_ACTIVATIONS
from vitprune.circuit.methods.edge_pruning import EDGE_PRUNING
from vitprune.circuit.methods.ensemble import ENSEMBLE
from vitprune.circuit.methods.hybrid import HYBRID
from vitprune.circuit.methods.method import Method, Ranking, Searching, Watch
from vitprune.circuit.methods.random import RANDOM
from vitprune.circuit.methods.relp import RELP
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.errors import CircuitError

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        ACDC,
        HYBRID,
        EAP,
        EAP_IG,
        EAP_IG_ACTIVATIONS,
        RELP,
        EDGE_PRUNING,
        ENSEMBLE,
        ACTIVATION,
        RANDOM,
    )
}
"""Every method by its name."""

__all__ = [
    "METHODS",
    "DiscoveryOptions",
    "Method",
    "Problem",
    "Ranking",
    "Searching",
    "Watch",
    "check_acdc_options",
    "discovery_options",
    "method_named",
]


def method_named(name: str, section: str = "") -> Method:
    """The method of that name; CircuitError if there is none."""
    if name not in METHODS:
        raise CircuitError(f"{section}method must be one of {', '.join(METHODS)}, got {name!r}")
    return METHODS[name]


def discovery_options(params: AcdcOptions) -> DiscoveryOptions:
    """The options of a method by the params; ``num_edges`` goes before ``tau``."""
    return DiscoveryOptions(
        tau=params.tau if params.num_edges is None else None,
        num_edges=params.num_edges,
        metric=params.metric,
        granularity=params.granularity,
        direction=params.direction,
        ig_steps=params.ig_steps,
        batch_size=params.batch_size,
        candidates=params.candidates or 1,
        seed=params.seed,
    )


def check_acdc_options(params: AcdcOptions) -> None:
    """ValueError, with the full names of the keys, for params that do not suit their method."""
    try:
        method_named(params.method, "acdc.").check(discovery_options(params), "acdc.")
    except CircuitError as error:
        raise ValueError(str(error)) from None
