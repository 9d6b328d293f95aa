"""Single steps: one against AdamW by hand, and those with gradients that are not finite."""

from __future__ import annotations

import pytest
import torch

from tests.training.conftest import PREPROCESSING, random_split, recipe, same_weights, tiny_model, weights_of
from vitprune.errors import TrainingError
from vitprune.training.batches import place
from vitprune.training.compute import Compute
from vitprune.training.steps import Steps

CPU = torch.device("cpu")


def steps_of(model, options, num_images=8):
    return Steps(
        model,
        place(random_split(num_images), CPU),
        options,
        preprocessing=PREPROCESSING,
        compute=Compute(device=CPU, precision="fp32", seed=0),
    )


def test_one_step_equals_adamw_by_hand():
    """A whole step against a few lines that use nothing of it."""
    split, model, expected = random_split(8), tiny_model(), tiny_model()
    options = recipe(epochs=1, learning_rate=0.01, warmup_epochs=0.0, clip_norm=0.1, label_smoothing=0.1)
    steps_of(model, options).train_epoch(lambda: None)
    logits = expected.train()(PREPROCESSING(torch.from_numpy(split.images)))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(split.labels), label_smoothing=0.1).backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.1)
    for name, parameter in expected.named_parameters():
        decay = 0.05 if name.endswith("weight") and "norm" not in name else 0.0
        torch.optim.AdamW([parameter], lr=0.01, weight_decay=decay, fused=False).step()
        # Adam's first step is nearly the sign of the gradient: where that is tiny, the order of sums decides.
        certain = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(model.get_parameter(name)[certain], parameter[certain], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("matrix", ["blocks.0.attention.qkv", "classifier"])
@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_an_overflow_in_one_matrix_skips_the_step_of_all_optimisers(matrix, factor):
    # Muon has the first of the two matrices, AdamW the second.
    model = tiny_model()
    steps = steps_of(model, recipe(optimizer="muon", ema_decay=0.5), num_images=32)
    # fp16 needs CUDA; the scaler alone works on a CPU as well.
    steps.scaler = torch.amp.GradScaler("cpu", enabled=True)
    scale, before = steps.scaler.get_scale(), weights_of(model)
    hook = model.get_submodule(matrix).weight.register_hook(lambda gradient: factor * gradient)
    weights, scales = [], []

    def after_step():
        hook.remove()
        weights.append(weights_of(model))
        scales.append(steps.scaler.get_scale())

    steps.train_epoch(after_step)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights[0].items())
    assert all(tensor.isfinite().all() and not torch.equal(tensor, before[name]) for name, tensor in weights[1].items())
    assert scales == [scale / 2] * 4
    assert steps.meter.steps == 3
    assert int(steps.average.n_averaged) == 3


def test_gradients_that_overflow_without_scaling_end_the_training():
    model = tiny_model()
    steps = steps_of(model, recipe(), num_images=32)
    steps.scaler = torch.amp.GradScaler("cpu", enabled=True, init_scale=4.0)
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingError, match="epoch 1, batch 3: the gradient norm is not finite"):
        steps.train_epoch(lambda: None)
    assert same_weights(model, tiny_model())
