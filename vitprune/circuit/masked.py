"""The exact forward pass of a circuit: every receiver reads a stream of its own.

Legend of dimensions: b images, t tokens, d width of the stream, r receivers, s senders.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Graph
from vitprune.circuit.levels import Levels, centred
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError


def read_streams(
    levels: Levels, level: int, keep: Tensor, writes: Tensor, removed_writes: Tensor, tokens: int | None = None
) -> Tensor:
    """What receivers of a level read, ``(r, b, t, d)``; ``keep (r, s)`` is True for the senders that they keep.

    Only the earlier levels of ``writes (s, b, t, d)`` and ``removed_writes (s, b or 1, t, d)`` are used. The first
    ``tokens`` are read, by default as many as the level needs.
    """
    earlier = levels.graph.level_senders[level].start
    tokens = tokens or levels.reads_tokens(level, "")
    weight = keep[:, :earlier].to(writes)
    # Two sums rather than a sum of differences: a kept sender must not be added to and subtracted from its ablation.
    current = _mix(weight, writes[:earlier, :, :tokens])
    return current + _mix(1 - weight, removed_writes[:earlier, :, :tokens]) + levels.biases[level][:tokens]


def _mix(weight: Tensor, writes: Tensor) -> Tensor:
    """Weighted sums over the senders, ``(r, s), (s, b, t, d) -> (r, b, t, d)``."""
    return (weight @ rearrange(writes, "s b t d -> s (b t d)")).view(-1, *writes.shape[1:])


@torch.no_grad()
def run_masked(model: ViT, images: Tensor, graph: Graph, keep_mask: Tensor, ablation: Ablation, first: int) -> Tensor:
    """Logits ``(b, classes)`` of the circuit that keeps the edges where ``keep_mask (receivers, senders)`` is True.

    ``first`` is the index of the first image, for ablations that differ from image to image.
    """
    check_images(model, images)
    levels = Levels(model, graph)
    removed_writes = levels.send_all(levels.by_level(ablation.activations(model, images, first)))
    embedding = centred(model.embed(images))
    writes = embedding.new_empty(len(graph.senders), *embedding.shape)
    writes[0] = embedding
    for level, rows in enumerate(graph.level_receivers[: graph.last_level]):
        if rows:
            columns = graph.level_senders[level]
            # Receivers that keep the same senders share one read.
            patterns, which = torch.unique(keep_mask[rows.start : rows.stop], dim=0, return_inverse=True)
            streams = read_streams(levels, level, patterns, writes, removed_writes)
            sent = levels.send(level, levels.activate(level, levels.project(level, streams, which)))
            writes[columns.start : columns.stop, :, : sent.shape[2]] = sent
    last = read_streams(levels, graph.last_level, keep_mask[-1:], writes, removed_writes)
    return model.classify(last[0])


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
