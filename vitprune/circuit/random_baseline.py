"""The baseline that every method must beat: edges in random order."""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.ranking import check_choice, circuit_of_scores
from vitprune.model.vit import ViT


def random_scores(graph: Graph, seed: int) -> Tensor:
    """A number from 0 to 1 for each edge, ``(receivers, senders)``."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(graph.all_edges.shape, generator=generator, dtype=torch.float64) * graph.all_edges


def random(
    model: ViT,
    images: Tensor,
    *,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    seed: int = 0,
    threshold: float | None = None,
    num_edges: int | None = None,
) -> Circuit:
    """A circuit of random edges; closed. ``threshold`` is about the share that is left out."""
    graph, ablation = check_call(model, images, graph, ablation, None)
    check_choice(graph, threshold, num_edges)
    return circuit_of_scores(
        model,
        images,
        graph,
        ablation,
        random_scores(graph, seed),
        method="random",
        metric="kl",
        threshold=threshold,
        num_edges=num_edges,
    )
