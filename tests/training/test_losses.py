from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from vitprune.training.losses import smoothed_cross_entropy


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 4, 2, 2, 1, 3])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_equals_its_formula_for_hard_labels(logits: torch.Tensor, smoothing: float) -> None:
    target = torch.full((6, 5), smoothing / 5).scatter_add(1, LABELS[:, None], torch.full((6, 1), 1 - smoothing))
    expected = -(target * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(smoothed_cross_entropy(logits, LABELS, label_smoothing=smoothing), expected)
    torch.testing.assert_close(F.cross_entropy(logits, LABELS, label_smoothing=smoothing), expected)


def test_one_hot_targets_and_labels_give_the_same_loss(logits: torch.Tensor) -> None:
    one_hot = F.one_hot(LABELS, 5).float()
    hard, soft = (smoothed_cross_entropy(logits, targets, label_smoothing=0.1) for targets in (LABELS, one_hot))
    torch.testing.assert_close(hard, soft)


def test_the_loss_is_linear_in_mixed_targets(logits: torch.Tensor) -> None:
    first, second = F.one_hot(LABELS, 5).float(), F.one_hot(LABELS.roll(1), 5).float()
    loss = lambda targets: smoothed_cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(loss(0.3 * first + 0.7 * second), 0.3 * loss(first) + 0.7 * loss(second))


def test_half_precision_logits_are_scored_in_float32(logits: torch.Tensor) -> None:
    assert smoothed_cross_entropy(logits.bfloat16(), LABELS).dtype == torch.float32
