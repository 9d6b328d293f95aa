"""The recipe of the report stage: what the page shows that no stage before has computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vitprune.circuit import Circuit
from vitprune.circuit.heads import view_heads
from vitprune.core.model import SavedModel
from vitprune.core.model.predict import predict
from vitprune.core.packed import PackedData
from vitprune.evaluation.summary import multiply_adds
from vitprune.report.page import Findings
from vitprune.report.page.images import spread_over_classes
from vitprune.report.page.weights import model_data
from vitprune.report.worst import worst_images

COMPUTED_IMAGES = 20
"""Test images that the page computes with."""
VIEWED_IMAGES, FEWEST_VIEWED = 128, 16
"""Test images on which heads are viewed; fewer of a large model."""
VIEW_MULTIPLY_ADDS = 10**12
"""About a minute on two CPU cores."""


def find(
    packed: PackedData, circuit: Circuit, circuit_model: SavedModel, pruned: SavedModel, device: torch.device
) -> Findings:
    """Compute what the page shows; the models are on ``device``."""
    test, model = packed.test, circuit_model.model
    heads = max(1, sum(model.config.layer_heads))
    affordable = VIEW_MULTIPLY_ADDS // (heads * multiply_adds(model.config))
    counts = (COMPUTED_IMAGES, min(VIEWED_IMAGES, max(FEWEST_VIEWED, affordable)))
    chosen, viewed = (spread_over_classes(test.labels, count) for count in counts)

    def images(indices: np.ndarray) -> Tensor:
        return circuit_model.preprocessing(torch.from_numpy(test.images[indices]).to(device))

    labels = torch.from_numpy(test.labels[viewed]).to(device)
    logits = predict(pruned.model, test.images, pruned.preprocessing, device=device)
    return Findings(
        chosen=chosen,
        viewed=viewed,
        model_data=model_data(model, circuit, images(chosen), chosen.tolist()),
        heads=list(view_heads(model, images(viewed), labels, circuit.ablation, viewed.tolist())),
        logits=logits,
        worst=worst_images(logits, test.labels),
    )
