"""How well does each method find circuits that are known, because the models were built by hand?

    python benchmarks/planted_circuits.py

Half a minute on two cores; writes benchmarks/results/planted_circuits.md. The models are in benchmarks/planted.py.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

from planted import PLANTS, Planted
from sklearn.metrics import roc_auc_score
from torch import Tensor

from vitprune.circuit import Circuit, discover
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

RUNS: dict[str, dict[str, Any]] = {
    f"acdc, τ = {TAU:g}": {"method": "acdc", "tau": TAU},
    f"hybrid, τ = {TAU:g}": {"method": "hybrid", "tau": TAU},
    "eap, cross-entropy": {"method": "eap", "num_edges": 0},
    "eap, logit difference": {"method": "eap", "metric": "logit-difference", "num_edges": 0},
    "eap-ig, KL, 5 points": {"method": "eap-ig", "num_edges": 0},
    "eap-ig, KL, 50 points": {"method": "eap-ig", "ig_steps": 50, "num_edges": 0},
    "activation": {"method": "activation", "num_edges": 0},
}
"""Rankings score all edges, however many they keep."""


def auc(planted: Planted, scores: Tensor) -> float:
    """The chance that an edge of the circuit scores higher than another, ties counting half."""
    edges = planted.graph.all_edges
    truth = [edge in planted.true_edges for edge in planted.graph.edges]
    return float(roc_auc_score(truth, scores[edges].abs().numpy()))


def find(planted: Planted, **run: Any) -> Circuit:
    return discover(planted.model, planted.images, graph=planted.graph, ablation=planted.ablation, **run)


def row(name: str, values: list[float]) -> str:
    return f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"


def main() -> None:
    planted = [make() for make in PLANTS.values()]
    rows, searches = [], []
    for name, run in RUNS.items():
        values = []
        for each in planted:
            circuit = find(each, **run)
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
        statistics.mean(
            auc(each, find(each, method="random", seed=seed, num_edges=0).scores) for seed in range(RANDOM_SEEDS)
        )
        for each in planted
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
