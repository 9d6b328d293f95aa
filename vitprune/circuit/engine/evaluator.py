"""The damage of a circuit with more edges removed, at the cost of only what their removal changes.

A circuit's damage is the mean over the images of the metric that a search keeps low. It can be taken over several
samples of the images at once, in which images count more than once or not at all: the metric of an image is computed
once for all of them. What every receiver reads, what it projects and what every node computes from that is kept.
Removing an edge changes its receiver's read by a known
difference. From there, only nodes that are reached through kept edges and have a path to the logits are updated, each
from the differences of what feeds it. Those that matter at the class token alone are updated only there. Receivers that
keep the same senders share one read. The result is that of the full masked forward pass, up to rounding. ``refresh``
computes it from scratch, so that rounding errors do not add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.activations import check_finite
from vitprune.circuit.engine.plan import Plan, make_plan
from vitprune.circuit.engine.propagation import Propagation
from vitprune.circuit.engine.state import State
from vitprune.circuit.graph import EdgeIndex, Graph
from vitprune.circuit.levels import Levels
from vitprune.circuit.masked import check_images
from vitprune.circuit.metrics import MetricName, Reference, damage, metric_named
from vitprune.core.compute.distributed import gathered, total, world
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError


class IncrementalEvaluator:
    """The current circuit of a search: its damage, and that of every way to make it smaller.

    If it ``is_denoising``, the circuit is that of the ablated embedding, and removed edges carry what their sender
    computes on the image: the full graph is then the fully ablated model, and the empty one the whole model.
    ``samples (samples, b)`` are how often each image counts in each sample; by default all images are one sample.
    ``damage (samples,)`` is that of the current circuit, in double precision on the CPU. ``batch_size`` bounds the
    images whose activations are held at once. If there are more images, reads are computed each time they are needed
    instead of being kept. ``candidates`` is the most that may be evaluated together. ``keep_mask`` is on the CPU;
    activations are on the images' device. Each of several ranks works on its share of the images, and all know the
    damage.

    Raises CircuitError for logits that are not finite, images the model cannot take, fewer images than ranks, or a
    graph or an ablation of another model.
    """

    damage: Tensor

    def __init__(
        self,
        model: ViT,
        images: Tensor,
        graph: Graph,
        keep_mask: Tensor,
        ablation: Ablation,
        *,
        metric: MetricName = "kl",
        labels: Tensor | None = None,
        rivals: Tensor | None = None,
        batch_size: int | None = None,
        candidates: int = 1,
        samples: Tensor | None = None,
        is_denoising: bool = False,
    ) -> None:
        check_images(model, images)
        ablation.check(model)
        self.model, self.images, self.graph, self.ablation = model, images, graph, ablation
        self.keep_mask = keep_mask.clone()
        self.candidates = candidates
        self._samples = (torch.ones(1, len(images)) if samples is None else samples).double()
        self._levels = Levels(model, graph)
        self._metric = metric_named(metric)
        share = world().share_of(len(images))
        if share.start == share.stop:
            raise CircuitError(f"{len(images)} images are too few for {world().size} processes: each needs one")
        with torch.no_grad():
            self._state = State(
                self._levels,
                images,
                ablation,
                share,
                batch_size=batch_size,
                candidates=candidates,
                is_denoising=is_denoising,
            )
            logits = torch.cat([model(images[batch]) for batch in self._state.batches])
            self.full_logits = gathered(logits, len(images))
        check_finite(self.full_logits)
        reference = Reference.of(self.full_logits, labels, rivals)
        self._references = [reference.of_images(batch) for batch in self._state.batches]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute the current circuit from scratch."""
        self._relevance: tuple[Tensor, Tensor] | None = None
        self._plan: Plan | None = None
        self._propagation: Propagation | None = None
        self._tried: list[list[EdgeIndex]] = []
        self._state.reset(self.keep_mask)
        sums = torch.zeros(1, len(self._samples), dtype=torch.float64)
        for batch in range(len(self._state.batches)):
            sums += self._summed_damage(batch, self._state.recompute(batch, self.keep_mask))
        self._damages = self._means(sums)
        self.damage = self._damages[0]

    def keep_samples(self, kept: Tensor) -> None:
        """Go on with some of the samples, given as a mask ``(samples,)``."""
        self._samples = self._samples[kept]
        self.damage, self._damages = self.damage[kept], self._damages[:, kept]

    @property
    def live(self) -> Tensor:
        """For each sender whether it has a path to the logits in the current circuit, ``(senders,)``."""
        return self._what_matters()[0]

    def _what_matters(self) -> tuple[Tensor, Tensor]:
        if self._relevance is None:
            self._relevance = self.graph.what_matters(self.keep_mask)
        return self._relevance

    def is_live(self, row: int) -> bool:
        """Whether what a receiver reads can change the logits."""
        node = self.graph.receivers[row].node
        return node.kind == "logits" or bool(self.live[self.graph.sender_index[node.name]])

    @torch.no_grad()
    def damage_without(self, candidates: list[list[EdgeIndex]]) -> Tensor:
        """The damage of the current circuit without the kept edges of each candidate, ``(candidates, samples)``.

        All edges lead to one receiver, or all come out of nodes of one level. At most ``candidates`` at once.
        """
        self._tried = candidates
        rows = frozenset(row for edges in candidates for row, _ in edges)
        if self._plan is None or self._plan.rows != rows:
            everywhere = self._what_matters()[1]
            self._plan = make_plan(self._levels, self._state.banks, self.keep_mask, self.is_live, everywhere, rows)
        if not self._plan.updates:
            self._propagation = None
            self._damages = self.damage.expand(len(candidates), -1)
            return self._damages
        self._propagation = Propagation(self._state, self._plan, self.keep_mask, candidates)
        sums = torch.zeros(len(candidates), len(self._samples), dtype=torch.float64)
        for batch in range(len(self._state.batches)):
            sums += self._summed_damage(batch, self._propagation.last_reads(batch))
        self._damages = self._means(sums)
        return self._damages

    def accept(self, choice: int = 0) -> None:
        """Remove the edges of one of the candidates that were evaluated last."""
        assert self._plan is not None, "damage_without comes first"
        if self._propagation is not None:
            self._propagation.accept(choice)
        self.damage = self._damages[choice]
        for row, column in self._tried[choice]:
            self.keep_mask[row, column] = False
        self._relevance = self._propagation = None
        if self._plan.is_shared or len(self._plan.cut_rows) > 1:
            self._plan = None
        self._tried = []

    def remove_unreachable(self, edges: Iterable[Sequence[int]]) -> None:
        """Remove edges without a computation: those that cannot change the logits, or any before a ``refresh``."""
        for row, column in edges:
            self.keep_mask[row, column] = False
        self._relevance = self._plan = None

    def _means(self, sums: Tensor) -> Tensor:
        """Means over the images of all ranks from their sums, ``(n, samples)``."""
        return total(sums) / self._samples.sum(dim=1)

    def _summed_damage(self, batch: int, last_reads: Tensor) -> Tensor:
        """The metric summed over a batch of images, from what the logits read, ``(n, b, t, d) -> (n, samples)``."""
        logits = self.model.classify(last_reads.flatten(0, 1)).unflatten(0, last_reads.shape[:2])
        if not torch.isfinite(logits).all():
            raise CircuitError(
                "the circuit's logits are not finite on these images: check the ablation and the weights"
            )
        return damage(self._metric, logits, self._references[batch]) @ self._samples[:, self._state.batches[batch]].T
