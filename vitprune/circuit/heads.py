"""What each head looks at, and what it costs to remove it from the whole model.

Legend of dimensions: b images, t tokens, p patches, h heads of a layer, k width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import run_whole
from vitprune.circuit.graph import Graph
from vitprune.circuit.masked import run_masked
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
def view_heads(model: ViT, images: Tensor, labels: Tensor, ablation: Ablation) -> Iterator[HeadView]:
    """A view of every head, from the first layer to the last, on normalised ``images (b, c, height, width)``."""
    full = torch.cat([run_whole(model, batch)[0] for batch in images.split(BATCH_SIZE)])
    batches = [_attention(model, batch) for batch in images.split(BATCH_SIZE)]
    graph = Graph.of(model, split_qkv=False)
    for node in graph.nodes:
        if node.kind != "head":
            continue
        keep_mask = graph.all_edges.clone()
        keep_mask[:, graph.sender_index[node.name]] = False
        without = torch.cat(
            [
                run_masked(model, batch, graph, keep_mask, ablation, first)
                for first, batch in zip(range(0, len(images), BATCH_SIZE), images.split(BATCH_SIZE), strict=True)
            ]
        )
        wrong = [(logits.argmax(dim=1) != labels).double().mean() for logits in (without, full)]
        yield HeadView(
            name=node.name,
            layer=node.layer,
            head=node.index,
            attention=torch.cat([batch[node.layer][:, node.index] for batch in batches]),
            kl=damage(kl, without, Reference.of(full)),
            lost=float(wrong[0] - wrong[1]),
        )


def _attention(model: ViT, images: Tensor) -> dict[int, Tensor]:
    """How much each head takes from each patch for what is read out, ``(b, h, p)`` by layer."""
    record = Record("qkv")
    with evaluation_mode(model):
        model.run(model.embed(images), record)
    found = {}
    for (layer, _), qkv in record.items():
        queries, keys, _ = rearrange(qkv, "b t (qkv h k) -> qkv b h t k", qkv=3, h=model.config.layer_heads[layer])
        if model.config.pooling == "class":
            queries = queries[:, :, :1]
        weights = (queries @ keys.mT / keys.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=2)
        found[layer] = weights[..., model.config.num_tokens - model.config.num_patches :]
    return found
