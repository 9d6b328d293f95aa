"""How much of a circuit is owed to the images that the search happened to see.

The search is repeated on bootstrap samples of its images: as many images as there are, drawn with replacement. An edge
that is kept whatever the sample is one to rely on; one that comes and goes is undecided (arXiv 2510.00845 finds a mean
Jaccard below 0.8 for usual methods). Circuits that differ may still compute the same, so agreement of their predictions
is measured beside the agreement of their edges.

Legend of dimensions: n samples, b images.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.comparison import jaccard
from vitprune.circuit.graph import Graph
from vitprune.circuit.methods import method_named
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.core.model.vit import ViT
from vitprune.errors import CircuitError

Verdict = Literal["in", "undecided", "out"]
LEVEL = 0.95
"""An edge is in if at least this share of the samples keeps it, out if at least this share does not."""
INTERVAL = 0.95
RESAMPLINGS = 1000
"""How often the circuits are drawn with replacement for the interval of their mean Jaccard index."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean, and the percentile bootstrap interval of it at ``INTERVAL``."""

    mean: float
    low: float
    high: float

    def as_metrics(self) -> dict[str, float]:
        """The figures by name, rounded."""
        return {name: round(value, 4) for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Stability:
    """The circuits of several samples of the images: ``masks (n, receivers, senders)`` of the edges they keep."""

    graph: Graph
    masks: Tensor

    @property
    def frequency(self) -> Tensor:
        """For each edge the share of the circuits that keep it, ``(receivers, senders)``."""
        return self.masks.double().mean(dim=0)

    @cached_property
    def node_frequency(self) -> dict[str, float]:
        """For each head and MLP (or neuron group) the share of the circuits in which it is on a path of kept edges."""
        live = torch.stack([self.graph.reach_logits(mask) & self.graph.reached_from_embed(mask) for mask in self.masks])
        shares = live.double().mean(dim=0).tolist()
        return {node.name: share for node, share in zip(self.graph.senders, shares, strict=True) if node.level}

    @cached_property
    def jaccard(self) -> Tensor:
        """The Jaccard index of the edges that two circuits keep, ``(n, n)``."""
        return jaccard(self.masks, self.masks)

    def jaccard_with(self, keep_mask: Tensor) -> float:
        """The mean Jaccard index with another circuit, such as that of all images."""
        return float(jaccard(self.masks, keep_mask[None]).mean())


def verdict(frequency: float, level: float = LEVEL) -> Verdict:
    """What the samples say of an edge that so large a share of them keeps."""
    if frequency >= level:
        return "in"
    return "out" if frequency <= 1 - level else "undecided"


def bootstrap(
    problem: Problem,
    method: str = "acdc",
    options: DiscoveryOptions | None = None,
    *,
    samples: int = 100,
    seed: int = 0,
    on_sample: Callable[[int, int], None] | None = None,
) -> Stability:
    """Repeat a discovery on bootstrap samples of the images, with the same ablation; the same ``seed``, the same draws.

    ``on_sample`` is called with how many circuits there are, and how many there will be. Raises CircuitError for fewer
    than two samples, and as the method does.
    """
    if samples < 2:
        raise CircuitError(f"stability needs at least two samples, got {samples}")
    images = len(problem.images)
    drawn = torch.randint(images, (samples, images), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(samples, images, dtype=torch.long).scatter_add_(1, drawn, torch.ones_like(drawn))
    masks = torch.zeros(samples, *problem.graph.all_edges.shape, dtype=torch.bool)
    done = itertools.count(1)

    def take(number: int, keep_mask: Tensor) -> None:
        masks[number] = keep_mask
        found = next(done)
        if on_sample:
            on_sample(found, samples)

    method_named(method).run_on_samples(problem, options or DiscoveryOptions(), counts, take)
    return Stability(graph=problem.graph, masks=masks)


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How alike the predictions of two circuits are, each ``(n, n)``.

    ``kl`` is that of the column's circuit to the row's in nats, ``same_class`` the share of images with the same class.
    """

    kl: Tensor
    same_class: Tensor


def agreement(stability: Stability, example: Circuit, model: ViT, images: Tensor) -> Agreement:
    """The agreement of the circuits' predictions on ``images (b, c, height, width)``, other than those of the search.

    ``example`` is a circuit of the same graph and ablation.
    """
    logits = [replace(example, keep_mask=mask).logits(model, images, batch_size=64) for mask in stability.masks]
    log_probabilities = F.log_softmax(torch.stack(logits).cpu().double(), dim=-1)
    probabilities, classes = log_probabilities.exp(), log_probabilities.argmax(dim=-1)
    entropies = (probabilities * log_probabilities).sum(dim=-1).mean(dim=-1)
    crosses = torch.einsum("n b c, m b c -> n m", probabilities, log_probabilities) / len(images)
    return Agreement(
        kl=(entropies[:, None] - crosses).clamp_min(0),
        same_class=(classes[:, None] == classes).double().mean(dim=-1),
    )


def mean_over_pairs(pairs: Tensor, seed: int = 0) -> Estimate:
    """The mean of ``pairs (n, n)`` off the diagonal, with n of at least 2, and its interval.

    The interval comes from drawing the n circuits with replacement: pairs share them, and are not independent. A pair
    of a circuit with itself does not count.
    """
    count = len(pairs)
    values = pairs.numpy() * (1 - np.eye(count))
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLINGS).astype(float)
    weights = drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)
    sums = np.einsum("r i, i j, r j -> r", drawn, values, drawn)
    # All draws of the same one have no pair.
    means = sums[weights > 0] / weights[weights > 0]
    tail = (1 - INTERVAL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean=float(values.sum() / (count * (count - 1))), low=float(low), high=float(high))
