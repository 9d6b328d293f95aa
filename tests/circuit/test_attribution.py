from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from tests.circuit.oracle import brute_logits, random_images, random_model
from vitprune.circuit import Ablation, Graph, acdc, activation, eap, eap_ig, hybrid, random
from vitprune.circuit.faithfulness import FaithfulnessMeter, area_under
from vitprune.circuit.ranking import top_edges
from vitprune.errors import CircuitError

STEP = 1e-5


def nearly_clean(model, image, ablation):
    """An ablation a small step from what the nodes do on ``image`` towards ``ablation``."""
    stream, heads, neurons = model.embed(image), [], []
    embed = stream
    for block in model.blocks:
        heads.append(block.attention.heads(stream)[0])
        stream = stream + block.attention(stream)
        neurons.append(block.mlp.neurons(stream)[0])
        stream = stream + block.mlp(stream)
    return Ablation(
        kind="mean",
        embed=torch.lerp(embed[0], ablation.embed, STEP),
        heads=tuple(torch.lerp(old, new, STEP) for old, new in zip(heads, ablation.heads, strict=True)),
        neurons=tuple(torch.lerp(old, new, STEP) for old, new in zip(neurons, ablation.neurons, strict=True)),
    )


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize(("split", "groups"), [(True, 1), (False, 3)])
@torch.no_grad()
def test_eap_is_the_derivative_of_the_metric_along_each_removal(split, groups, pooling):
    model = random_model(3, pooling=pooling)
    images = random_images(model, count=4)
    graph, ablation = Graph.of(model, split, groups), Ablation.mean(model, images)
    labels = torch.tensor([0, 1, 2, 1])
    circuit = eap(model, images, graph=graph, ablation=ablation, labels=labels, num_edges=5, batch_size=3)
    for sender, receiver in graph.edges[::3]:
        slope = 0.0
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            near = nearly_clean(model, image, ablation)
            logits = brute_logits(model, image, graph, set(graph.edges) - {(sender, receiver)}, near)
            slope += (F.cross_entropy(logits, label) - F.cross_entropy(model(image), label)).item() / STEP / 4
        score = circuit.scores[graph.receiver_index[receiver], graph.sender_index[sender]].item()
        assert score == pytest.approx(slope, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_integrated_gradients_of_one_path_add_up_to_its_effect(pooling):
    # With the embedding as the only sender that differs, the sum over its edges is the change of the metric.
    model = random_model(4, num_layers=1, heads_per_layer=(0,), neurons_per_layer=(0,), pooling=pooling)
    images = random_images(model)
    elsewhere = torch.randn(model.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ablation = replace(Ablation.zero(model), embed=elsewhere)
    circuit = eap_ig(model, images, ablation=ablation, steps=200, num_edges=1)
    empty = FaithfulnessMeter(model, images, torch.zeros(6, dtype=torch.long), circuit).empty_kl
    assert circuit.scores.sum().item() == pytest.approx(empty, rel=1e-2)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_every_method_keeps_at_most_the_wanted_number_and_leaves_nothing_dangling(pooling):
    model = random_model(5, num_layers=3, pooling=pooling)
    images = random_images(model)
    for circuit in (f(model, images, num_edges=25) for f in (eap, eap_ig, activation, random)):
        assert len(circuit.kept) <= 25
        assert torch.equal(circuit.graph.close(circuit.keep_mask), circuit.keep_mask)
        assert top_edges(circuit.graph, circuit.scores, 25).sum() == 25


def test_the_hybrid_that_settles_nothing_beforehand_is_acdc_and_closed():
    model = random_model(6)
    images = random_images(model)
    exact = acdc(model, images, tau=0.01)
    tested = hybrid(model, images, tau=0.01, low=0.0, high=1e9)
    assert set(tested.kept) == set(exact.closed().kept)


def test_the_hybrid_tests_only_what_attribution_leaves_unsettled():
    model = random_model(7, num_layers=3)
    images = random_images(model)
    circuit = hybrid(model, images, tau=0.003)
    actions = {action: sum(d.action == action for d in circuit.trace) for action in {d.action for d in circuit.trace}}
    assert sum(actions.values()) == len(circuit.graph.edges)
    assert actions["removed-untested"] > 0
    for decision in circuit.trace:
        if decision.action == "removed-untested":
            assert abs(decision.change) < 0.0003
            assert (decision.sender, decision.receiver) not in circuit.kept


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, i: eap(m, i, metric="kl", num_edges=3), "gradient there is zero; use 'cross-entropy'"),
        (lambda m, i: eap(m, i, metric="accuracy", num_edges=3), "it has no gradient"),
        (lambda m, i: eap_ig(m, i, metric="accuracy", num_edges=3), "it has no gradient"),
        (lambda m, i: eap_ig(m, i, steps=0, num_edges=3), "steps must be at least 1, got 0"),
        (lambda m, i: eap(m, i), "either threshold or num_edges"),
        (lambda m, i: eap(m, i, threshold=-1.0), "threshold must be a finite number of at least 0"),
        (lambda m, i: random(m, i, num_edges=10_000), r"num_edges must be from 0 to \d+, got 10000"),
        (lambda m, i: hybrid(m, i, tau=0.1, low=2, high=1), "low and high must be"),
        (lambda m, i: eap(m, i * torch.nan, num_edges=3), "logits are not finite"),
        (lambda m, i: activation(m, i[:0], num_edges=3), "there are no images"),
        (lambda m, i: Ablation.noise(m, 0.0), "standard deviation must be a finite number above 0"),
        (lambda m, i: Ablation.resample(m, i[:1]), "at least two reference images"),
    ],
)
def test_a_wrong_call_gets_a_clear_error(call, message):
    model = random_model()
    with pytest.raises(CircuitError, match=message):
        call(model, random_images(model))


def test_resampling_never_pairs_an_image_with_itself():
    model = random_model()
    images = random_images(model, count=9)
    sources = Ablation.resample(model, images, seed=2).sources
    assert not any(torch.equal(image, source) for image, source in zip(images, sources, strict=True))
    assert {tuple(image.flatten().tolist()) for image in images} == {tuple(s.flatten().tolist()) for s in sources}


def test_the_full_circuit_recovers_everything_and_the_empty_one_nothing():
    model = random_model(8, num_layers=3)
    images = random_images(model, count=20)
    labels = model(images).argmax(-1)
    circuit = eap_ig(model, images, num_edges=30)
    meter = FaithfulnessMeter(model, images, labels, circuit)
    curve = meter.curve(circuit.scores, (0.0, 0.3, 1.0))
    assert (curve[0].recovered, curve[0].edges) == (0.0, 0)
    assert curve[-1].recovered == pytest.approx(1.0, abs=1e-9)
    assert curve[-1].accuracy == 1.0
    assert curve[-1].edges == len(circuit.graph.edges)
    everything = SimpleNamespace(graph=circuit.graph, keep_mask=circuit.graph.all_edges)
    assert meter.completeness(everything).recovered == 0.0
    assert 0 < area_under(curve) < 1
