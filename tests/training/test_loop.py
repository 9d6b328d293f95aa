from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.training.conftest import (
    ALL_AUGMENTATION,
    PREPROCESSING,
    random_split,
    recipe,
    tiny_model,
    train_tiny,
)
from vitprune.data.packed import Split
from vitprune.errors import ConfigError, DataError, TrainingError
from vitprune.model import Preprocessing, ViT
from vitprune.training.history import EpochRecord
from vitprune.training.loop import train

Splits = tuple[Split, Split]


def weights_of(model: ViT) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_weights(first: ViT, second: ViT) -> bool:
    others = second.state_dict()
    return all(torch.equal(tensor, others[name]) for name, tensor in first.state_dict().items())


def accuracy_of(model: ViT, split: Split) -> float:
    """Accuracy by the shortest way, without any of the loop's parts."""
    with torch.no_grad():
        logits = model.eval()(PREPROCESSING(torch.from_numpy(split.images)))
    return float((logits.argmax(1).numpy() == split.labels).mean())


def test_a_tiny_vit_learns_32_images_by_heart() -> None:
    split = random_split(32)
    model = tiny_model(d_model=32, d_mlp=64)
    result = train_tiny(model, split, split, epochs=40, learning_rate=0.01, recipe=recipe(batch_size=16))
    assert result.history[-1].train_loss < 0.05
    assert accuracy_of(model, split) == 1.0


def test_the_same_seed_gives_bitwise_equal_weights_and_another_seed_does_not(splits: Splits) -> None:
    models = []
    for seed in (0, 0, 1):
        torch.rand(seed + len(models))  # whatever the caller drew before must not matter
        model = tiny_model(dropout=0.1, drop_path=0.2)
        train_tiny(model, *splits, epochs=2, recipe=recipe(augment=ALL_AUGMENTATION), seed=seed)
        models.append(model)
    assert same_weights(models[0], models[1])
    assert not same_weights(models[0], models[2])


def test_the_callers_random_state_is_unchanged(splits: Splits) -> None:
    model = tiny_model(dropout=0.1)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    train_tiny(model, *splits, recipe=recipe(augment=ALL_AUGMENTATION))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)


def test_callbacks_that_draw_random_numbers_do_not_change_the_result(splits: Splits) -> None:
    first, second = tiny_model(dropout=0.1), tiny_model(dropout=0.1)
    train_tiny(first, *splits, recipe=recipe(augment=ALL_AUGMENTATION))
    train_tiny(
        second,
        *splits,
        recipe=recipe(augment=ALL_AUGMENTATION),
        on_step=lambda *_: torch.rand(3),
        on_epoch=lambda _: torch.rand(3),
    )
    assert same_weights(first, second)


def test_dropout_follows_the_seed(splits: Splits) -> None:
    models = [tiny_model(dropout=0.0), tiny_model(dropout=0.3)]
    for model in models:
        train_tiny(model, *splits)
    assert not same_weights(*models)


def test_the_best_epoch_is_restored(splits: Splits) -> None:
    model = tiny_model()
    snapshots: list[dict[str, torch.Tensor]] = []
    result = train_tiny(
        model, *splits, epochs=8, learning_rate=0.01, on_epoch=lambda _: snapshots.append(weights_of(model))
    )
    ranked = sorted(result.history, key=lambda r: (-r.val_accuracy, r.val_loss, r.epoch))
    assert result.best_epoch == ranked[0].epoch
    assert result.best_epoch < 8, "noise is best forgotten early; else this test shows nothing"
    assert all(torch.equal(t, snapshots[result.best_epoch - 1][n]) for n, t in model.state_dict().items())
    assert accuracy_of(model, splits[1]) == pytest.approx(result.best.val_accuracy)
    assert not model.training


def test_with_equal_scores_the_earlier_epoch_is_best(splits: Splits) -> None:
    # A learning rate of nearly zero leaves the weights, and so the scores, as they are.
    result = train_tiny(tiny_model(), *splits, learning_rate=1e-30)
    assert result.best_epoch == 1


def test_history_has_one_record_per_epoch_and_callbacks_see_all_of_it(splits: Splits) -> None:
    seen: list[EpochRecord] = []
    steps: list[tuple[int, int]] = []
    result = train_tiny(tiny_model(), *splits, on_epoch=seen.append, on_step=lambda *step: steps.append(step))
    assert tuple(seen) == result.history
    assert [record.epoch for record in seen] == [1, 2, 3]
    # 33 images in batches of 8 leave one over, and a batch of one image is left out.
    assert steps == [(step, 12) for step in range(1, 13)]
    assert all(record.seconds > 0 and record.images_per_second > 0 for record in seen)
    assert seen[0].learning_rate == pytest.approx(0.003)
    assert seen[2].learning_rate < 0.0003


