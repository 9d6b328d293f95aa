"""The damage of a circuit with more edges removed, at the cost of only what their removal changes.

A circuit's damage is the mean over the images of the metric that a search keeps low. What every receiver reads, what it
projects and what every node computes from that is kept. Removing an edge changes its receiver's read by a known
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

    ``batch_size`` bounds the images whose activations are held at once. If there are more images, reads are computed
    each time they are needed instead of being kept. ``candidates`` is the most that may be evaluated together.
    ``keep_mask`` is on the CPU; activations are on the images' device. Each of several ranks works on its share of the
    images, and all know the damage.

    Raises CircuitError for logits that are not finite, images the model cannot take, fewer images than ranks, or a
    graph or an ablation of another model.
    """

    damage: float

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
        batch_size: int | None = None,
        candidates: int = 1,
    ) -> None:
        check_images(model, images)
        ablation.check(model)
        self.model, self.images, self.graph, self.ablation = model, images, graph, ablation
        self.keep_mask = keep_mask.clone()
        self.candidates = candidates
        self._levels = Levels(model, graph)
        self._metric = metric_named(metric)
        share = world().share_of(len(images))
        if share.start == share.stop:
            raise CircuitError(f"{len(images)} images are too few for {world().size} processes: each needs one")
        with torch.no_grad():
            self._state = State(self._levels, images, ablation, share, batch_size=batch_size, candidates=candidates)
            logits = torch.cat([model(images[batch]) for batch in self._state.batches])
            self.full_logits = gathered(logits, len(images))
        check_finite(self.full_logits)
        reference = Reference.of(self.full_logits, labels)
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
        sums = []
        for batch in range(len(self._state.batches)):
            sums.append(float(self._summed_damage(batch, self._state.recompute(batch, self.keep_mask))[0]))
        self.damage = float(total(torch.tensor(sum(sums), dtype=torch.float64))) / len(self.images)
        self._damages = [self.damage]

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
    def damage_without(self, candidates: list[list[EdgeIndex]]) -> list[float]:
        """For each candidate the damage of the current circuit without the kept edges that it lists.

        All edges lead to one receiver, or all come out of nodes of one level. At most ``candidates`` at once.
        """
        self._tried = candidates
        rows = frozenset(row for edges in candidates for row, _ in edges)
        if self._plan is None or self._plan.rows != rows:
            everywhere = self._what_matters()[1]
            self._plan = make_plan(self._levels, self._state.banks, self.keep_mask, self.is_live, everywhere, rows)
        if not self._plan.updates:
            self._propagation = None
            self._damages = [self.damage] * len(candidates)
            return self._damages
        self._propagation = Propagation(self._state, self._plan, self.keep_mask, candidates)
        totals = torch.zeros(len(candidates), dtype=torch.float64)
        for batch in range(len(self._state.batches)):
            totals += self._summed_damage(batch, self._propagation.last_reads(batch))
        self._damages = (total(totals) / len(self.images)).tolist()
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

    def _summed_damage(self, batch: int, last_reads: Tensor) -> Tensor:
        """The summed metric of a batch of images, from what the logits read, ``(n, b, t, d) -> (n,)``."""
        logits = self.model.classify(last_reads.flatten(0, 1)).unflatten(0, last_reads.shape[:2])
        if not torch.isfinite(logits).all():
            raise CircuitError(
                "the circuit's logits are not finite on these images: check the ablation and the weights"
            )
        return damage(self._metric, logits, self._references[batch]).sum(dim=-1)
