"""The exact forward pass of a circuit: every receiver reads a stream of its own.

Legend of dimensions: b images, t tokens, d width of the stream.
"""

from __future__ import annotations

import torch
from einops import einsum
from torch import Tensor

from vitprune.circuit.graph import Graph
from vitprune.circuit.stages import Stages
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT


def read_streams(
    graph: Graph, stages: Stages, stage: int, keep_mask: Tensor, writes: Tensor, removed_writes: Tensor
) -> list[Tensor]:
    """What each receiver of a stage reads, ``(b, t, d)`` each.

    ``writes (senders, b, t, d)`` need only hold earlier stages. Receivers that keep the same senders share one tensor.
    """
    rows = graph.stage_receivers[stage]
    earlier = graph.stage_senders[stage].start
    keep = keep_mask[rows.start : rows.stop, :earlier]
    patterns, which = torch.unique(keep, dim=0, return_inverse=True)
    # Sums over few senders, so that a kept sender and its removed value never cancel.
    weight = patterns.to(writes)
    current = einsum(weight, writes[:earlier], "r s, s b t d -> r b t d")
    replaced = einsum(1 - weight, removed_writes[:earlier], "r s, s t d -> r t d") + stages.biases[stage]
    streams = current + replaced[:, None]
    return [streams[pattern] for pattern in which.tolist()]


@torch.no_grad()
def run_masked(
    model: ViT, images: Tensor, graph: Graph, keep_mask: Tensor, removed_writes: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Run the circuit that keeps the edges where ``keep_mask (receivers, senders)`` is True.

    Returns the logits ``(b, classes)``, what every sender writes ``(senders, b, t, d)``, and what every receiver reads.
    """
    check_images(model, images)
    stages = Stages(model, graph)
    embedding = model.embed(images)
    writes = embedding.new_empty(len(graph.senders), *embedding.shape)
    writes[0] = embedding
    reads: list[Tensor] = []
    for stage in range(1, graph.last_stage + 1):
        if graph.stage_receivers[stage]:
            streams = read_streams(graph, stages, stage, keep_mask, writes, removed_writes)
            reads += streams
            if stage < graph.last_stage:
                columns = graph.stage_senders[stage]
                writes[columns.start : columns.stop] = stages.write(stage, streams)
    return model.classify(reads[-1]), writes, reads


def check_images(model: ViT, images: Tensor) -> None:
    """CircuitError unless ``images`` is a batch that ``model`` can take."""
    config = model.config
    expected = (config.in_channels, config.image_size, config.image_size)
    if images.ndim != 4 or tuple(images.shape[1:]) != expected:
        raise CircuitError(
            f"the model takes images (batch, {', '.join(map(str, expected))}), got {tuple(images.shape)}"
        )
    if len(images) == 0:
        raise CircuitError("there are no images to run the circuit on")
