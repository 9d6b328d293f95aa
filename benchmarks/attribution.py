"""Attribution against exact effects, and what EAP-IG costs on 15,355 edges.

    python benchmarks/attribution.py

The exact effect of an edge is the change of the metric when it alone is removed from the whole model. Four minutes on
two cores once the models are trained (discovery_models.py). Writes benchmarks/results/attribution.md and .png.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
from discovery_models import Trained, machine, trained
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit import METHODS, Ablation, Graph, discover
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.metrics import MetricName
from vitprune.circuit.problem import DiscoveryOptions, Problem

RESULTS = Path(__file__).parent / "results"
STEPS = 5
ROUNDS = 5
SMALLEST = 1e-7
"""Effects below this, in nats, are drawn at it: single precision does not resolve them."""


def exact_effects(given: Trained, images: Tensor, graph: Graph, ablation: Ablation, metric: MetricName) -> Tensor:
    """The change of the metric for each edge that is removed alone, in the order of ``graph.edges``."""
    evaluator = IncrementalEvaluator(given.model, images, graph, graph.all_edges, ablation, metric=metric)
    places = graph.all_edges.nonzero().tolist()
    return torch.cat([evaluator.damage_without([[place]])[0] - evaluator.damage for place in map(tuple, places)])


def compare(given: Trained) -> tuple[list[str], Figure]:
    images = given.images[:32]
    graph, ablation = Graph.of(given.model), Ablation.mean(given.model, given.images[:256])
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    lines = [
        f"6 layers, 4 heads, width 128, {len(graph.edges):,} edges, {len(images)} images, mean ablation:",
        "",
        "| method | metric | Spearman's ρ | of the magnitudes | of the tenth with the largest effects |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    methods = (("EAP", "eap", "cross-entropy"), (f"EAP-IG, {STEPS} points", "eap-ig", "kl"))
    for place, (name, method, metric) in enumerate(methods):
        circuit = discover(given.model, images, method, graph=graph, ablation=ablation, metric=metric, num_edges=0)
        scores = circuit.scores[graph.all_edges]
        effects = exact_effects(given, images, graph, ablation, metric)
        largest = effects.abs().topk(len(effects) // 10).indices
        signed, absolute, top = (
            float(spearmanr(*pair).statistic)
            for pair in ((scores, effects), (scores.abs(), effects.abs()), (scores[largest], effects[largest]))
        )
        lines.append(f"| {name} | {metric} | {signed:.3f} | {absolute:.3f} | {top:.3f} |")
        axes = figure.add_subplot(1, 2, place + 1)
        helps = effects < 0
        for chosen, label in ((~helps, "removal costs"), (helps, "removal helps")):
            x, y = (values[chosen].abs().clamp_min(SMALLEST) for values in (effects, scores))
            axes.scatter(x, y, s=6, alpha=0.5, linewidths=0, label=label)
        axes.plot([SMALLEST, 1], [SMALLEST, 1], color="grey", linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel=f"exact |Δ {metric}| of the edge alone, nats")
        axes.set(ylabel=f"|score| of {name}, nats", title=f"{name} ({metric}): ρ = {signed:.2f}")
        axes.legend(frameon=False)
    return lines, figure


def seconds_of(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def cost(given: Trained) -> list[str]:
    """EAP-IG on all edges of the large model against its points times three forwards and one backward."""
    model, images, labels = given.model, given.images[:64], given.labels[:64]
    graph = Graph.of(model)
    problem = Problem.of(model, images, graph=graph, ablation=Ablation.mean(model, given.images[:256]))

    @torch.no_grad()
    def forward() -> None:
        model(images)

    def forward_and_backward() -> None:
        F.cross_entropy(model(images), labels).backward()

    def attribution() -> None:
        METHODS["eap-ig"].scores(problem, DiscoveryOptions(metric="kl", ig_steps=STEPS))

    works = (forward, forward_and_backward, attribution)
    for work in works:
        work()
    rounds = [[seconds_of(work) for work in works] for _ in range(ROUNDS)]
    plain, both, found = (statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    allowed = [STEPS * (2 * one + two) for one, two, _ in rounds]
    ratio = statistics.median(three / bound for (_, _, three), bound in zip(rounds, allowed, strict=True))
    return [
        f"Cost on 12 layers, 8 heads, width 256, 65 tokens, {len(graph.edges):,} edges, {len(images)} images "
        f"(medians of {ROUNDS} rounds in turn):",
        "",
        "| | seconds |",
        "| --- | ---: |",
        f"| plain forward pass | {plain:.3f} |",
        f"| plain forward and backward pass | {both:.3f} |",
        f"| {STEPS} × (3 forward + 1 backward) | {STEPS * (2 * plain + both):.2f} |",
        f"| EAP-IG, {STEPS} points, all edges | {found:.2f} |",
        f"| **share of that bound** | **{ratio:.2f}** |",
    ]


def main() -> None:
    lines, figure = compare(trained("small"))
    lines = ["# Attribution", "", f"{machine()}.", "", *lines, "", "![scores and effects](attribution.png)", ""]
    lines += cost(trained("large"))
    figure.savefig(RESULTS / "attribution.png", dpi=120)
    (RESULTS / "attribution.md").write_text("\n".join(lines) + "\n")
    sys.stdout.write((RESULTS / "attribution.md").read_text())


if __name__ == "__main__":
    main()
