import pytest
import torch

from tests.circuit.oracle import brute_writes, random_images, random_model
from vitprune.circuit import Ablation, Circuit, Graph
from vitprune.circuit import ablation as ablation_module
from vitprune.circuit.faithfulness import FaithfulnessMeter
from vitprune.circuit.levels import Levels
from vitprune.circuit.metrics import kl_divergence
from vitprune.core.compute.distributed import World
from vitprune.core.model import Preprocessing
from vitprune.core.model import predict as predict_module
from vitprune.core.model.predict import predict
from vitprune.errors import CircuitError

PREPROCESSING = Preprocessing(mean=(0.4,), std=(0.2,))


def centred_writes(ablation, model, graph):
    """What each sender adds to the stream when it is removed, but for a constant that no reader sees, ``(s, t, d)``."""
    levels = Levels(model, graph)
    return levels.send_all(levels.by_level(ablation.activations(model, random_images(model), 0)))[:, 0]


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


def ablated_circuit(kind):
    """A model and a circuit of it that keeps half of the edges; 7 images."""
    model = random_model(4, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (7, 1, 4, 4), generator=generator, dtype=torch.uint8)
    graph = Graph.of(model)
    ablation = {
        "mean": lambda: Ablation.mean(model, PREPROCESSING(images)),
        "resample": lambda: Ablation.resample(model, random_images(model, count=5), seed=1),
        "noise": lambda: Ablation.noise(model, 0.7, seed=3),
    }[kind]()
    keep_mask = graph.all_edges & (torch.rand(graph.all_edges.shape, generator=generator) < 0.5)
    circuit = Circuit(graph=graph, keep_mask=keep_mask, ablation=ablation, kl=0.0, method="half")
    return model, images, circuit


@pytest.mark.parametrize("batch_size", [2, 7])
@pytest.mark.parametrize("kind", ["mean", "resample", "noise"])
def test_a_circuits_predictions_depend_on_neither_batches_nor_ranks(monkeypatch, kind, batch_size):
    model, images, circuit = ablated_circuit(kind)
    normalised = PREPROCESSING(images)
    # One image at a time, each with its index.
    expected = torch.cat([circuit.logits(model, normalised[i : i + 1], first=i) for i in range(7)])
    torch.testing.assert_close(circuit.logits(model, normalised, batch_size), expected)
    module = circuit.as_module(model)
    torch.testing.assert_close(predict(module, images, PREPROCESSING, batch_size), expected)
    monkeypatch.setattr(predict_module, "gathered", lambda rows, count: rows)
    for rank in (World(0, 2), World(1, 2)):
        monkeypatch.setattr(predict_module, "world", lambda rank=rank: rank)
        mine = predict(module, images, PREPROCESSING, batch_size)
        torch.testing.assert_close(mine, expected[rank.share_of(7)])


@pytest.mark.parametrize("kind", ["resample", "noise"])
def test_faithfulness_is_that_of_the_predictions(kind):
    model, images, circuit = ablated_circuit(kind)
    full, masked = (predict(each, images, PREPROCESSING, 2) for each in (model, circuit.as_module(model)))
    labels = full.argmax(dim=1)
    measured = FaithfulnessMeter(model, PREPROCESSING(images), labels, circuit).measure(circuit.keep_mask)
    assert measured.kl == pytest.approx(kl_divergence(full, masked), rel=1e-4)
    assert circuit.measured(model, PREPROCESSING(images)).kl == pytest.approx(measured.kl, rel=1e-4)