def test_training_accuracy_is_given_where_images_have_one_true_class(splits: Splits) -> None:
    hard = train_tiny(tiny_model(), *splits)
    mixed = train_tiny(tiny_model(), *splits, recipe=recipe(augment=ALL_AUGMENTATION))
    assert all(0 <= record.train_accuracy <= 1 for record in hard.history if record.train_accuracy is not None)
    assert hard.history[0].train_accuracy is not None
    assert mixed.history[0].train_accuracy is None


def test_gradients_are_recorded_before_clipping(splits: Splits) -> None:
    free, clipped = (
        train_tiny(tiny_model(), *splits, epochs=2, learning_rate=1e-30, recipe=recipe(clip_norm=norm))
        for norm in (1e9, 1e-6)
    )
    # With weights that do not move, clipping is the only difference.
    assert free.gradient_flow == clipped.gradient_flow
    assert max(gradient.max_abs for gradient in clipped.gradient_flow) > 1e-4


def test_clipping_changes_what_is_learnt(splits: Splits) -> None:
    free, clipped = tiny_model(), tiny_model()
    train_tiny(free, *splits, recipe=recipe(clip_norm=1e9))
    train_tiny(clipped, *splits, recipe=recipe(clip_norm=1e-9))
    assert not same_weights(free, clipped)


def test_a_loss_that_is_not_finite_stops_before_the_step(splits: Splits) -> None:
    model = tiny_model()
    before = weights_of(model)
    no_spread = Preprocessing(mean=(0.5,), std=(0.0,))
    with pytest.raises(TrainingError, match=r"epoch 1, batch 1: the loss is not finite \(loss nan.*lower the learning"):
        train_tiny(model, *splits, preprocessing=no_spread)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_gradients_that_are_not_finite_stop_before_the_step(splits: Splits) -> None:
    model = tiny_model()
    before = weights_of(model)
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="epoch 1, batch 1: the gradient norm is not finite"):
        train_tiny(model, *splits)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_fp16_is_refused_on_a_cpu(splits: Splits) -> None:
    with pytest.raises(ConfigError, match=r"compute\.precision fp16 needs a CUDA device.*cpu; use bf16 or fp32"):
        train_tiny(tiny_model(), *splits, precision="fp16")


def test_bf16_trains_float32_weights() -> None:
    split = random_split(16)
    model = tiny_model(d_model=32, d_mlp=64)
    result = train_tiny(model, split, split, epochs=15, learning_rate=0.01, precision="bf16")
    assert result.history[-1].train_loss < 0.7 * result.history[0].train_loss
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}


def test_an_empty_validation_split_is_refused(splits: Splits) -> None:
    with pytest.raises(DataError, match=r"the validation split has no images.*clean\.val_fraction"):
        train_tiny(tiny_model(), splits[0], random_split(0))


def test_a_warm_up_as_long_as_the_training_is_refused(splits: Splits) -> None:
    with pytest.raises(ConfigError, match="less than epochs"):
        train_tiny(tiny_model(), *splits, epochs=2, warmup_epochs=2.0)


def test_a_pruned_model_with_missing_sublayers_trains(splits: Splits) -> None:
    model = tiny_model(heads_per_layer=(0, 1), neurons_per_layer=(5, 0), token_biases=True)
    result = train_tiny(model, *splits)
    assert [g.layer for g in result.gradient_flow if g.epoch == 1] == [
        "patches",
        "m0.hidden",
        "m0.out",
        "a1.qkv",
        "a1.out",
        "classifier",
    ]


def test_a_split_too_large_for_the_device_trains_to_the_same_weights(
    splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, streamed = tiny_model(), tiny_model()
    train_tiny(resident, *splits)
    monkeypatch.setattr("vitprune.training.batches.RESIDENT_BYTES", 0)
    train_tiny(streamed, *splits)
    assert same_weights(resident, streamed)


def test_one_step_equals_adamw_by_hand() -> None:
    """The whole loop against a few lines that use nothing of it, for one step on all images."""
    split = random_split(8)
    model, expected = tiny_model(), tiny_model()
    train(
        model,
        split,
        split,
        preprocessing=PREPROCESSING,
        epochs=1,
        learning_rate=0.01,
        warmup_epochs=0.0,
        recipe=recipe(clip_norm=0.1, label_smoothing=0.1),
        device=torch.device("cpu"),
        precision="fp32",
        seed=0,
    )
    logits = expected.train()(PREPROCESSING(torch.from_numpy(split.images)))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(split.labels), label_smoothing=0.1).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
    for name, parameter in expected.named_parameters():
        decay = 0.05 if name.endswith("weight") and "norm" not in name else 0.0
        torch.optim.AdamW([parameter], lr=0.01, weight_decay=decay, fused=False).step()
    for name, parameter in expected.named_parameters():
        # Adam's first step is nearly the sign of the gradient: where that is tiny, the order of sums decides.
        assert parameter.grad is not None
        certain = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(model.get_parameter(name)[certain], parameter[certain], rtol=1e-3, atol=1e-5)
