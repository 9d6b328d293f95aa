"""The recipe behind ``vitprune stability``: would other images have led to the same circuit?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.discovery import problem_by_params
from vitprune.circuit.methods import Searching, discovery_options, method_named
from vitprune.circuit.methods.acdc import ACDC, directions_of
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.sample import question_sample, validation_sample
from vitprune.circuit.stability import (
    LEVEL,
    Agreement,
    Stability,
    agreement,
    bootstrap,
    mean_over_pairs,
    verdict,
)
from vitprune.core.model import SavedModel
from vitprune.core.packed import PackedData
from vitprune.errors import CircuitError

AGREEMENT_IMAGES = 256
"""Validation images on which the predictions of the samples' circuits are compared."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundStability:
    """The circuits of bootstrap samples, how alike their predictions are, and the metrics of both."""

    stability: Stability
    agreement: Agreement
    metrics: dict[str, Any]

    def sentence(self) -> str:
        """What was found, in a sentence."""
        edges, jaccard = self.metrics["edges"], self.metrics["jaccard"]
        return (
            f"on {self.metrics['samples']} bootstrap samples of the images, {edges['in']} edges are in the circuit, "
            f"{edges['undecided']} are undecided; of the edges that one of two circuits keeps, both keep "
            f"{100 * jaccard['mean']:.0f} % ({100 * jaccard['low']:.0f} to {100 * jaccard['high']:.0f} %), and they "
            f"give the same class to {100 * self.metrics['val']['same_class']['mean']:.1f} % of the validation images"
        )


def find_stability(
    packed: PackedData,
    saved: SavedModel,
    circuit: Circuit,
    options: AcdcOptions,
    samples: int,
    chosen: np.ndarray | None = None,
    on_sample: Callable[[int, int], None] | None = None,
) -> FoundStability:
    """Repeat the search that found ``circuit`` in ``saved``, whose neurons are sorted, on bootstrap samples.

    ``chosen`` are the training images to search on, if ``acdc.images`` names them. Raises CircuitError as the method
    does, and if the circuit was found by other options.
    """
    _check_found_by(circuit, options)
    device = next(saved.model.parameters()).device
    sample = question_sample(packed, saved.preprocessing, options, device, chosen)
    problem = problem_by_params(options, saved.model, sample, circuit.ablation)
    found = bootstrap(
        problem,
        options.method,
        discovery_options(options),
        samples=samples,
        seed=options.seed,
        on_sample=on_sample,
    )
    shown = validation_sample(packed, saved.preprocessing, options, device, AGREEMENT_IMAGES).images
    agreeing = agreement(found, circuit, saved.model, shown)
    return FoundStability(
        stability=found, agreement=agreeing, metrics=_metrics(found, agreeing, circuit.keep_mask, options, len(shown))
    )


def _check_found_by(circuit: Circuit, options: AcdcOptions) -> None:
    """CircuitError unless the circuit was found by these options, as far as it says how it was found."""
    wanted, method = discovery_options(options), method_named(options.method)
    is_search = isinstance(method, Searching)
    found = {
        "method": (circuit.method, f"{method.name}-{options.granularity}" if is_search else method.name),
        "tau": (circuit.tau, wanted.tau),
        "metric": (circuit.metric, method.with_metric(wanted).metric),
        "split_qkv": (circuit.graph.split_qkv, options.split_qkv),
        "mlp_groups": (circuit.graph.mlp_groups, options.mlp_groups),
        "ablation": (circuit.ablation.kind, options.ablation),
    }
    if method is ACDC and circuit.trace:
        directions = sorted({decision.direction for decision in circuit.trace})
        found["direction"] = (" and ".join(directions), " and ".join(sorted(directions_of(wanted))))
    for name, (mine, asked) in found.items():
        if mine != asked:
            raise CircuitError(
                f"the circuit was found with acdc.{name} {mine}, but params say {asked}: use the params it was found "
                "with, or run the acdc stage again"
            )


def _metrics(
    found: Stability, agreeing: Agreement, keep_mask: Tensor, options: AcdcOptions, images: int
) -> dict[str, Any]:
    def over_pairs(pairs: Tensor) -> dict[str, float]:
        return mean_over_pairs(pairs, options.seed).as_metrics()

    frequency, edges = found.frequency, found.graph.all_edges
    sizes = found.masks.flatten(1).sum(dim=1)
    return {
        "samples": len(found.masks),
        "level": LEVEL,
        "jaccard": over_pairs(found.jaccard),
        "jaccard_with_circuit": round(found.jaccard_with(keep_mask), 4),
        "edges": _counted(frequency[edges].tolist()),
        "edges_of_the_circuit": _counted(frequency[keep_mask].tolist()),
        "nodes": _counted(list(found.node_frequency.values())),
        "kept_edges": {"fewest": int(sizes.min()), "most": int(sizes.max())},
        "val": {
            "images": images,
            "kl": over_pairs(agreeing.kl),
            "same_class": over_pairs(agreeing.same_class),
        },
    }


def _counted(shares: list[float]) -> dict[str, int]:
    counts = Counter(verdict(share) for share in shares)
    return {name: counts[name] for name in ("in", "undecided", "out")}
