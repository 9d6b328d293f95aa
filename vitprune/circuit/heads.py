"""What each head looks at, and what it costs to remove it from the whole model.

Legend of dimensions: b images, t tokens, p patches, h heads of a layer, k width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.metrics import Reference, damage, kl
from vitprune.core.model.predict import evaluation_mode
from vitprune.core.model.vit import Record, ViT

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class HeadView:
    """One head of a model, on some images.

    ``attention (b, p)`` says how much of what the head gathers comes from each patch: for the class token, or with mean
    pooling on average over the patches. What it takes from the class token itself is missing to 1. ``kl (b,)`` is
    KL(full ‖ without the head) in nats, ``lost`` the share of images that are no longer right less that of those that
    are newly so.
    """

    name: str
    layer: int
    head: int
    attention: Tensor
    kl: Tensor
    lost: float


@torch.no_grad()
def view_heads(
    model: ViT, images: Tensor, labels: Tensor, ablation: Ablation, indices: Sequence[int] | None = None
) -> Iterator[HeadView]:
    """A view of every head, from the first layer to the last, on normalised ``images (b, c, height, width)``.

    ``indices`` are those of the images, for ablations that differ from image to image; by default they count from 0.
    """
    indices = range(len(images)) if indices is None else indices
    wholes = [_Whole.of(model, batch) for batch in images.split(BATCH_SIZE)]
    full = torch.cat([whole.logits for whole in wholes])
    removed = [
        ablation.activations_at(model, batch, indices[first : first + len(batch)]).heads
        for first, batch in zip(range(0, len(images), BATCH_SIZE), images.split(BATCH_SIZE), strict=True)
    ]
    for layer, block in enumerate(model.blocks):
        if block.attention is None:
            continue
        attention = torch.cat([whole.attention(model, layer) for whole in wholes])
        for head in range(block.attention.num_heads):
            without = torch.cat(
                [
                    whole.without(model, layer, head, instead[layer][head])
                    for whole, instead in zip(wholes, removed, strict=True)
                ]
            )
            # On the CPU, because not every device has double precision.
            wrong = [(logits.argmax(dim=1) != labels).cpu().double().mean() for logits in (without, full)]
            yield HeadView(
                name=f"a{layer}.h{head}",
                layer=layer,
                head=head,
                attention=attention[:, head],
                kl=damage(kl, without, Reference.of(full)),
                lost=float(wrong[0] - wrong[1]),
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Whole:
    """The whole model on a batch: its logits, and what it computes in each layer on the way."""

    logits: Tensor
    record: Record

    @classmethod
    def of(cls, model: ViT, images: Tensor) -> _Whole:
        record = Record("attention_input", "qkv", "heads")
        with evaluation_mode(model):
            return cls(logits=model.run(model.embed(images), record), record=record)

    def attention(self, model: ViT, layer: int) -> Tensor:
        """How much each head takes from each patch for what is read out, ``(b, h, p)``."""
        config, qkv = model.config, self.record[layer, "qkv"]
        queries, keys, _ = rearrange(qkv, "b t (qkv h k) -> qkv b h t k", qkv=3, h=config.layer_heads[layer])
        if config.pooling == "class":
            queries = queries[:, :, :1]
        weights = (queries @ keys.mT / keys.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=2)
        return weights[..., config.num_tokens - config.num_patches :]

    def without(self, model: ViT, layer: int, head: int, instead: Tensor) -> Tensor:
        """Logits of the model in which a head gathers something else, ``(b or 1, t, k)``.

        Layers before it compute what they did, and are not run again.
        """
        gathered = self.record[layer, "heads"].clone()
        gathered[:, head] = instead
        block = model.blocks[layer]
        assert block.attention is not None
        added = block.attention.out(rearrange(gathered, "b h t k -> b t (h k)"))
        stream = self.record[layer, "attention_input"] + added
        with evaluation_mode(model):
            if block.mlp is not None:
                stream = stream + block.mlp(stream)
            for later in list(model.blocks)[layer + 1 :]:
                stream = later(stream)
            return model.classify(stream)
