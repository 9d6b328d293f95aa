import pytest
import torch

from tests.circuit.oracle import random_images, random_model
from vitprune.circuit.activations import run_whole
from vitprune.circuit.metrics import kl_divergence
from vitprune.circuit.neurons import neuron_importance, sort_neurons


def test_sorting_neurons_changes_nothing_but_their_order():
    model = random_model(1)
    images = random_images(model)
    ordered = sort_neurons(model, images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(ordered(images), model(images))
    importance = neuron_importance(ordered, images, torch.Generator().manual_seed(0))
    for layer in importance:
        assert torch.equal(layer, layer.sort(descending=True).values)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_importance_ranks_neurons_as_the_exact_kl_does(pooling):
    model = random_model(2, num_layers=1, d_mlp=24, pooling=pooling)
    images = random_images(model, count=64)
    estimate = neuron_importance(model, images, torch.Generator().manual_seed(0))[0]
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        full = model(images)
        neurons = run_whole(model, images)[1].neurons[0]
        exact = []
        for neuron in range(24):
            change = (neurons.mean(0) - neurons)[..., neuron : neuron + 1] @ mlp.out.weight[:, neuron : neuron + 1].T
            stream = model.embed(images) + model.blocks[0].attention(model.embed(images))
            exact.append(kl_divergence(full, model.classify(stream + mlp(stream) + change)))
    ranks = torch.stack([estimate.double(), torch.tensor(exact)]).argsort(dim=1).argsort(dim=1).double()
    assert torch.corrcoef(ranks)[0, 1] > 0.9


def test_a_layer_without_neurons_is_left_alone():
    model = random_model(3, num_layers=2, neurons_per_layer=(0, 6))
    images = random_images(model)
    ordered = sort_neurons(model, images, torch.Generator().manual_seed(0))
    torch.testing.assert_close(ordered(images), model(images))
