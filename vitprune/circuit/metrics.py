"""How far a circuit's predictions are from the full model's, image by image.

A search keeps the mean of a metric over the images low; that mean is called the damage. Every metric is low for the
full model and higher for worse predictions, so that one rule serves all: a removal is accepted if the damage grows by
less than τ.

Legend of dimensions: b images; the dots stand for any leading dimensions, such as several circuits at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from vitprune.errors import CircuitError

MetricName = Literal["kl", "cross-entropy", "logit-difference", "accuracy"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """What circuits are compared with on some images: the full model's logits ``(b, classes)`` and the labels ``(b,)``.

    ``rivals (b,)`` are the full model's strongest classes other than the label, if no others are given. Everything is
    on the CPU and in double precision, because a search compares differences far smaller than the metric itself, and
    some devices have no float64.
    """

    logits: Tensor
    log_probabilities: Tensor
    labels: Tensor
    rivals: Tensor

    @classmethod
    def of(cls, full_logits: Tensor, labels: Tensor | None = None, rivals: Tensor | None = None) -> Reference:
        """The reference for ``full_logits (b, classes)``; labels default to the full model's predictions.

        ``rivals (b,)`` take the place of the full model's strongest other classes. Raises CircuitError if labels and
        logits do not go together.
        """
        logits = full_logits.detach().cpu().double()
        if labels is None:
            labels = logits.argmax(dim=-1)
        labels = labels.detach().cpu().long()
        if labels.shape != logits.shape[:1]:
            raise CircuitError(f"expected one label for each of {len(logits)} images, got {tuple(labels.shape)}")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
            raise CircuitError(f"labels must be from 0 to {logits.shape[1] - 1}, got up to {int(labels.max())}")
        if rivals is None:
            rivals = logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=-1)
        return cls(
            logits=logits,
            log_probabilities=F.log_softmax(logits, dim=-1),
            labels=labels,
            rivals=rivals.detach().cpu().long(),
        )

    def of_images(self, chosen: slice) -> Reference:
        """The reference for some of the images."""
        return Reference(
            logits=self.logits[chosen],
            log_probabilities=self.log_probabilities[chosen],
            labels=self.labels[chosen],
            rivals=self.rivals[chosen],
        )


def kl(logits: Tensor, reference: Reference) -> Tensor:
    """KL(full ‖ circuit) in nats, ``(..., b)``. Its gradient at the full model is zero."""
    circuit = F.log_softmax(logits, dim=-1)
    full = reference.log_probabilities.to(logits)
    return F.kl_div(circuit, full.expand_as(circuit), log_target=True, reduction="none").sum(dim=-1)


def cross_entropy(logits: Tensor, reference: Reference) -> Tensor:
    """Cross-entropy of the labels in nats, ``(..., b)``."""
    return -_at(F.log_softmax(logits, dim=-1), reference.labels)


def logit_difference(logits: Tensor, reference: Reference) -> Tensor:
    """The logit of the label's rival minus that of the label, ``(..., b)``."""
    return _at(logits, reference.rivals) - _at(logits, reference.labels)


def accuracy(logits: Tensor, reference: Reference) -> Tensor:
    """1 for a wrong prediction and 0 for a right one, ``(..., b)``, so that the mean is one minus the accuracy."""
    return (logits.argmax(dim=-1) != reference.labels.to(logits.device)).to(logits)


Metric = Callable[[Tensor, Reference], Tensor]
METRICS: dict[str, Metric] = {
    "kl": kl,
    "cross-entropy": cross_entropy,
    "logit-difference": logit_difference,
    "accuracy": accuracy,
}


def metric_named(name: str) -> Metric:
    """The metric with that name; CircuitError if there is none."""
    if name not in METRICS:
        raise CircuitError(f"metric must be one of {', '.join(get_args(MetricName))}, got {name!r}")
    return METRICS[name]


def damage(metric: Metric, logits: Tensor, reference: Reference) -> Tensor:
    """The metric in double precision, ``(..., b)``, on the CPU."""
    return metric(logits.cpu().double(), reference)


def kl_divergence(full_logits: Tensor, circuit_logits: Tensor) -> float:
    """KL(full ‖ circuit) in nats, mean over the images; both logits are ``(b, classes)``."""
    return damage(kl, circuit_logits, Reference.of(full_logits)).mean().item()


def _at(values: Tensor, classes: Tensor) -> Tensor:
    indices = classes.to(values.device).expand(values.shape[:-1])
    return values.gather(-1, indices[..., None]).squeeze(-1)
