import pytest
import torch

from tests.circuit.oracle import brute_writes, random_images, random_model
from vitprune.circuit import Ablation, Graph
from vitprune.circuit import ablation as ablation_module
from vitprune.circuit.levels import Levels
from vitprune.errors import CircuitError


def centred_writes(ablation, model, graph):
    """What each sender adds to the stream when it is removed, but for a constant that no reader sees, ``(s, t, d)``."""
    levels = Levels(model, graph)
    return levels.send_all(levels.by_level(ablation.activations(model, random_images(model))))[:, 0]


def test_the_mean_is_that_of_what_each_node_writes():
    model = random_model(1, num_layers=2)
    images = random_images(model, count=7)
    writes = centred_writes(Ablation.mean(model, images), model, Graph.of(model))
    written = brute_writes(model, images)
    for sender, write in zip(Graph.of(model).senders, writes, strict=True):
        mean = written[sender.name].mean(0)
        torch.testing.assert_close(write, mean - mean.mean(-1, keepdim=True))


def test_neuron_groups_add_up_to_their_mlp():
    model = random_model(2)
    ablation = Ablation.mean(model, random_images(model))
    whole, groups = Graph.of(model), Graph.of(model, mlp_groups=5)
    by_name = dict(zip([s.name for s in groups.senders], centred_writes(ablation, model, groups), strict=True))
    mlp = centred_writes(ablation, model, whole)[whole.sender_index["m1"]]
    torch.testing.assert_close(sum(by_name[f"m1.g{group}"] for group in range(5)), mlp)


def test_the_mean_does_not_depend_on_the_batching(monkeypatch):
    model = random_model(3, dtype=torch.float32)
    images = random_images(model, count=10)
    at_once = Ablation.mean(model, images)
    monkeypatch.setattr(ablation_module, "BATCH_SIZE", 3)
    torch.testing.assert_close(Ablation.mean(model, images).neurons[1], at_once.neurons[1], rtol=1e-6, atol=1e-7)


def test_no_reference_images_is_an_error():
    model = random_model()
    with pytest.raises(CircuitError, match="at least one reference image"):
        Ablation.mean(model, random_images(model)[:0])


def test_resampling_never_pairs_an_image_with_itself():
    model = random_model()
    images = random_images(model, count=9)
    sources = Ablation.resample(model, images, seed=2).sources
    assert not any(torch.equal(image, source) for image, source in zip(images, sources, strict=True))
    assert {tuple(image.flatten().tolist()) for image in images} == {tuple(s.flatten().tolist()) for s in sources}


def test_noise_without_a_spread_and_resampling_from_one_image_are_refused():
    model = random_model()
    with pytest.raises(CircuitError, match="standard deviation must be a finite number above 0"):
        Ablation.noise(model, 0.0)
    with pytest.raises(CircuitError, match="at least two reference images"):
        Ablation.resample(model, random_images(model)[:1])
