"""The losses of two short runs are those recorded, so that no change alters the recipe unnoticed.

``python -m tests.training.test_recorded_losses`` records them anew: run it only after an intended change.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.training.conftest import ALL_AUGMENTATION, PREPROCESSING, random_split, recipe, tiny_model, train_tiny
from vitprune.core.model import SavedModel
from vitprune.training.distillation import Distiller
from vitprune.training.options import DistillationOptions

RECORDED = Path(__file__).with_name("recorded_losses.json")
OPTIMISERS = ("adamw", "muon")
TOLERANCE = 1e-4
"""Relative. Other attention kernels change the losses by 2e-6, half of any option below by at least 2e-4."""


def losses(optimizer: str) -> list[dict[str, float]]:
    """Training and validation loss of three epochs with augmentation, dropout, an average and a teacher."""
    distillation = DistillationOptions(weight=0.5, temperature=2.0, hard=False, feature_weight=0.1)
    teacher = SavedModel(model=tiny_model(7).eval(), preprocessing=PREPROCESSING, class_names=("a", "b", "c", "d"))
    options = recipe(
        optimizer=optimizer,
        learning_rate=0.01,
        label_smoothing=0.1,
        augment=ALL_AUGMENTATION,
        ema_decay=0.3,
        weight_decay=5.0,
        distillation=distillation,
    )
    result = train_tiny(
        tiny_model(dropout=0.1, drop_path=0.2),
        random_split(33, seed=1),
        random_split(20, seed=2),
        options,
        distiller=Distiller(teacher, distillation, PREPROCESSING),
    )
    return [{"train_loss": record.train_loss, "val_loss": record.val_loss} for record in result.history]


@pytest.mark.parametrize("optimizer", OPTIMISERS)
def test_losses_are_those_recorded(optimizer: str) -> None:
    recorded = json.loads(RECORDED.read_text())[optimizer]
    for epoch, expected in zip(losses(optimizer), recorded, strict=True):
        assert epoch == pytest.approx(expected, rel=TOLERANCE)


if __name__ == "__main__":
    torch.set_num_threads(1)
    RECORDED.write_text(json.dumps({name: losses(name) for name in OPTIMISERS}, indent=2) + "\n")
