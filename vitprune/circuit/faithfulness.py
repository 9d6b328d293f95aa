"""How much of the full model's behaviour circuits recover, by the number of edges that they keep.

With m a metric, a circuit recovers the share (m(circuit) − m(nothing)) / (m(full) − m(nothing)): 1 for the full model,
0 for the fully ablated one; more or less than that is possible. For the logit difference between the label and the full
model's strongest other class this is f of the benchmark MIB (arXiv 2504.13151). Of a ranking, f_k is measured on
circuits of the best share k of all edges; CPR = ∫ f dk, the higher the better, and CMD = ∫ |1 − f| dk, the lower the
better, by the trapezoidal rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.metrics import Reference, damage, kl, logit_difference
from vitprune.circuit.ranking import top_edges
from vitprune.core.model.vit import ViT

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's shares of the edges."""


@dataclass(frozen=True, kw_only=True)
class Faithfulness:
    """A circuit's figures on some images: edges, KL(full ‖ circuit) in nats, accuracy, and what it recovers.

    ``recovered`` is the share of the KL, ``f`` that of the logit difference.
    """

    edges: int
    kl: float
    accuracy: float
    recovered: float
    f: float

    def as_row(self) -> dict[str, float]:
        """The figures by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class CommonScale:
    """A ranking's areas on MIB's scale: ``cpr`` from its signed scores, ``cmd`` from their absolute values."""

    cpr: float
    cmd: float


class FaithfulnessMeter:
    """Measures circuits of one model on the same images ``(b, c, height, width)`` with their labels ``(b,)``.

    ``rivals (b,)`` are those of the logit difference; by default the model's strongest other classes.
    """

    def __init__(
        self, model: ViT, images: Tensor, labels: Tensor, example: Circuit, rivals: Tensor | None = None
    ) -> None:
        self.model, self.images, self.labels, self.example = model, images, labels, example
        with torch.no_grad():
            full = torch.cat([model(batch) for batch in images.split(256)])
        self._reference = Reference.of(full, labels, rivals)
        self._full = self._figures(full)
        self._nothing = self._figures(self._logits(torch.zeros_like(example.graph.all_edges)))

    def _logits(self, keep_mask: Tensor) -> Tensor:
        return replace(self.example, keep_mask=keep_mask).logits(self.model, self.images, batch_size=64)

    def _figures(self, logits: Tensor) -> tuple[float, ...]:
        """KL and logit difference, both the lower the better."""
        return tuple(float(damage(metric, logits, self._reference).mean()) for metric in (kl, logit_difference))

    def measure(self, keep_mask: Tensor) -> Faithfulness:
        """The circuit that keeps the edges where ``keep_mask (receivers, senders)`` is True."""
        logits = self._logits(keep_mask)
        figures = self._figures(logits)
        recovered, f = (
            (nothing - here) / (nothing - full) if nothing != full else 1.0
            for here, full, nothing in zip(figures, self._full, self._nothing, strict=True)
        )
        return Faithfulness(
            edges=int(keep_mask.sum()),
            kl=figures[0],
            accuracy=float((logits.argmax(dim=-1) == self.labels).cpu().double().mean()),
            recovered=recovered,
            f=f,
        )

    def completeness(self, circuit: Circuit) -> Faithfulness:
        """The figures of the complement: all edges that the circuit does not keep."""
        return self.measure(circuit.graph.all_edges & ~circuit.keep_mask)

    def curve(
        self, scores: Tensor, shares: Sequence[float] = (0.0, *SHARES), *, is_signed: bool = False
    ) -> list[Faithfulness]:
        """Circuits of the best edges, for each share of all edges, rounded down; each of them closed.

        The best have the largest absolute scores or, if scores are signed, the highest.
        """
        graph = self.example.graph
        points = []
        for share in shares:
            keep_mask = top_edges(graph, scores, int(share * len(graph.edges)), is_signed=is_signed)
            points.append(replace(self.measure(graph.close(keep_mask)), edges=int(keep_mask.sum())))
        return points

    def common_scale(self, scores: Tensor) -> CommonScale:
        """CPR and CMD of a ranking by ``scores (receivers, senders)``, in which a high score is for a helpful edge."""
        by_size, by_sign = (self.curve(scores, SHARES, is_signed=is_signed) for is_signed in (False, True))
        return CommonScale(
            cpr=float(np.trapezoid([point.f for point in by_sign], SHARES)),
            cmd=float(np.trapezoid([abs(1 - point.f) for point in by_size], SHARES)),
        )
