"""The recipe behind ``vitprune importance``: a ranking of edges on the scale of the benchmark MIB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.faithfulness import SHARES, CommonScale, Faithfulness, FaithfulnessMeter
from vitprune.circuit.sample import normalised
from vitprune.core.model import SavedModel
from vitprune.core.packed import PackedData
from vitprune.recipes.acdc import CURVE_IMAGES


@dataclass(frozen=True, kw_only=True)
class ScoredRanking:
    """The areas of a ranking, and circuits of its best edges, for each of MIB's shares of the edges."""

    scale: CommonScale
    curve: list[Faithfulness]

    def as_metrics(self) -> dict[str, Any]:
        """All figures by name."""
        points = [{"share": share} | point.as_row() for share, point in zip(SHARES, self.curve, strict=True)]
        return vars(self.scale) | {"curve": points}


def score_ranking(
    packed: PackedData, saved: SavedModel, circuit: Circuit, scores: Tensor, device: torch.device
) -> ScoredRanking:
    """Measure a ranking by ``scores (receivers, senders)`` on validation images, with the circuit's ablation."""
    chosen = np.arange(min(CURVE_IMAGES, len(packed.val)))
    images, labels = normalised(packed.val, chosen, saved.preprocessing, device)
    meter = FaithfulnessMeter(saved.model, images, labels, circuit)
    return ScoredRanking(scale=meter.common_scale(scores), curve=meter.curve(scores, SHARES))
