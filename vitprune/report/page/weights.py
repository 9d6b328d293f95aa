"""The model, what stands for removed edges, and a few images, as ``model.js`` computes with them.

Legend of dimensions: b images, t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.core.model.vit import NORM_EPS, ViT

MAX_BYTES = 3_000_000
"""A page with a larger model would be slow to load."""
MAX_ADDITIONS = 400_000_000
"""Of what edges carry, for one look at all images: more would take seconds."""


@torch.no_grad()
def model_data(model: ViT, circuit: Circuit, images: Tensor, indices: Sequence[int]) -> dict[str, Any] | None:
    """The model from its embedding on, as tensors in one block of base64; None if that or the work is too much.

    ``images (b, c, height, width)`` are normalised and have these ``indices`` among the test images. The page gets
    their embedding, so that it need not know how patches and positions are made. What stands for removed edges is
    ``(h, b or 1, t, k)`` for heads and ``(b or 1, t, n)`` for neurons.
    """
    config = model.config
    work = len(circuit.graph.edges) * config.num_tokens * config.d_model * len(images)
    if work > MAX_ADDITIONS:
        return None
    ablation = circuit.ablation.activations_at(model, images, indices)
    tensors: dict[str, Tensor] = {"embed": model.embed(images), "removed.embed": ablation.embed}
    for layer, block in enumerate(model.blocks):
        for name, part, removed in (
            ("attention", block.attention, ablation.heads[layer]),
            ("mlp", block.mlp, ablation.neurons[layer]),
        ):
            if part is not None:
                tensors |= {f"{layer}.{name}.{key}": value for key, value in part.named_parameters()}
                tensors[f"{layer}.{name}.removed"] = removed
    tensors |= {"norm.weight": model.norm.weight, "norm.bias": model.norm.bias}
    tensors |= {"classifier.weight": model.classifier.weight, "classifier.bias": model.classifier.bias}
    if sum(tensor.numel() for tensor in tensors.values()) * 4 > MAX_BYTES:
        return None
    index, start = {}, 0
    for name, tensor in tensors.items():
        index[name] = {"start": start, "shape": list(tensor.shape)}
        start += tensor.numel()
    block_of_floats = np.concatenate([tensor.detach().float().cpu().numpy().ravel() for tensor in tensors.values()])
    return {
        "tensors": index,
        "floats": base64.b64encode(block_of_floats.astype("<f4").tobytes()).decode(),
        "images": len(images),
        "tokens": config.num_tokens,
        "width": config.d_model,
        "headWidth": config.d_head,
        "heads": list(config.layer_heads),
        "neurons": list(config.layer_neurons),
        "groups": [
            [[part.start, part.stop] for part in circuit.graph.group_slices(layer)]
            for layer in range(config.num_layers)
        ],
        "split": circuit.graph.split_qkv,
        "pooling": config.pooling,
        "epsilon": NORM_EPS,
    }
