"""What the nodes of a whole model compute on given images, where it is smallest: before the output projections.

Legend of dimensions: b images, t tokens, d width of the stream, h heads of a layer, k width of a head, n neurons.

Kept there, activations serve heads, whole MLPs and any grouping of neurons.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.model.vit import ViT


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
    stream = model.embed(images)
    embed, heads, neurons = stream, [], []
    for block in model.blocks:
        if block.attention is not None:
            gathered = block.attention.heads(stream)
            stream = stream + block.attention.out(rearrange(gathered, "b h t k -> b t (h k)"))
            heads.append(rearrange(gathered, "b h t k -> h b t k"))
        else:
            heads.append(stream.new_zeros(0, len(images), config.num_tokens, config.d_head))
        if block.mlp is not None:
            neurons.append(block.mlp.neurons(stream))
            stream = stream + block.mlp.out(neurons[-1])
        else:
            neurons.append(stream.new_zeros(len(images), config.num_tokens, 0))
    return model.classify(stream), Activations(embed=embed, heads=tuple(heads), neurons=tuple(neurons))
