from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.circuit.oracle import brute_kl, brute_logits, random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.activations import run_whole
from vitprune.circuit.attribution import attribute
from vitprune.circuit.faithfulness import FaithfulnessMeter
from vitprune.circuit.problem import DiscoveryOptions, Problem

STEP = 1e-5


def nearly_clean(model, image, ablation):
    """An ablation a small step from what the nodes do on ``image`` towards ``ablation``."""
    found = run_whole(model, image)[1]
    return Ablation(
        kind="mean",
        embed=torch.lerp(found.embed[0], ablation.embed, STEP),
        heads=tuple(torch.lerp(old[:, 0], new, STEP) for old, new in zip(found.heads, ablation.heads, strict=True)),
        neurons=tuple(torch.lerp(old[0], new, STEP) for old, new in zip(found.neurons, ablation.neurons, strict=True)),
    )


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize(("split", "groups"), [(True, 1), (False, 3)])
@torch.no_grad()
def test_eap_is_the_derivative_of_the_metric_along_each_removal(split, groups, pooling):
    model = random_model(3, pooling=pooling)
    images = random_images(model, count=4)
    graph, ablation = Graph.of(model, split, groups), Ablation.mean(model, images)
    labels = torch.tensor([0, 1, 2, 1])
    options = DiscoveryOptions(metric="cross-entropy", batch_size=3)
    scores = attribute(Problem(model, images, labels, graph, ablation), options, points=(1.0,))
    for sender, receiver in graph.edges[::3]:
        slope = 0.0
        for image, label in zip(images.split(1), labels.split(1), strict=True):
            near = nearly_clean(model, image, ablation)
            logits = brute_logits(model, image, graph, set(graph.edges) - {(sender, receiver)}, near)
            slope += (F.cross_entropy(logits, label) - F.cross_entropy(model(image), label)).item() / STEP / 4
        score = scores[graph.receiver_index[receiver], graph.sender_index[sender]].item()
        assert score == pytest.approx(slope, rel=2e-3, abs=1e-5)


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_integrated_gradients_of_one_path_add_up_to_its_effect(pooling):
    # With the embedding as the only sender that differs, the sum over its edges is the change of the metric.
    model = random_model(4, num_layers=1, heads_per_layer=(0,), neurons_per_layer=(0,), pooling=pooling)
    images = random_images(model)
    elsewhere = torch.randn(model.positions.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ablation = replace(Ablation.zero(model), embed=elsewhere)
    circuit = discover(model, images, "eap-ig", ablation=ablation, ig_steps=200, num_edges=1)
    meter = FaithfulnessMeter(model, images, torch.zeros(6, dtype=torch.long), circuit)
    empty = meter.measure(torch.zeros_like(circuit.keep_mask)).kl
    assert circuit.scores.sum().item() == pytest.approx(empty, rel=1e-2)


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("shape", [{}, {"heads_per_layer": (2, 0), "neurons_per_layer": (0, 7), "token_biases": True}])
def test_gradients_between_activations_add_up_to_the_effect_of_their_level(shape, pooling):
    model = random_model(5, pooling=pooling, scale=10.0, **shape)
    images = random_images(model, count=4)
    graph, ablation = Graph.of(model, mlp_groups=2), Ablation.resample(model, images)
    options = {"graph": graph, "ablation": ablation, "ig_steps": 400, "num_edges": 1}
    scores = discover(model, images, "eap-ig-activations", **options).scores
    full = model(images).detach()
    for columns in graph.level_senders[:-1]:
        names = {graph.senders[column].name for column in columns}
        kept = {edge for edge in graph.edges if edge[0] not in names}
        effect = brute_kl(model, images, graph, kept, ablation, full)
        assert scores[:, columns.start : columns.stop].sum().item() == pytest.approx(effect, rel=1e-2, abs=1e-6)
    assert scores.abs().sum() > 0
