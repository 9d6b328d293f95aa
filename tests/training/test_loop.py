from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.conftest import (
    ALL_AUGMENTATION,
    PREPROCESSING,
    Trained,
    random_split,
    recipe,
    same_weights,
    tiny_model,
    train_tiny,
    weights_of,
)
from vitprune.core.compute import distributed
from vitprune.core.compute.distributed import World
from vitprune.core.model import Preprocessing, ViT
from vitprune.core.packed import Split
from vitprune.errors import DataError, TrainingError

Splits = tuple[Split, Split]


def accuracy_of(model: ViT, split: Split) -> float:
    """Accuracy by the shortest way, without any part of the loop."""
    with torch.no_grad():
        logits = model.eval()(PREPROCESSING(torch.from_numpy(split.images)))
    return float((logits.argmax(1).numpy() == split.labels).mean())


@pytest.mark.parametrize(("precision", "optimizer"), [("fp32", "adamw"), ("bf16", "adamw"), ("fp32", "muon")])
@pytest.mark.slow
def test_a_tiny_vit_learns_16_images_by_heart(precision: str, optimizer: str) -> None:
    split, model = random_split(16), tiny_model(d_model=32, d_mlp=64)
    options = recipe(epochs=30, learning_rate=0.01, optimizer=optimizer)
    result = train_tiny(model, split, split, options, precision=precision)
    assert result.history[-1].train_loss < 0.05
    assert accuracy_of(model, split) == 1.0
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_the_seed_decides_the_weights_and_callers_random_numbers_play_no_part(splits: Splits) -> None:
    models = [tiny_model(dropout=0.1, drop_path=0.2) for _ in range(3)]
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    options = recipe(epochs=2, augment=ALL_AUGMENTATION)
    train_tiny(models[0], *splits, options)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    train_tiny(models[1], *splits, options, on_step=lambda *_: torch.rand(3), on_epoch=lambda _: torch.rand(3))
    train_tiny(models[2], *splits, options, seed=1)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


@pytest.mark.parametrize(
    ("shape", "changes"), [({"dropout": 0.3}, {}), ({"drop_path": 0.5}, {}), ({}, {"clip_norm": 1e-9})]
)
def test_regularisation_changes_what_is_learnt(splits: Splits, trained: Trained, shape, changes) -> None:
    model = tiny_model(**shape)
    train_tiny(model, *splits, recipe(**changes))
    assert not same_weights(model, trained.model)


def test_the_best_epoch_is_restored(splits: Splits) -> None:
    model = tiny_model()
    snapshots: list[dict[str, torch.Tensor]] = []
    options = recipe(epochs=8, learning_rate=0.01)
    result = train_tiny(model, *splits, options, on_epoch=lambda _: snapshots.append(weights_of(model)))
    ranked = sorted(result.history, key=lambda r: (-r.val_accuracy, r.val_loss, r.epoch))
    assert result.best_epoch == ranked[0].epoch
    assert result.best_epoch < 8, "noise is best forgotten early; else this test shows nothing"
    assert same_weights(model, snapshots[result.best_epoch - 1])
    assert accuracy_of(model, splits[1]) == pytest.approx(result.best.accuracy)
    assert not model.training


def test_a_model_that_may_stay_keeps_its_weights_if_no_epoch_is_better(splits: Splits) -> None:
    model = tiny_model()
    known = random_split(32)
    train_tiny(model, known, known, recipe(epochs=30, learning_rate=0.01))
    before, accuracy = weights_of(model), accuracy_of(model, known)
    options = recipe(epochs=2, learning_rate=0.01)
    stayed = train_tiny(model, splits[0], known, options, may_stay=True)
    assert (stayed.best_epoch, len(stayed.history)) == (0, 2)
    assert stayed.best.accuracy == pytest.approx(accuracy)
    assert same_weights(model, before)
    assert train_tiny(model, splits[0], known, options).best_epoch > 0
    assert not same_weights(model, before)


