from __future__ import annotations

import pytest
import torch

from tests.training.conftest import tiny_model
from vitprune.training.gradients import GradientMeter


def test_mean_and_maximum_are_taken_over_entries_and_steps() -> None:
    model = tiny_model()
    meter = GradientMeter(model)
    weight = model.classifier.weight
    for value in (1.0, -3.0):
        weight.grad = torch.full_like(weight, value)
        weight.grad[0, 0] = 0
        meter.record()
    (classifier,) = [gradient for gradient in meter.finish(epoch=4) if gradient.layer == "classifier"]
    assert classifier.epoch == 4
    assert classifier.mean_abs == pytest.approx(2 * (1 - 1 / weight.numel()))
    assert classifier.max_abs == 3


def test_an_epoch_starts_from_zero() -> None:
    model = tiny_model()
    meter = GradientMeter(model)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    meter.record()
    meter.finish(epoch=1)
    assert {(g.mean_abs, g.max_abs) for g in meter.finish(epoch=2)} == {(0.0, 0.0)}
