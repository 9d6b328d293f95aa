"""Edge attribution: the predicted change of a metric if an edge is removed, for all edges from a few passes.

Legend of dimensions: b images, t tokens, d width of the stream, r receivers of a level, s senders, w width of what a
receiver projects to.

The score of u → v is Σ over tokens of (what stands in for u − what u writes) · ∂metric/∂(what v reads), averaged over
the images (Syed et al. 2023, arXiv 2310.10348). The gradients are those of the whole model, at the embeddings of the
images or somewhere between these and the ablated ones (Hanna et al. 2024, arXiv 2403.17806). Every receiver has a
gradient of its own: that of its projection, brought back through the norm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import run_whole
from vitprune.circuit.checks import check_finite
from vitprune.circuit.graph import Graph
from vitprune.circuit.levels import HeadLevel, Levels, MlpLevel, centred
from vitprune.circuit.metrics import Metric, Reference
from vitprune.distributed import total, world
from vitprune.model.vit import NORM_EPS, ViT

BATCH_SIZE = {"cpu": 16}
OTHER_BATCH_SIZE = 64
"""Images at once where nothing else is asked for, by kind of device; the scores do not depend on it."""


@dataclass(frozen=True)
class _Projection:
    """What all receivers of a level read, ``(b, t, d)``, and what they project it to, ``(b, t, all widths)``."""

    level: int
    stream: Tensor
    projected: Tensor


def attribute(
    model: ViT,
    images: Tensor,
    graph: Graph,
    ablation: Ablation,
    metric: Metric,
    labels: Tensor | None,
    positions: Sequence[float],
    batch_size: int | None = None,
) -> Tensor:
    """Score of every edge, ``(receivers, senders)`` in double precision on the CPU, 0 where there is no edge.

    Gradients are averaged over ``positions`` on the way from the ablated embedding (0) to that of the image (1).
    """
    levels = Levels(model, graph)
    scores = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    size = min(batch_size or BATCH_SIZE.get(images.device.type, OTHER_BATCH_SIZE), len(images))
    sums = _GradientSums(levels, size)
    share = world().share_of(len(images))
    for first in range(share.start, share.stop, size):
        last = min(first + size, share.stop)
        batch = images[first:last]
        with torch.no_grad():
            logits, activations = run_whole(model, batch)
            check_finite(logits)
            reference = Reference.of(logits, None if labels is None else labels[first:last])
            removed = ablation.activations(model, batch, first)
            ablated, clean = levels.by_level(removed), levels.by_level(activations)
            changes = levels.send_all([new - old for new, old in zip(ablated, clean, strict=True)])
        sums.clear(len(batch))
        for position in positions:
            embedded = torch.lerp(removed.embed.expand_as(activations.embed), activations.embed, position)
            sums.add(embedded, metric, reference)
        scores += sums.times(changes)
    return (total(scores) / (len(images) * len(positions))) * graph.all_edges


class _GradientSums:
    """Gradients with respect to what receivers read, summed up over positions: their products are taken once.

    The memory is kept from batch to batch: to ask the system for it costs more than to fill it.
    """

    def __init__(self, levels: Levels, images: int) -> None:
        self.levels = levels
        config = levels.model.config
        read = images * config.num_tokens * config.d_model
        like = levels.model.positions.detach()
        self._memory = [like.new_empty(len(rows) * read) for rows in levels.graph.level_receivers[:-1]]
        self._last_tokens = levels.reads_tokens(levels.graph.last_level, "") or config.num_tokens

    def clear(self, images: int) -> None:
        """Start with a batch of so many images."""
        config = self.levels.model.config
        size = images * config.num_tokens
        self.sums = [
            memory[: len(rows) * size * config.d_model].zero_().view(len(rows), size, config.d_model)
            for memory, rows in zip(self._memory, self.levels.graph.level_receivers, strict=False)
        ]
        self.last = self.levels.model.positions.detach().new_zeros(images, self._last_tokens, config.d_model)

    def add(self, embedded: Tensor, metric: Metric, reference: Reference) -> None:
        """Add the gradients with the stream starting at ``embedded (b, t, d)``."""
        with torch.enable_grad():
            logits, last, projections = _run(self.levels.model, embedded.detach().requires_grad_())
            damage = metric(logits, reference).sum()
            *gradients, last_gradient = torch.autograd.grad(damage, [*(each.projected for each in projections), last])
        with torch.no_grad():
            self.last += last_gradient[:, : self._last_tokens]
            for each, gradient in zip(projections, gradients, strict=True):
                _add_read_gradients(self.sums[each.level], self.levels, each, gradient)

    @torch.no_grad()
    def times(self, changes: Tensor) -> Tensor:
        """Products ``(r, s)`` with ``changes (s, b, t, d)``, in double precision on the CPU."""
        graph = self.levels.graph
        products = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
        products[-1] = torch.einsum("s b t d, b t d -> s", changes[:, :, : self._last_tokens], self.last).cpu()
        flat = changes.flatten(1)
        for rows, senders, found in zip(graph.level_receivers, graph.level_senders, self.sums, strict=False):
            if rows:
                products[rows.start : rows.stop, : senders.start] = (found.flatten(1) @ flat[: senders.start].T).cpu()
        return products


def _run(model: ViT, embedded: Tensor) -> tuple[Tensor, Tensor, list[_Projection]]:
    """Logits, the last state of the stream, and what each level reads and projects, from a state of the stream."""
    stream, projections = embedded, []
    for layer, block in enumerate(model.blocks):
        if block.attention is not None:
            attention = block.attention
            qkv = attention.qkv(attention.norm(stream))
            projections.append(_Projection(2 * layer + 1, stream.detach(), qkv))
            q, k, v = rearrange(qkv, "b t (qkv h k) -> qkv b h t k", qkv=3, h=attention.num_heads)
            gathered = F.scaled_dot_product_attention(q, k, v)
            stream = stream + attention.out(rearrange(gathered, "b h t k -> b t (h k)"))
        if block.mlp is not None:
            hidden = block.mlp.hidden(block.mlp.norm(stream))
            projections.append(_Projection(2 * layer + 2, stream.detach(), hidden))
            stream = stream + block.mlp.out(F.gelu(hidden))
    return model.classify(stream), stream, projections


def _add_read_gradients(sums: Tensor, levels: Levels, each: _Projection, gradient: Tensor) -> None:
    """Add to ``sums (r, b t, d)`` the gradients with respect to what each receiver reads, seen by centred changes.

    With y the normed read, g the gradient with respect to y and s the norm's factor it is s · (g − y · mean(g · y)).
    g · y is the product of the projection, without its bias, and the gradient with respect to that.
    """
    part = levels[each.level]
    # Both are written to, since nobody needs them after this: fresh memory costs more than the arithmetic.
    by_row, projected = (_by_row(part, tensor) for tensor in (gradient, each.projected.detach()))
    reads = rearrange(centred(each.stream), "b t d -> (b t) d")
    factor = (reads.square().mean(dim=-1, keepdim=True) + NORM_EPS).rsqrt()
    by_row.mul_(factor)
    along = projected.sub_(part.in_bias).mul_(by_row).sum(dim=-1, keepdim=True) / reads.shape[-1]
    sums.baddbmm_(by_row, part.in_weight.transpose(1, 2)).addcmul_(along, reads * factor, value=-1)


def _by_row(part: HeadLevel | MlpLevel, projected: Tensor) -> Tensor:
    """What all receivers of a level project to, ``(b, t, all widths)``, receiver by receiver: ``(r, b t, w)``."""
    if isinstance(part, HeadLevel):
        pattern = "b t (qkv h k) -> (h qkv) (b t) k" if part.split else "b t (qkv h k) -> h (b t) (qkv k)"
        return rearrange(projected, pattern, qkv=3, h=len(part.out_weight))
    return rearrange(part.grouped(projected), "g b t n -> g (b t) n")
