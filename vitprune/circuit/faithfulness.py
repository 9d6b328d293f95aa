"""How much of the full model's behaviour circuits recover, by the number of edges that they keep.

With m the metric (KL to the full model), the recovered share is (m(nothing kept) − m(circuit)) / (m(nothing kept) −
m(full)): 1 for the full model, 0 for the fully ablated one, below 0 for circuits that are worse than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.ranking import top_edges
from vitprune.core.model.vit import ViT

SHARES = (0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0)
"""Shares of the edges at which a curve is measured."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """A circuit's figures on some images: edges, KL(full ‖ circuit) in nats, accuracy, recovered share of the KL."""

    edges: int
    kl: float
    accuracy: float
    recovered: float

    def as_row(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


class FaithfulnessMeter:
    """Measures circuits of one model on the same images ``(b, c, height, width)`` with their labels ``(b,)``."""

    def __init__(self, model: ViT, images: Tensor, labels: Tensor, example: Circuit) -> None:
        self.model, self.images, self.labels, self.example = model, images, labels, example
        with torch.no_grad():
            self.full_logits = torch.cat([model(batch) for batch in images.split(256)])
        nothing = torch.zeros_like(example.graph.all_edges)
        self.empty_kl = kl_divergence(self.full_logits, self._logits(nothing))

    def _logits(self, keep_mask: Tensor) -> Tensor:
        return replace(self.example, keep_mask=keep_mask).logits(self.model, self.images, batch_size=64)

    def measure(self, keep_mask: Tensor) -> Faithfulness:
        """The circuit that keeps the edges where ``keep_mask (receivers, senders)`` is True."""
        logits = self._logits(keep_mask)
        kl = kl_divergence(self.full_logits, logits)
        return Faithfulness(
            edges=int(keep_mask.sum()),
            kl=kl,
            accuracy=float((logits.argmax(dim=-1) == self.labels).cpu().double().mean()),
            recovered=1 - kl / self.empty_kl if self.empty_kl else 1.0,
        )

    def completeness(self, circuit: Circuit) -> Faithfulness:
        """The figures of the complement: all edges that the circuit does not keep."""
        return self.measure(circuit.graph.all_edges & ~circuit.keep_mask)

    def curve(self, scores: Tensor, shares: Sequence[float] = SHARES) -> list[Faithfulness]:
        """Circuits of the edges with the largest scores, for each share of all edges; each of them closed."""
        graph = self.example.graph
        points = []
        for share in shares:
            keep_mask = top_edges(graph, scores, round(share * len(graph.edges)))
            points.append(replace(self.measure(graph.close(keep_mask)), edges=int(keep_mask.sum())))
        return points


def area_under(curve: Sequence[Faithfulness]) -> float:
    """Area under the recovered share, clipped to 0 … 1, against the share of edges kept, by the trapezoidal rule."""
    edges = np.array([point.edges for point in curve], dtype=np.float64)
    recovered = np.clip([point.recovered for point in curve], 0, 1)
    return float(np.trapezoid(recovered, edges / edges.max()))
