from __future__ import annotations

import torch

from tests.training.conftest import recipe, tiny_model, train_tiny
from vitprune.training.average import average_of


def test_the_average_follows_its_formula():
    model = tiny_model()
    average, by_hand = average_of(model, 0.5), None
    for step in range(12):
        with torch.no_grad():
            model.positions += step
        average.update_parameters(model)
        if by_hand is None:
            by_hand = model.positions.detach().clone()
        else:
            decay = min(0.5, (1 + step) / (10 + step))
            by_hand = decay * by_hand + (1 - decay) * model.positions.detach()
    assert torch.allclose(average.module.positions, by_hand, rtol=0, atol=1e-5)


def test_the_average_is_what_is_scored_and_kept(splits):
    plain, averaged = tiny_model(), tiny_model()
    first = train_tiny(plain, *splits)
    second = train_tiny(averaged, *splits, recipe=recipe(ema_decay=0.9))
    assert [record.train_loss for record in first.history] == [record.train_loss for record in second.history]
    assert [record.val_loss for record in first.history] != [record.val_loss for record in second.history]
    assert not torch.equal(plain.positions, averaged.positions)
