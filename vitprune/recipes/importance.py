"""The recipe behind ``vitprune importance``: a ranking of edges on the scale of the benchmark MIB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vitprune.circuit.circuit import Circuit
from vitprune.circuit.faithfulness import SHARES, CommonScale, Faithfulness, FaithfulnessMeter
from vitprune.circuit.options import AcdcOptions
from vitprune.circuit.sample import validation_sample
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
    packed: PackedData,
    saved: SavedModel,
    circuit: Circuit,
    scores: Tensor,
    options: AcdcOptions,
    device: torch.device,
) -> ScoredRanking:
    """Measure a ranking by ``scores (receivers, senders)`` with the circuit's ablation.

    The images are validation images, of the classes that ``options`` name if there are such.
    """
    sample = validation_sample(packed, saved.preprocessing, options, device, CURVE_IMAGES)
    meter = FaithfulnessMeter(saved.model, sample.images, sample.labels, circuit, sample.rivals)
    return ScoredRanking(scale=meter.common_scale(scores), curve=meter.curve(scores, SHARES))
