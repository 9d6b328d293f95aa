"""What every discovery method is given: the problem and the options."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from vitprune.circuit.ablation import Ablation
from vitprune.circuit.graph import Graph
from vitprune.circuit.masked import check_images
from vitprune.circuit.metrics import MetricName, Reference, metric_named
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError

Granularity = Literal["edge", "node", "node-edge"]
Direction = Literal["noising", "denoising", "both"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model in evaluation mode, and the images on which it is decided which of its edges matter.

    ``images (b, c, height, width)`` are normalised. ``labels (b,)`` serve every metric but KL; None stands for the
    model's own predictions. ``rivals (b,)`` are the classes that the logit difference compares them with; None stands
    for the model's strongest others. ``ablation`` says what removed edges of ``graph`` carry.

    Raises CircuitError if the parts do not belong together or the model is in training mode.
    """

    model: ViT
    images: Tensor
    labels: Tensor | None
    graph: Graph
    ablation: Ablation
    rivals: Tensor | None = None

    def __post_init__(self) -> None:
        check_images(self.model, self.images)
        if self.model.training:
            raise CircuitError(
                "the model is in training mode: call model.eval() first, or dropout would blur the result"
            )
        self.graph.check(self.model)
        self.ablation.check(self.model)

    @classmethod
    def of(
        cls,
        model: ViT,
        images: Tensor,
        *,
        labels: Tensor | None = None,
        rivals: Tensor | None = None,
        graph: Graph | None = None,
        ablation: Ablation | None = None,
    ) -> Problem:
        """The problem with ``Graph.of(model)`` and the mean over ``images`` where nothing else is given."""
        check_images(model, images)
        return cls(
            model=model,
            images=images,
            labels=labels,
            rivals=rivals,
            graph=graph or Graph.of(model),
            ablation=ablation or Ablation.mean(model, images),
        )

    def on(self, indices: Sequence[int]) -> Problem:
        """The same problem on the images with these indices, which may repeat; each keeps its ablated activations."""
        chosen = torch.tensor(indices, device=self.images.device)
        labels, rivals = (None if each is None else each[chosen] for each in (self.labels, self.rivals))
        ablation = self.ablation.on(self.images, indices)
        return replace(self, images=self.images[chosen], labels=labels, rivals=rivals, ablation=ablation)

    def reference(self, full_logits: Tensor, first: int = 0) -> Reference:
        """What circuits are compared with on the images from index ``first`` on, of the logits ``(b, classes)``.

        Raises CircuitError if labels and logits do not go together.
        """
        chosen = slice(first, first + len(full_logits))
        labels, rivals = (None if each is None else each[chosen] for each in (self.labels, self.rivals))
        return Reference.of(full_logits, labels, rivals)


@dataclass(frozen=True, kw_only=True)
class DiscoveryOptions:
    """The options of all methods; each method uses some of them.

    ``tau`` is in units of the metric (nats for KL): removing an edge that stays costs at least that much. ``num_edges``
    says instead how many edges a ranking keeps. ``metric`` None stands for the method's own. ``granularity`` is that of
    searches, ``direction`` that of ``acdc``: whether edges of the whole model are taken away, or edges of the ablated
    one restored, or one after the other. ``order`` draws the order in which a search visits edges of one receiver and
    nodes of one level; None: the latest first. ``ig_steps`` is the number of points at which integrated gradients are
    taken. ``hybrid`` removes edges scored below ``low`` · tau and keeps edges scored above ``high`` · tau without a
    test. ``batch_size`` bounds the images whose activations are held at once. ``candidates`` is how many removals a
    search evaluates together, which pays on an accelerator; the circuit stays the same. ``seed`` draws the random
    ranking.

    Raises CircuitError for values that no method can use.
    """

    tau: float | None = None
    num_edges: int | None = None
    metric: MetricName | None = None
    granularity: Granularity = "edge"
    direction: Direction = "noising"
    order: int | None = None
    ig_steps: int = 5
    low: float = 0.1
    high: float = 10.0
    batch_size: int | None = None
    candidates: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tau is not None and not (math.isfinite(self.tau) and self.tau >= 0):
            raise CircuitError(f"tau must be a finite number of at least 0, got {self.tau}")
        for name, known in (("granularity", Granularity), ("direction", Direction)):
            if getattr(self, name) not in get_args(known):
                raise CircuitError(f"{name} must be one of {', '.join(get_args(known))}, got {getattr(self, name)!r}")
        if self.candidates < 1:
            raise CircuitError(f"candidates must be at least 1, got {self.candidates}")
        if self.metric is not None:
            metric_named(self.metric)
        if not 0 <= self.low <= self.high < math.inf:
            raise CircuitError(f"low and high must be finite with 0 ≤ low ≤ high, got {self.low} and {self.high}")
        if self.ig_steps < 1:
            raise CircuitError(f"ig_steps must be at least 1, got {self.ig_steps}")
        if self.batch_size is not None and self.batch_size < 1:
            raise CircuitError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.num_edges is not None and self.num_edges < 0:
            raise CircuitError(f"num_edges must be at least 0, got {self.num_edges}")
