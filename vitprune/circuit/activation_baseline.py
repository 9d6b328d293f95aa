"""A baseline without gradients: an edge matters as much as its removal moves what its receiver reads."""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import run_whole
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.levels import Levels
from vitprune.circuit.ranking import check_choice, circuit_of_scores
from vitprune.distributed import total, world
from vitprune.model.vit import ViT


def activation_scores(model: ViT, images: Tensor, graph: Graph, ablation: Ablation, batch_size: int = 64) -> Tensor:
    """For each edge the length of what its sender's removal changes, relative to that of the receiver's read.

    Mean over tokens (the class token alone for receivers that read no other) and images, ``(receivers, senders)``.
    """
    levels = Levels(model, graph)
    scores = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    share = world().share_of(len(images))
    for first in range(share.start, share.stop, batch_size):
        batch = images[first : min(first + batch_size, share.stop)]
        clean = levels.by_level(run_whole(model, batch)[1])
        ablated = levels.by_level(ablation.activations(model, batch, first))
        writes = levels.send_all(clean)
        lengths = levels.send_all([new - old for new, old in zip(ablated, clean, strict=True)]).norm(dim=-1)
        for level, rows in enumerate(graph.level_receivers):
            if rows:
                earlier = graph.level_senders[level].start
                stream = writes[:earlier].sum(dim=0) + levels.biases[level]
                tokens = levels.reads_tokens(level, "")
                relative = lengths[:earlier, :, :tokens] / stream.norm(dim=-1)[:, :tokens].clamp_min(1e-12)
                scores[rows.start : rows.stop, :earlier] += relative.mean(dim=-1).sum(dim=-1).cpu().double()
    return total(scores) / len(images) * graph.all_edges


@torch.no_grad()
def activation(
    model: ViT,
    images: Tensor,
    *,
    graph: Graph | None = None,
    ablation: Ablation | None = None,
    threshold: float | None = None,
    num_edges: int | None = None,
    batch_size: int | None = None,
) -> Circuit:
    """The circuit of the edges whose removal moves their receiver's read most; closed.

    ``threshold`` is relative to the length of the read. Raises CircuitError for inputs that do not go together.
    """
    graph, ablation = check_call(model, images, graph, ablation, batch_size)
    check_choice(graph, threshold, num_edges)
    scores = activation_scores(model, images, graph, ablation, batch_size or 64)
    return circuit_of_scores(
        model,
        images,
        graph,
        ablation,
        scores,
        method="activation",
        metric="kl",
        threshold=threshold,
        num_edges=num_edges,
    )
