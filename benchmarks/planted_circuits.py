"""How well does each method find circuits that are known, because the models were built by hand?

    python benchmarks/planted_circuits.py

Half a minute on two cores; writes benchmarks/results/planted_circuits.md. The models are in benchmarks/planted.py.
"""

import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from planted import PLANTS, Planted
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vitprune.circuit import Circuit, acdc, activation, eap, eap_ig, hybrid
from vitprune.circuit.random_baseline import random_scores
from vitprune.circuit.ranking import ranking_of

TARGET = Path(__file__).parent / "results" / "planted_circuits.md"
TAU = 1e-3
REMARKS = (
    "- or_paths: either path does, so the first one that ACDC tries is free and goes; what is left is then needed. "
    "ACDC keeps a smallest circuit, not every path that could take part. Along the way from the ablated to the real "
    "embedding both paths move the answer, so eap-ig scores both, and hybrid keeps both.",
    "- eap: in and_paths and or_paths the planted neurons are saturated on these images, so that the gradient at the "
    "full model is about zero; eap-ig sees the slope on the way.",
    "- activation: parts that do nothing for the answer were drawn to write more than the planted ones.",
)
RANDOM_SEEDS = 100

METHODS: dict[str, Callable[..., Circuit]] = {
    f"acdc, τ = {TAU:g}": partial(acdc, tau=TAU),
    f"hybrid, τ = {TAU:g}": partial(hybrid, tau=TAU),
    "eap, cross-entropy": partial(eap, num_edges=0),
    "eap, logit difference": partial(eap, metric="logit-difference", num_edges=0),
    "eap-ig, KL, 5 steps": partial(eap_ig, num_edges=0),
    "eap-ig, KL, 50 steps": partial(eap_ig, steps=50, num_edges=0),
    "activation": partial(activation, num_edges=0),
}
"""Attribution methods rank all edges, however many they keep."""


def auc(planted: Planted, scores: Tensor) -> float:
    """The chance that an edge of the circuit scores higher than another, ties counting half."""
    edges = planted.graph.all_edges
    truth = [edge in planted.true_edges for edge in planted.graph.edges]
    return float(roc_auc_score(truth, scores[edges].abs().numpy()))


def row(name: str, values: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def main() -> None:
    planted = [make() for make in PLANTS.values()]
    rows, searches = [], []
    for name, method in METHODS.items():
        values = []
        for each in planted:
            circuit = method(each.model, each.images, graph=each.graph, ablation=each.ablation)
            searched = bool(circuit.trace)
            values.append(auc(each, ranking_of(circuit) if searched else circuit.scores))
            if searched:
                kept = set(circuit.kept)
                searches.append(
                    f"| {each.name} | {circuit.method} | {len(each.true_edges)} | {len(kept & each.true_edges)} | "
                    f"{len(kept - each.true_edges)} | {circuit.kl:.1e} |"
                )
        rows.append(row(name, values))
    by_chance = [
        statistics.mean(auc(each, random_scores(each.graph, seed)) for seed in range(RANDOM_SEEDS)) for each in planted
    ]
    rows.append(row(f"random, mean of {RANDOM_SEEDS}", by_chance))
    names = " | ".join(each.name for each in planted)
    lines = [
        "# Planted circuits: area under the ROC curve",
        "",
        f"Edges of the circuit against all others; {len(planted[0].graph.edges)} edges in each model.",
        "",
        f"| | {names} |",
        "| --- |" + " ---: |" * len(planted),
        *rows,
        "",
        "The circuits that the searches keep:",
        "",
        "| model | method | true edges | of these kept | others kept | KL, nats |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        *searches,
        "",
        *REMARKS,
    ]
    TARGET.write_text("\n".join(lines) + "\n")
    sys.stdout.write(TARGET.read_text())


if __name__ == "__main__":
    main()
