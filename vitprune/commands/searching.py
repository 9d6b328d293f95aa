"""What the acdc command searches on, and how it compares what it found with other ways to rank edges."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.circuit.discover import rankings
from vitprune.circuit.faithfulness import FaithfulnessMeter, area_under
from vitprune.config import AcdcParams
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
    options: AcdcParams,
    found: Circuit,
    model: ViT,
    images: Tensor,
    labels: Tensor,
    packed: PackedData,
    preprocessing: Preprocessing,
    device: torch.device,
) -> tuple[str, dict[str, Any]]:
    """Faithfulness on validation images: the curves as CSV, and the figures of the circuit for the metrics."""
    chosen = np.arange(min(CURVE_IMAGES, len(packed.val)))
    meter = FaithfulnessMeter(model, *_loaded(packed.val, chosen, preprocessing, device), found)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "edges", "kl", "accuracy", "recovered"])
    areas = {}
    for method, scores in rankings(options, found, model, images, labels).items():
        curve = meter.curve(scores)
        areas[method] = round(area_under(curve), 4)
        writer.writerows([method, *point.as_row().values()] for point in curve)
    point, rest = meter.measure(found.keep_mask), meter.completeness(found)
    summary = {
        "images": len(chosen),
        "circuit": point.as_row(),
        "without_the_circuit": rest.as_row(),
        "area_under_curve": areas,
    }
    return text.getvalue(), summary


def _loaded(
    split: Split, chosen: np.ndarray, preprocessing: Preprocessing, device: torch.device
) -> tuple[Tensor, Tensor]:
    images = preprocessing(torch.from_numpy(split.images[chosen]).to(device))
    return images, torch.from_numpy(split.labels[chosen]).to(device)
