"""The activations of a whole model's nodes on given images, taken before the output projections.

Legend of dimensions: b images, t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons.

There they are smallest, and they serve heads, whole MLPs and any grouping of neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.core.model.predict import evaluation_mode
from vitprune.core.model.vit import Record, ViT
from vitprune.errors import CircuitError


@dataclass(frozen=True, kw_only=True)
class Activations:
    """``embed (b, t, d)``, and for each layer ``heads (h, b, t, k)`` and ``neurons (b, t, n)``.

    Layers without heads or neurons have empty tensors. Where the values are the same for every image, b is 1.
    """

    embed: Tensor
    heads: tuple[Tensor, ...]
    neurons: tuple[Tensor, ...]

    def of_images(self, chosen: slice) -> Activations:
        """The activations of some of the images; those that serve every image stay as they are."""
        if len(self.embed) == 1:
            return self
        return Activations(
            embed=self.embed[chosen],
            heads=tuple(heads[:, chosen] for heads in self.heads),
            neurons=tuple(neurons[chosen] for neurons in self.neurons),
        )


@torch.no_grad()
def run_whole(model: ViT, images: Tensor) -> tuple[Tensor, Activations]:
    """Logits ``(b, classes)`` and the activations of every node, on normalised ``images (b, c, height, width)``."""
    config = model.config
    embed, record = model.embed(images), Record("heads", "neurons")
    with evaluation_mode(model):
        logits = model.run(embed, record)
    no_heads = embed.new_zeros(len(images), 0, config.num_tokens, config.d_head)
    no_neurons = embed.new_zeros(len(images), config.num_tokens, 0)
    layers = range(config.num_layers)
    return logits, Activations(
        embed=embed,
        heads=tuple(rearrange(record.get((layer, "heads"), no_heads), "b h t k -> h b t k") for layer in layers),
        neurons=tuple(record.get((layer, "neurons"), no_neurons) for layer in layers),
    )


def check_finite(logits: Tensor) -> None:
    """CircuitError unless the full model's logits are all finite."""
    if not logits.isfinite().all():
        raise CircuitError("the model's logits are not finite on these images: check its weights and the input")
