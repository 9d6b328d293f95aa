"""The refit of a compact model to the whole model's streams, against least squares by another route."""

import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.model.vit import Record
from vitprune.pruning import cut
from vitprune.pruning import refit as refitting
from vitprune.pruning.compact import Survivors
from vitprune.pruning.fold import Fold
from vitprune.pruning.refit import refit

# Of each layer the heads and neurons that are left.
LEFT = {
    "some of each": ([[0], [1]], [[0, 2, 3, 5], [1, 4]]),
    "the first sublayers are gone": ([[], [0, 1]], [[], [0, 1, 2]]),
    "the last attention is gone": ([[0, 1], []], [[3, 4], [0, 1, 2, 3]]),
    "the last sublayer is gone": ([[0], [1]], [[0, 1], []]),
}


def pruned(left, seed=0, **shape):
    """A model, its compact model by the affine fold, and images."""
    model = random_model(seed, num_layers=2, **shape)
    images = random_images(model, count=60, seed=seed)
    heads, neurons = (tuple(torch.tensor(kept, dtype=torch.long) for kept in side) for side in left)
    with torch.no_grad():
        small = cut(model, Survivors(heads=heads, neurons=neurons), Fold.affine(model, images))
    return model, small, images


def recorded(model, images):
    """Before each sublayer and after the last the stream ``(b, t, d)``, and each sublayer's inner activations."""
    record = Record("stream", "heads", "neurons")
    stream = model.embed(images)
    streams, inner = [stream], []
    model.run(stream, record)
    for layer, block in enumerate(model.blocks):
        heads = record.get((layer, "heads"))
        inner.append(None if heads is None else heads.transpose(1, 2).flatten(2))
        inner.append(record.get((layer, "neurons")))
        middle = streams[-1] if block.attention is None else streams[-1] + block.attention(streams[-1])
        streams += [middle, record[layer, "stream"]]
    return streams, inner


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT.keys())
@torch.no_grad()
def test_each_sublayer_is_the_ridge_regression_to_where_the_whole_model_is_at_the_next(left, pooling, monkeypatch):
    monkeypatch.setattr(refitting, "RIDGES", (ridge := 1e-2,))
    monkeypatch.setattr(refitting, "_is_better", lambda *_: True)
    model, small, images = pruned(left, pooling=pooling)
    fitted = refit(small, model, images)
    teacher, _ = recorded(model, images)
    student, inner = recorded(fitted, images)
    sublayers = [sublayer for block in fitted.blocks for sublayer in (block.attention, block.mlp)]
    before = [sublayer for block in small.blocks for sublayer in (block.attention, block.mlp)]
    survivors = [index for index, sublayer in enumerate(sublayers) if sublayer is not None]
    torch.testing.assert_close(student[0].mean(dim=0), teacher[survivors[0]].mean(dim=0))
    for index, until in zip(survivors, [*survivors[1:], 4], strict=True):
        tokens = 1 if index // 2 >= fitted.config.first_short_layer else None
        a, y = inner[index][:, :tokens], (teacher[until] - student[index])[:, :tokens]
        prior, count = before[index].out.weight, a.shape[2]
        centred = (a - a.mean(dim=0)).flatten(0, 1)
        penalty = (ridge * centred.square().sum() / count).sqrt()
        rows = torch.cat([centred, penalty * torch.eye(count)])
        targets = torch.cat([(y - y.mean(dim=0)).flatten(0, 1), penalty * prior.T])
        weight = torch.linalg.lstsq(rows, targets).solution.T
        out = sublayers[index].out
        torch.testing.assert_close(out.weight, weight, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(out.bias[:tokens], (y - a @ weight.T).mean(dim=0), rtol=1e-6, atol=1e-7)


@torch.no_grad()
def test_an_mlp_that_reads_the_same_in_every_image_keeps_its_weights(monkeypatch):
    """Without attention a class token is constant: around its mean nothing but rounding errors is left."""
    monkeypatch.setattr(refitting, "_is_better", lambda *_: True)
    model, small, images = pruned(([[], []], [[], [0, 1, 5]]))
    fitted = refit(small, model, images)
    torch.testing.assert_close(fitted.blocks[1].mlp.out.weight, small.blocks[1].mlp.out.weight, rtol=0, atol=1e-3)
    assert torch.isfinite(fitted(images)).all()


@pytest.mark.parametrize("seed", range(4))
def test_it_is_closer_to_the_whole_model_than_the_fold(seed):
    model, small, images = pruned(LEFT["some of each"], seed, scale=4.0)
    whole, by_fold, by_refit = (m(images).detach() for m in (model, small, refit(small, model, images)))
    assert kl_divergence(whole, by_refit) <= kl_divergence(whole, by_fold)


def test_what_does_not_help_on_other_images_is_not_taken(monkeypatch):
    model, small, images = pruned(LEFT["some of each"])
    assert refit(small, model, images[:1]) is small  # too few to hold any out
    # With nothing pruned the fold is exact: no fit can be better.
    everything = ([[0, 1]] * 2, [list(range(model.config.d_mlp))] * 2)
    model, small, images = pruned(everything)
    assert refit(small, model, images) is small
