"""Constants that cost the least in the place of a node."""

import pytest
import torch

from tests.circuit.oracle import brute_acdc, brute_kl, random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.circuit import Circuit
from vitprune.circuit.optimal import optimal_ablation
from vitprune.pruning import compact, dense_circuit


def costs(model, images, graph, ablation):
    """KL with each node gone alone, by whole forward passes."""
    full = model(images).detach()
    return torch.tensor(
        [
            brute_kl(model, images, graph, {edge for edge in graph.edges if edge[0] != node.name}, ablation, full)
            for node in graph.senders
        ]
    )


@pytest.mark.parametrize(
    "shape", [{}, {"pooling": "mean"}, {"heads_per_layer": (2, 0), "neurons_per_layer": (0, 7), "token_biases": True}]
)
def test_no_constant_costs_more_than_the_mean_and_most_cost_less(shape):
    model = random_model(51, scale=10.0, **shape)
    images = random_images(model, count=24)
    graph, mean = Graph.of(model, mlp_groups=2), Ablation.mean(model, images)
    optimal = optimal_ablation(model, images, graph, steps=200)
    before, after = (costs(model, images, graph, ablation) for ablation in (mean, optimal))
    assert (after <= before + 1e-12).all()
    assert (after < 0.98 * before).double().mean() > 0.5
    again = optimal_ablation(model, images, graph, steps=200)
    torch.testing.assert_close(again.embed, optimal.embed, rtol=0, atol=0)


def test_a_constant_is_where_no_small_step_lowers_the_cost():
    model = random_model(52, scale=10.0, num_layers=1)
    images = random_images(model, count=16)
    graph = Graph.of(model)
    optimal = optimal_ablation(model, images, graph, steps=1500, learning_rate=0.05)
    best = costs(model, images, graph, optimal)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        moved = Ablation(
            kind="optimal",
            embed=optimal.embed,
            heads=tuple(
                head + 0.3 * head.std() * torch.randn(head.shape, generator=generator).to(head)
                for head in optimal.heads
            ),
            neurons=optimal.neurons,
        )
        assert (costs(model, images, graph, moved)[1:3] > best[1:3] - 1e-9).all()


def test_of_one_image_the_constant_is_its_own_mean_and_the_model_gets_no_gradients():
    model = random_model(54)
    images = random_images(model, count=1)
    found = optimal_ablation(model, images, Graph.of(model), steps=3)
    mean = Ablation.mean(model, images)
    for one, other in zip(
        (found.embed, *found.heads, *found.neurons), (mean.embed, *mean.heads, *mean.neurons), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_search_takes_the_decisions_of_brute_force_and_folds_like_a_mean(tmp_path):
    model = random_model(53, scale=15.0)
    images = random_images(model, count=6)
    graph = Graph.of(model)
    ablation = optimal_ablation(model, images, graph, steps=50)
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=0.01, granularity="node")
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, 0.01, "node")
    circuit.save(tmp_path / "circuit")
    assert Circuit.load(tmp_path / "circuit").ablation.kind == "optimal"
    torch.testing.assert_close(compact(model, circuit)(images), dense_circuit(circuit).logits(model, images))
