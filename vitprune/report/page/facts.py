"""The sentences that stand first: what was removed, what that cost, and which head matters most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitprune.circuit import Circuit
from vitprune.circuit.heads import HeadView
from vitprune.core.model.vit import ViTConfig
from vitprune.evaluation.models import BASELINE, CIRCUIT, UPGRADED_BASELINE, UPGRADED_BASELINE_PRUNED

CARRIED = {
    "zero": "zero",
    "mean": "what it carries on average",
    "resample": "what it carries on another image",
    "noise": "what it carries on the same image with noise",
}
"""What a removed edge carries, by the kind of ablation."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A sentence or a few about each of these."""

    removed: str
    cost: str
    circuit: str
    head: str


def facts_of(
    pruned: ViTConfig,
    scores: Mapping[str, Any],
    timing: Mapping[str, Any],
    circuit: Circuit,
    heads: Sequence[HeadView],
) -> Facts:
    """The sentences, from the shape of the pruned model, the figures of the evaluation, the circuit, and all heads."""
    return Facts(
        removed=_removed(pruned), cost=_cost(scores, timing), circuit=_circuit(circuit, scores), head=_head(heads)
    )


def _removed(config: ViTConfig) -> str:
    layers = range(config.num_layers)
    heads, neurons = config.num_heads * len(layers), config.d_mlp * len(layers)
    gone = [
        f"the whole {name} of layer{'s' if len(where) > 1 else ''} {_listed(where)}"
        for name, kept in (("attention", config.layer_heads), ("MLP", config.layer_neurons))
        if (where := [str(layer) for layer in layers if not kept[layer]])
    ]
    return (
        f"Pruning removed {heads - sum(config.layer_heads)} of {heads} heads and "
        f"{neurons - sum(config.layer_neurons):,} of {neurons:,} neurons from the weights"
        f"{f', among them {_listed(gone)}' if gone else ''}."
    )


def _cost(scores: Mapping[str, Any], timing: Mapping[str, Any]) -> str:
    baseline, pruned, control = (
        scores[model.name] for model in (BASELINE, UPGRADED_BASELINE_PRUNED, UPGRADED_BASELINE)
    )
    speeds = [
        f"{latency['speedup']:.2f}× at batch {size.removeprefix('batch_')}"
        for size, latency in timing[UPGRADED_BASELINE_PRUNED.name].items()
    ]
    return (
        f"The result, “{UPGRADED_BASELINE_PRUNED.label}” in the table, has {_listed(speeds)} of the baseline’s speed. "
        f"It is right on {_percent(pruned)} of {scores['test_images']:,} test images. Its control, "
        f"“{UPGRADED_BASELINE.label}”, which was fine-tuned for as long without pruning, is right on "
        f"{_percent(control)}: {_compared(control, pruned, scores['test_images'])}. The baseline itself is right on "
        f"{_percent(baseline)}."
    )


def _percent(score: Mapping[str, float]) -> str:
    return f"{100 * score['accuracy']:.2f} %"


def _compared(score: Mapping[str, float], other: Mapping[str, float], images: int) -> str:
    """By how many points, and images, the first is right more often."""
    difference = round((score["accuracy"] - other["accuracy"]) * images)
    if not difference:
        return "as many"
    points = 100 * abs(score["accuracy"] - other["accuracy"])
    count = f"{abs(difference):,} image{'s' if abs(difference) > 1 else ''}"
    return f"{points:.2f} points {'more' if difference > 0 else 'less'}, or {count}"


def _circuit(circuit: Circuit, scores: Mapping[str, Any]) -> str:
    tau = "" if circuit.tau is None else f" with the threshold τ = {circuit.tau:g}"
    return (
        "The circuit is not the pruned model, but answers another question: by which edges do parts of the baseline "
        f"read each other in a way that matters? Of {len(circuit.graph.edges):,} edges, {circuit.method}{tau} keeps "
        f"{len(circuit.kept):,}. With these alone, the baseline is right on {_percent(scores[CIRCUIT])} of the test "
        f"images; every other edge then carries {CARRIED[circuit.ablation.kind]}."
    )


def _head(heads: Sequence[HeadView]) -> str:
    if not heads:
        return "The model has no heads."
    first, *others = sorted(heads, key=lambda view: -float(view.kl.mean()))
    then = f" The next is {others[0].name}: {_lost(others[0])}." if others else ""
    return (
        f"The head that matters most to the baseline is {first.name} (head {first.head} of layer {first.layer}): "
        f"without it, predictions move by {_lost(first)}.{then}"
    )


def _lost(view: HeadView) -> str:
    verb = "falls" if view.lost >= 0 else "rises"
    points = f"{100 * abs(view.lost):.1f} points"
    return f"a KL of {float(view.kl.mean()):.4f} nats on average, and accuracy {verb} by {points}"


def _listed(items: Sequence[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
