"""What stands for removed heads and neurons, against least squares by another route."""

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation
from vitprune.core.model.vit import Record
from vitprune.pruning import cut
from vitprune.pruning.compact import Survivors
from vitprune.pruning.fold import RIDGE, Fold

SHAPES = [{}, {"pooling": "mean"}, {"heads_per_layer": (2, 1), "neurons_per_layer": (12, 7), "token_biases": True}]


def case(shape, seed=0):
    model = random_model(seed, num_layers=2, **shape)
    return model, random_images(model, count=40, seed=seed)


def inner_activations(model, images, index):
    """``(b, t, m)`` of a sublayer, and the map ``(d, m)`` that writes them."""
    record = Record("heads", "neurons")
    with torch.no_grad():
        model.run(model.embed(images), record)
    block = model.blocks[index // 2]
    if index % 2:
        return record[index // 2, "neurons"], block.mlp.out
    return record[index // 2, "heads"].transpose(1, 2).flatten(2), block.attention.out


def kept_half(model, index):
    """The first half of the heads or neurons, and their inner activations' places as a mask."""
    block = model.blocks[index // 2]
    if index % 2:
        width = block.mlp.out.weight.shape[1]
        return torch.arange(width // 2), torch.arange(width) < width // 2
    heads, width = block.attention.num_heads, block.attention.out.weight.shape[1]
    return torch.arange((heads + 1) // 2), torch.arange(width) < (heads + 1) // 2 * (width // heads)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_short", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_the_affine_fold_is_the_ridge_regression_of_what_is_removed_on_what_stays(shape, index, is_short):
    model, images = case(shape)
    inner, out = inner_activations(model, images, index)
    kept, stays = kept_half(model, index)
    folded = Fold.affine(model, images).of(index, kept, is_short=is_short)

    # The rows of a dense problem: every image and token around the token's mean, then the penalty of each coefficient.
    tokens = 1 if is_short else inner.shape[1]
    centred = (inner - inner.mean(dim=0))[:, :tokens].flatten(0, 1)
    penalty = RIDGE * centred.square().mean()
    rows = torch.cat([centred[:, stays], (len(centred) * penalty).sqrt() * torch.eye(int(stays.sum()))])
    targets = torch.cat([centred[:, ~stays], torch.zeros(int(stays.sum()), int((~stays).sum()))])
    coefficients = torch.linalg.lstsq(rows, targets).solution
    predicted = inner.mean(dim=0)[:, ~stays] + (inner - inner.mean(dim=0))[..., stays] @ coefficients
    completed = torch.empty_like(inner)
    completed[..., stays], completed[..., ~stays] = inner[..., stays], predicted
    expected = completed @ out.weight.T + out.bias
    torch.testing.assert_close(inner[..., stays] @ folded.weight.T + folded.bias, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("index", [0, 1, 2, 3])
def test_on_its_images_the_affine_fold_writes_closer_to_the_whole_than_the_mean(shape, index):
    model, images = case(shape)
    inner, out = inner_activations(model, images, index)
    kept, stays = kept_half(model, index)
    whole = inner @ out.weight.T + out.bias

    def error(fold):
        folded = fold.of(index, kept, is_short=False)
        return float((inner[..., stays] @ folded.weight.T + folded.bias - whole).detach().square().sum())

    if stays.all():
        assert error(Fold.affine(model, images)) == pytest.approx(0, abs=1e-18)
    else:
        assert error(Fold.affine(model, images)) < error(Fold.mean(Ablation.mean(model, images), model))


def test_a_copy_of_a_neuron_is_removed_without_a_trace():
    model, images = case({})
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        mlp.hidden.weight[1], mlp.hidden.bias[1] = mlp.hidden.weight[0], mlp.hidden.bias[0]
    every_head, every_neuron = torch.arange(model.config.num_heads), torch.arange(model.config.d_mlp)
    survivors = Survivors(heads=(every_head,) * 2, neurons=(every_neuron[every_neuron != 1], every_neuron))
    affine, mean = Fold.affine(model, images), Fold.mean(Ablation.mean(model, images), model)
    whole = model(images).detach()
    by_affine, by_mean = (cut(model, survivors, fold)(images).detach() - whole for fold in (affine, mean))
    assert by_affine.norm() < 0.05 * by_mean.norm()


def test_with_nothing_left_the_affine_fold_is_the_mean():
    model, images = case({})
    none = torch.arange(0)
    survivors = Survivors(heads=(none, none), neurons=(none, none))
    logits = [
        cut(model, survivors, fold)(images).detach()
        for fold in (Fold.affine(model, images), Fold.mean(Ablation.mean(model, images), model))
    ]
    torch.testing.assert_close(*logits)
