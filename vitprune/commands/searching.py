"""What the acdc command searches on, and how it compares what it found with other ways to rank edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.circuit.discovery import rankings
from vitprune.circuit.faithfulness import Faithfulness, FaithfulnessMeter, area_under
from vitprune.circuit.options import AcdcOptions
from vitprune.data.packed import PackedData, Split
from vitprune.model.checkpoint import Preprocessing
from vitprune.model.vit import ViT

CURVE_IMAGES = 256
"""Validation images on which circuits of many sizes are measured."""


def search_images(
    packed: PackedData, preprocessing: Preprocessing, count: int, seed: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Up to ``count`` normalised training images ``(b, c, height, width)`` drawn by ``seed``, and their labels."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(packed.train))[:count])
    return _loaded(packed.train, chosen, preprocessing, device)


def compare_rankings(
    options: AcdcOptions,
    found: Circuit,
    model: ViT,
    images: Tensor,
    labels: Tensor,
    packed: PackedData,
    preprocessing: Preprocessing,
    device: torch.device,
) -> tuple[dict[str, list[Faithfulness]], Faithfulness, dict[str, Any]]:
    """Faithfulness on validation images: a curve for each ranking, the circuit's own, and figures for the metrics."""
    chosen = np.arange(min(CURVE_IMAGES, len(packed.val)))
    meter = FaithfulnessMeter(model, *_loaded(packed.val, chosen, preprocessing, device), found)
    curves = {method: meter.curve(scores) for method, scores in rankings(options, found, model, images, labels).items()}
    point, rest = meter.measure(found.keep_mask), meter.completeness(found)
    summary = {
        "images": len(chosen),
        "circuit": point.as_row(),
        "without_the_circuit": rest.as_row(),
        "area_under_curve": {method: round(area_under(curve), 4) for method, curve in curves.items()},
    }
    return curves, point, summary


def _loaded(
    split: Split, chosen: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    images = preprocessing(torch.from_numpy(split.images[chosen]).to(device))
    return images, torch.from_numpy(split.labels[chosen]).to(device)
