"""What two circuits of one graph share, and what each has of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.errors import CircuitError


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Masks ``(receivers, senders)`` of the edges that two circuits share, and of those that one of them has alone."""

    shared: Tensor
    first: Tensor
    second: Tensor

    @property
    def jaccard(self) -> float:
        """The Jaccard index of the edges."""
        return float(jaccard((self.shared | self.first)[None], (self.shared | self.second)[None]))


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """The Jaccard index of each of n masks with each of m, ``(n, …), (m, …) -> (n, m)``.

    It is 1 if both keep the same, even nothing, and 0 if they share nothing.
    """
    kept, others = (masks.flatten(1).double() for masks in (first, second))
    both = kept @ others.T
    either = kept.sum(dim=1)[:, None] + others.sum(dim=1) - both
    return torch.where(either > 0, both / either.clamp_min(1), 1.0)


def compare(first: Circuit, second: Circuit) -> Comparison:
    """Compare two circuits; CircuitError if they belong to different graphs."""
    if first.graph != second.graph:
        raise CircuitError(
            f"the circuits belong to different graphs ({first.graph.describe()}, and {second.graph.describe()}): "
            "compare circuits of one model, found with the same acdc.split_qkv and acdc.mlp_groups"
        )
    return Comparison(
        shared=first.keep_mask & second.keep_mask,
        first=first.keep_mask & ~second.keep_mask,
        second=second.keep_mask & ~first.keep_mask,
    )


def by_layer(circuit: Circuit, mask: Tensor) -> list[int]:
    """How many edges of a mask end in each layer, and last in the logits."""
    layers = torch.tensor([receiver.node.layer for receiver in circuit.graph.receivers])
    return torch.bincount(layers, mask.sum(dim=1), minlength=len(circuit.graph.layer_heads) + 1).long().tolist()
