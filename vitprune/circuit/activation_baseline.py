"""A baseline without gradients: an edge matters as much as its removal moves what its receiver reads."""

from __future__ import annotations

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import run_whole
from vitprune.circuit.checks import check_call
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.graph import Graph
from vitprune.circuit.ranking import check_choice, circuit_of_scores
from vitprune.circuit.stages import Stages
from vitprune.distributed import total, world
from vitprune.model.vit import ViT


def activation_scores(model: ViT, images: Tensor, graph: Graph, ablation: Ablation, batch_size: int = 64) -> Tensor:
    """For each edge the length of what its sender's removal changes, relative to that of the receiver's read.

    Mean over tokens (the class token alone for receivers that read no other) and images, ``(receivers, senders)``.
    """
    stages = Stages(model, graph)
    scores = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    share = world().share_of(len(images))
    for first in range(share.start, share.stop, batch_size):
        batch = images[first : min(first + batch_size, share.stop)]
        clean = stages.by_stage(run_whole(model, batch)[1])
        ablated = stages.by_stage(ablation.activations(model, batch, first))
        writes = stages.send_all(clean)
        lengths = stages.send_all([new - old for new, old in zip(ablated, clean, strict=True)]).norm(dim=-1)
        for stage, rows in enumerate(graph.stage_receivers):
            if rows:
                earlier = graph.stage_senders[stage].start
                stream = writes[:earlier].sum(dim=0) + stages.biases[stage]
                tokens = stages.reads_tokens(stage, "")
                relative = lengths[:earlier, :, :tokens] / stream.norm(dim=-1)[:, :tokens].clamp_min(1e-12)
                scores[rows.start : rows.stop, :earlier] += relative.mean(dim=-1).sum(dim=-1).double().cpu()
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