def test_history_has_one_record_per_epoch_and_callbacks_see_all_of_it(trained: Trained) -> None:
    assert tuple(trained.epochs) == trained.result.history
    assert [record.epoch for record in trained.epochs] == [1, 2, 3]
    # 33 images in batches of 8 leave one over, and a batch of one image is left out.
    assert trained.steps == [(step, 12) for step in range(1, 13)]
    assert all(record.seconds > 0 and record.images_per_second > 0 for record in trained.epochs)
    assert trained.epochs[0].learning_rate == pytest.approx(0.003)
    assert trained.epochs[2].learning_rate < 0.0003


def test_training_accuracy_is_given_where_images_have_one_true_class(splits: Splits, trained: Trained) -> None:
    still = tiny_model()
    # A learning rate of almost zero leaves the weights, and so what is right, as they are.
    options = recipe(epochs=1, warmup_epochs=0.0, learning_rate=1e-30)
    (record,) = train_tiny(still, *(random_split(32),) * 2, options).history
    assert record.train_accuracy == pytest.approx(accuracy_of(still, random_split(32)))
    mixed = train_tiny(tiny_model(), *splits, recipe(epochs=2, augment=ALL_AUGMENTATION))
    assert [record.train_accuracy for record in mixed.history] == [None, None]


def test_with_equal_scores_the_earlier_epoch_is_best_and_gradients_are_recorded_before_clipping(splits: Splits) -> None:
    # Weights that do not move have the same score in each epoch, and clipping is the only difference.
    options = recipe(epochs=2, learning_rate=1e-30)
    free, clipped = (
        train_tiny(tiny_model(), *splits, options.model_copy(update={"clip_norm": norm})) for norm in (1e9, 1e-6)
    )
    assert free.best_epoch == 1
    assert free.gradient_flow == clipped.gradient_flow
    assert max(gradient.max_abs for gradient in clipped.gradient_flow) > 1e-4


def test_a_loss_that_is_not_finite_stops_before_the_step(splits: Splits) -> None:
    model = tiny_model()
    no_spread = Preprocessing(mean=(0.5,), std=(0.0,))
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1: the loss is not finite \(loss nan.*lower the learning"):
        train_tiny(model, *splits, preprocessing=no_spread)
    assert same_weights(model, tiny_model())


def test_gradients_that_are_not_finite_stop_before_the_step(splits: Splits) -> None:
    model = tiny_model()
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="epoch 1, batch 1: the gradient norm is not finite"):
        train_tiny(model, *splits)
    assert same_weights(model, tiny_model())


def test_an_empty_validation_split_is_refused(splits: Splits) -> None:
    with pytest.raises(DataError, match=r"the validation split has no images.*clean\.val_fraction"):
        train_tiny(tiny_model(), splits[0], random_split(0))


def test_batches_smaller_than_the_number_of_processes_are_refused(splits: Splits, monkeypatch) -> None:
    monkeypatch.setattr(distributed, "_world", World(0, 9))
    with pytest.raises(DataError, match=r"9 processes cannot share batches of 8 images; lower compute\.processes"):
        train_tiny(tiny_model(), *splits)


def test_a_pruned_model_with_missing_sublayers_trains(splits: Splits) -> None:
    model = tiny_model(heads_per_layer=(0, 1), neurons_per_layer=(5, 0), token_biases=True)
    before = weights_of(model)
    result = train_tiny(model, *splits, recipe(epochs=1, warmup_epochs=0.0))
    layers = [gradient.layer for gradient in result.gradient_flow]
    assert layers == ["patches", "m0.hidden", "m0.out", "a1.qkv", "a1.out", "classifier"]
    assert not any(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_split_too_large_for_the_device_trains_to_the_same_weights(
    splits: Splits, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitprune.training.batches.RESIDENT_BYTES", 0)
    streamed = tiny_model()
    result = train_tiny(streamed, *splits)
    assert same_weights(streamed, trained.model)
    timeless = [replace(record, seconds=0, images_per_second=0) for record in result.history]
    assert timeless == [replace(record, seconds=0, images_per_second=0) for record in trained.result.history]
