"""What a removed edge carries instead of its sender's output, frozen before any search.

Legend of dimensions: t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons of a layer.

The values are kept where they are smallest, before the output projections: they then serve heads, whole MLPs and any
grouping of neurons, and can be folded into a smaller model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum, rearrange
from torch import Tensor

from vitprune.circuit.graph import Graph
from vitprune.errors import CircuitError
from vitprune.model.vit import ViT

BATCH_SIZE = 256
"""Images that go through the model at once while means are taken; the result does not depend on it."""


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Replacement values: ``embed (t, d)``, for each layer ``heads (h, t, k)`` and ``neurons (t, n)``."""

    kind: Literal["zero", "mean"]
    embed: Tensor
    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    @classmethod
    def zero(cls, model: ViT) -> Ablation:
        """Removed edges carry nothing."""
        config, like = model.config, model.positions.detach()
        return cls(
            kind="zero",
            embed=torch.zeros_like(like),
            heads=tuple(like.new_zeros(heads, config.num_tokens, config.d_head) for heads in config.layer_heads),
            neurons=tuple(like.new_zeros(config.num_tokens, neurons) for neurons in config.layer_neurons),
        )

    @classmethod
    @torch.no_grad()
    def mean(cls, model: ViT, images: Tensor) -> Ablation:
        """Removed edges carry their sender's mean over ``images (b, c, height, width)``, token by token.

        Raises CircuitError if there are no images.
        """
        if len(images) == 0:
            raise CircuitError("mean ablation needs at least one reference image, got none")
        zero = cls.zero(model)
        # Summed in double precision where the device has it, so that the means do not depend on the batching.
        precise = torch.float32 if images.device.type == "mps" else torch.float64
        totals = [torch.zeros_like(part, dtype=precise) for part in (zero.embed, *zero.heads, *zero.neurons)]
        num_layers = model.config.num_layers
        for batch in images.split(BATCH_SIZE):
            for name, layer, values in _activations(model, batch):
                place = {"embed": 0, "heads": 1 + layer, "neurons": 1 + num_layers + layer}[name]
                totals[place] += values.sum(dim=0, dtype=precise)
        embed, *rest = ((total / len(images)).to(zero.embed.dtype) for total in totals)
        return cls(kind="mean", embed=embed, heads=tuple(rest[:num_layers]), neurons=tuple(rest[num_layers:]))

    @torch.no_grad()
    def writes(self, model: ViT, graph: Graph) -> Tensor:
        """What each sender of ``graph`` adds to the stream when its edges are removed, ``(senders, t, d)``."""
        if [len(heads) for heads in self.heads] != list(graph.layer_heads) or [
            values.shape[1] for values in self.neurons
        ] != list(graph.layer_neurons):
            raise CircuitError(f"the ablation was made for another model than this graph's ({graph.describe()})")
        writes = [self.embed[None]]
        for layer, block in enumerate(model.blocks):
            if block.attention is not None:
                weight = rearrange(block.attention.out.weight, "d (h k) -> h k d", h=graph.layer_heads[layer])
                writes.append(einsum(self.heads[layer], weight, "h t k, h k d -> h t d"))
            if block.mlp is not None:
                values, weight = self.neurons[layer], block.mlp.out.weight
                writes += [(values[:, group] @ weight[:, group].T)[None] for group in graph.group_slices(layer)]
        return torch.cat(writes)


def _activations(model: ViT, images: Tensor) -> Iterator[tuple[str, int, Tensor]]:
    """Yield what the parts of an Ablation are means of, for each image: name, layer, values ``(b, ...)``."""
    stream = model.embed(images)
    yield "embed", 0, stream
    for layer, block in enumerate(model.blocks):
        if block.attention is not None:
            gathered = block.attention.heads(stream)
            yield "heads", layer, gathered
            stream = stream + block.attention.out(rearrange(gathered, "b h t k -> b t (h k)"))
        if block.mlp is not None:
            neurons = block.mlp.neurons(stream)
            yield "neurons", layer, neurons
            stream = stream + block.mlp.out(neurons)
