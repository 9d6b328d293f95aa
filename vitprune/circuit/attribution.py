"""Edge attribution: the predicted change of a metric if an edge is removed, for all edges from a few passes.

Legend of dimensions: b images, t tokens, d width of the stream, r receivers of a stage, s senders, w width of what a
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
from vitprune.circuit.metrics import Metric, Reference
from vitprune.circuit.stages import HeadStage, Stages, centred
from vitprune.model.vit import NORM_EPS, ViT

BATCH_SIZE = 64
"""Images at once where nothing else is asked for; the scores do not depend on it."""


@dataclass(frozen=True)
class _Projection:
    """What all receivers of a stage read, ``(b, t, d)``, and what they project it to, ``(b, t, all widths)``."""

    stage: int
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
    stages = Stages(model, graph)
    scores = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    size = min(batch_size or BATCH_SIZE, len(images))
    for first in range(0, len(images), size):
        batch = images[first : first + size]
        with torch.no_grad():
            logits = model(batch)
            check_finite(logits)
            reference = Reference.of(logits, None if labels is None else labels[first : first + size])
            ablated = stages.by_stage(ablation.activations(model, batch, first))
            clean = stages.by_stage(run_whole(model, batch))
            changes = stages.send_all([new - old for new, old in zip(ablated, clean, strict=True)])
            embedding = model.embed(batch)
            start = ablation.activations(model, batch, first).embed
        for position in positions:
            embedded = start + position * (embedding - start)
            _add_scores(model, stages, embedded, metric, reference, changes, scores)
    return (scores / (len(images) * len(positions))) * graph.all_edges


def _add_scores(
    model: ViT, stages: Stages, embedded: Tensor, metric: Metric, reference: Reference, changes: Tensor, scores: Tensor
) -> None:
    """Add to ``scores`` the products of ``changes (s, b, t, d)`` with the gradients at ``embedded (b, t, d)``."""
    graph = stages.graph
    with torch.enable_grad():
        logits, last, projections = _run(model, embedded.detach().requires_grad_())
        damage = metric(logits, reference).sum()
        *gradients, last_gradient = torch.autograd.grad(damage, [*(each.projected for each in projections), last])
    with torch.no_grad():
        # The classifier reads the class token alone.
        products = torch.einsum("s b d, b d -> s", changes[:, :, 0], last_gradient[:, 0])
        scores[-1] += products.double().cpu()
        for each, gradient in zip(projections, gradients, strict=True):
            rows, senders = graph.stage_receivers[each.stage], graph.stage_senders[each.stage].start
            found = _read_gradients(stages, each, gradient)
            products = found.flatten(1) @ changes[:senders].flatten(1).T
            scores[rows.start : rows.stop, :senders] += products.double().cpu()


def _run(model: ViT, embedded: Tensor) -> tuple[Tensor, Tensor, list[_Projection]]:
    """Logits, the last state of the stream, and what each stage reads and projects, from a state of the stream."""
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


def _read_gradients(stages: Stages, each: _Projection, gradient: Tensor) -> Tensor:
    """Gradients ``(r, b t, d)`` with respect to what each receiver of a stage reads, seen by centred changes.

    With y the normed read, g the gradient with respect to y and s the norm's factor it is s · (g − y · mean(g · y)).
    """
    part = stages[each.stage]
    if isinstance(part, HeadStage):
        pattern = "b t (qkv h k) -> (h qkv) (b t) k" if part.split else "b t (qkv h k) -> h (b t) (qkv k)"
        by_row = rearrange(gradient, pattern, qkv=3, h=len(part.out_weight))
    else:
        by_row = rearrange(part.grouped(gradient), "g b t n -> g (b t) n")
    reads = rearrange(centred(each.stream), "b t d -> (b t) d")
    factor = (reads.square().mean(dim=-1, keepdim=True) + NORM_EPS).rsqrt()
    normed = reads * factor
    by_row = by_row * factor
    found = torch.bmm(by_row, part.in_weight.transpose(1, 2))
    along = torch.einsum("r m d, m d -> r m", found, normed) / reads.shape[-1]
    return found.addcmul_(along[..., None], normed, value=-1)
