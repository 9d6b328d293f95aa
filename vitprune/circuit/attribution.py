"""Edge attribution: predict for every edge, from a few passes, how a metric changes if the edge is removed.

Legend of dimensions: b images, t tokens, d width of the stream, r receivers of a level, s senders, w width of what a
receiver projects to.

The score of u → v is Σ over tokens of (ablated output of u − output of u) · ∂metric/∂(input of v), averaged over the
images (Syed et al. 2023, arXiv 2310.10348). The gradients are those of the whole model, at the embeddings of the images
or at points between these and the ablated ones (Hanna et al. 2024, arXiv 2403.17806). Points between activations are on
the way of all senders of one level, from ablated to real, with everything before them real; there is one such way for
each level, and it serves the edges out of that level. Every receiver has a gradient of its own: that of its projection,
taken back through the norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from vitprune.circuit.activations import check_finite, run_whole
from vitprune.circuit.levels import HeadLevel, Levels, MlpLevel, centred
from vitprune.circuit.metrics import Metric, Reference, metric_named
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.core.compute.distributed import total, world
from vitprune.core.model.vit import NORM_EPS, Record, ViT

BATCH_SIZE = {"cpu": 16}
OTHER_BATCH_SIZE = 64
"""Images at once by default, by kind of device; the scores do not depend on it."""


@dataclass(frozen=True)
class _Projection:
    """What all receivers of a level read, ``stream (b, t, d)``, and project, ``projected (b, t, all widths)``."""

    level: int
    stream: Tensor
    projected: Tensor


Between = Literal["inputs", "activations"]


def middles(steps: int) -> list[float]:
    """The middles of ``steps`` parts of equal length of the way from 0 to 1."""
    return [(step + 0.5) / steps for step in range(steps)]


def attribute(
    problem: Problem, options: DiscoveryOptions, *, points: Sequence[float], between: Between = "inputs"
) -> Tensor:
    """Score of every edge by ``options.metric``, ``(receivers, senders)`` in double precision on the CPU.

    Where there is no edge the score is 0. Gradients are averaged over ``points`` on the line from the ablated embedding
    or activations (0) to those of the image (1). Raises CircuitError if the model's logits are not finite.
    """
    model, images, ablation = problem.model, problem.images, problem.ablation
    assert options.metric is not None
    graph, metric = problem.graph, metric_named(options.metric)
    levels, all_columns = Levels(model, graph), range(len(graph.senders))
    scores = torch.zeros(len(graph.receivers), len(graph.senders), dtype=torch.float64)
    size = min(options.batch_size or BATCH_SIZE.get(images.device.type, OTHER_BATCH_SIZE), len(images))
    sums = _GradientSums(levels, size)
    share = world().share_of(len(images))
    for first in range(share.start, share.stop, size):
        last = min(first + size, share.stop)
        batch = images[first:last]
        with torch.no_grad():
            logits, activations = run_whole(model, batch)
            check_finite(logits)
            reference = problem.reference(logits, first)
            removed = ablation.activations(model, batch, first)
            ablated, clean = levels.by_level(removed), levels.by_level(activations)
            changes = levels.send_all([new - old for new, old in zip(ablated, clean, strict=True)])
        # A way between inputs is one from level 0, which serves all senders.
        for level, columns in enumerate(graph.level_senders[:-1] if between == "activations" else [all_columns]):
            if not columns:
                continue
            sums.clear(len(batch))
            for point in points:
                embedded = activations.embed
                if level == 0:
                    embedded = torch.lerp(removed.embed.expand_as(embedded), embedded, point)
                with _shifted(model, level, (1 - point) * changes[columns.start : columns.stop].sum(dim=0)):
                    sums.add(embedded, metric, reference)
            found = sums.times(changes)
            scores[:, columns.start : columns.stop] += found[:, columns.start : columns.stop]
    return (total(scores) / (len(images) * len(points))) * graph.all_edges


@contextmanager
def _shifted(model: ViT, level: int, shift: Tensor) -> Iterator[None]:
    """Add ``shift (b, t, d)`` to what the nodes of a level above 0 add to the stream."""
    if level == 0:
        yield
        return
    block = model.blocks[(level - 1) // 2]
    part = block.attention if level % 2 else block.mlp
    assert part is not None
    handle = part.out.register_forward_hook(lambda *call: call[-1] + shift)
    try:
        yield
    finally:
        handle.remove()


class _GradientSums:
    """Sums over points of the gradients with respect to what receivers read.

    The memory is reused from batch to batch, because allocating it costs more than filling it.
    """

    def __init__(self, levels: Levels, images: int) -> None:
        self.levels = levels
        config = levels.model.config
        read = images * config.num_tokens * config.d_model
        like = levels.model.positions.detach()
        self._memory = [like.new_empty(len(rows) * read) for rows in levels.graph.level_receivers[:-1]]
        self._last_tokens = levels.reads_tokens(levels.graph.last_level, "") or config.num_tokens

    def clear(self, images: int) -> None:
        """Start a batch of ``images`` images."""
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
            record = Record("attention_input", "qkv", "mlp_input", "hidden", "stream")
            logits = self.levels.model.run(embedded.detach().requires_grad_(), record)
            projections = _projections(record)
            last = record[self.levels.model.config.num_layers - 1, "stream"]
            loss = metric(logits, reference).sum()
            *gradients, last_gradient = torch.autograd.grad(loss, [*(p.projected for p in projections), last])
        with torch.no_grad():
            self.last += last_gradient[:, : self._last_tokens]
            for projection, gradient in zip(projections, gradients, strict=True):
                _add_read_gradients(self.sums[projection.level], self.levels, projection, gradient)

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


def _projections(record: Record) -> list[_Projection]:
    """What each level reads and projects, in the order of levels."""
    projections = []
    for (layer, kind), value in record.items():
        if kind == "qkv":
            projections.append(_Projection(2 * layer + 1, record[layer, "attention_input"].detach(), value))
        elif kind == "hidden":
            projections.append(_Projection(2 * layer + 2, record[layer, "mlp_input"].detach(), value))
    return projections


def _add_read_gradients(sums: Tensor, levels: Levels, projection: _Projection, gradient: Tensor) -> None:
    """Add to ``sums (r, b t, d)`` the gradient with respect to what each receiver reads, for centred changes of it.

    With y the normed read, g the gradient with respect to y and s the norm's factor, that gradient is
    s · (g − y · mean(g · y)). g · y is the product of the projection, without its bias, and the gradient with respect
    to the projection.
    """
    part = levels[projection.level]
    # Both are written to, since nobody needs them after this: fresh memory costs more than the arithmetic.
    by_row, projected = (_by_row(part, tensor) for tensor in (gradient, projection.projected.detach()))
    reads = rearrange(centred(projection.stream), "b t d -> (b t) d")
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
