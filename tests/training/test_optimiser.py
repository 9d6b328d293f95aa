from __future__ import annotations

import math

import pytest
import torch

from tests.training.conftest import recipe, tiny_model, train_tiny
from vitprune.training.optimiser import WarmupCosine, average_of, make_optimisers, parameter_groups


def names(model: torch.nn.Module, parameters: list[torch.nn.Parameter]) -> set[str]:
    by_id = {id(parameter): name for name, parameter in model.named_parameters()}
    return {by_id[id(parameter)] for parameter in parameters}


def test_only_weight_matrices_are_decayed() -> None:
    model = tiny_model(num_layers=1, token_biases=True)
    decayed, others = parameter_groups(model, 0.05)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert names(model, decayed["params"]) == {
        "patches.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.hidden.weight",
        "blocks.0.mlp.out.weight",
        "classifier.weight",
    }
    # Token biases and positions are matrices too, but no weights.
    assert {"positions", "class_token", "norm.weight", "blocks.0.attention.out.bias"} <= names(model, others["params"])


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = tiny_model(patch_embedding="conv")
    grouped = [parameter for group in parameter_groups(model, 0.1) for parameter in group["params"]]
    assert len(grouped) == len(list(model.parameters()))
    assert names(model, grouped) == {name for name, _ in model.named_parameters()}
    assert "patches.weight" in names(model, parameter_groups(model, 0.1)[0]["params"])
    shifted = tiny_model(patch_embedding="shifted", positions="sincos", pooling="mean")
    decayed, others = (names(shifted, group["params"]) for group in parameter_groups(shifted, 0.1))
    assert decayed | others == {name for name, _ in shifted.named_parameters()}
    assert "patches.linear.weight" in decayed
    assert {"patches.norm.weight", "patches.linear.bias"} <= others


def test_without_a_gradient_only_decay_moves_weights() -> None:
    model = tiny_model()
    matrix, bias = model.classifier.weight, model.classifier.bias
    torch.nn.init.ones_(bias)
    before = matrix.detach().clone()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    (optimiser,) = make_optimisers(model, "adamw", learning_rate=0.1, weight_decay=0.5)
    optimiser.step()
    torch.testing.assert_close(matrix.detach(), before * (1 - 0.1 * 0.5))
    assert torch.equal(bias.detach(), torch.ones_like(bias))


def test_muon_has_the_matrices_of_the_layers_and_adamw_the_rest() -> None:
    model = tiny_model(num_layers=1, token_biases=True)
    muon, adamw = make_optimisers(model, "muon", learning_rate=0.1, weight_decay=0.05)
    (inner,) = muon.param_groups
    decayed, others = adamw.param_groups
    assert names(model, inner["params"]) == {
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.hidden.weight",
        "blocks.0.mlp.out.weight",
    }
    assert names(model, decayed["params"]) == {"patches.weight", "classifier.weight"}
    assert [group["weight_decay"] for group in (inner, decayed, others)] == [0.05, 0.05, 0.0]
    count = sum(len(group["params"]) for group in (inner, decayed, others))
    assert count == len(list(model.parameters()))


def test_a_model_without_layers_needs_no_muon() -> None:
    model = tiny_model(heads_per_layer=(0, 0), neurons_per_layer=(0, 0))
    (optimiser,) = make_optimisers(model, "muon", learning_rate=0.1, weight_decay=0.05)
    assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(model.parameters()))


def test_muons_steps_turn_and_do_not_grow_with_the_gradient() -> None:
    model = tiny_model(num_layers=1)
    weight = model.blocks[0].mlp.hidden.weight
    before = weight.detach().clone()
    for optimiser in make_optimisers(model, "muon", learning_rate=0.01, weight_decay=0.0):
        for parameter in model.parameters():
            parameter.grad = 1000 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        optimiser.step()
    step = weight.detach() - before
    # As long as AdamW's, about 0.2 of the learning rate a weight, and about the same in all directions.
    assert 0.1 < step.square().mean().sqrt().item() / 0.01 < 0.4
    singular = torch.linalg.svdvals(step)
    assert singular.max() / singular.min() < 3


def test_the_rate_rises_linearly_to_its_peak_then_falls_along_a_cosine() -> None:
    rate = WarmupCosine(peak=0.8, warmup_steps=4, total_steps=20)
    assert [rate(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8])
    assert rate(8) == pytest.approx(0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert rate(12) == pytest.approx(0.4)
    assert 0 < rate(19) < 0.01


def test_a_warm_up_need_not_be_whole_steps() -> None:
    rate = WarmupCosine(peak=1.0, warmup_steps=2.5, total_steps=10)
    assert [rate(step) for step in range(3)] == pytest.approx([0.4, 0.8, 1.0])
    assert rate(3) == pytest.approx((1 + math.cos(math.pi * 0.5 / 7.5)) / 2)


def test_without_warm_up_the_first_step_has_the_peak_rate() -> None:
    assert WarmupCosine(peak=0.3, warmup_steps=0, total_steps=5)(0) == 0.3


def test_the_average_follows_its_formula() -> None:
    model = tiny_model()
    average, expected = average_of(model, 0.5), None
    for update in range(12):
        with torch.no_grad():
            model.positions += update
        average.update_parameters(model)
        if expected is None:
            expected = model.positions.detach().clone()
        else:
            decay = min(0.5, (1 + update) / (10 + update))
            expected = decay * expected + (1 - decay) * model.positions.detach()
    assert torch.allclose(average.module.positions, expected, rtol=0, atol=1e-5)


def test_the_average_is_what_is_scored_and_kept(splits, trained) -> None:
    averaged = tiny_model()
    result = train_tiny(averaged, *splits, recipe(ema_decay=0.9))
    assert [record.train_loss for record in result.history] == [r.train_loss for r in trained.result.history]
    assert [record.val_loss for record in result.history] != [r.val_loss for r in trained.result.history]
    assert not torch.equal(trained.model.positions, averaged.positions)
