"""What a search removed, and what is left in the compact model, as numbers."""

from __future__ import annotations

from vitprune.circuit.circuit import Circuit
from vitprune.model.vit import ViT


def describe_removal(circuit: Circuit, small: ViT) -> dict[str, dict[str, int | float]]:
    """Edges of the circuit, and heads, neurons and sublayers of the compact model: in all, kept, and share removed.

    ``on_paths`` counts the kept edges that lie on a path from ``embed`` to ``logits``. The others carry what a node
    makes of ablated input, which is the same for every image.
    """
    graph, config = circuit.graph, small.config
    before = (*graph.layer_heads, *graph.layer_neurons)
    after = (*config.layer_heads, *config.layer_neurons)
    return {
        "edges": _counts(len(graph.edges), len(circuit.kept)) | {"on_paths": len(circuit.closed().kept)},
        "heads": _counts(sum(graph.layer_heads), sum(config.layer_heads)),
        "neurons": _counts(sum(graph.layer_neurons), sum(config.layer_neurons)),
        "sublayers": _counts(sum(count > 0 for count in before), sum(count > 0 for count in after)),
    }


def _counts(total: int, kept: int) -> dict[str, int | float]:
    return {"total": total, "kept": kept, "removed_share": round(1 - kept / total, 4) if total else 0.0}
