"""The differentiable forward pass, and the rankings that use it."""

import math

import pytest
import torch
from torch.nn import functional as F

from tests.circuit.oracle import brute_logits, random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.levels import Levels, centred
from vitprune.circuit.methods import edge_pruning
from vitprune.circuit.methods.eap import EAP
from vitprune.circuit.methods.ensemble import MEMBERS
from vitprune.circuit.methods.relp import RELP, relevance
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.circuit.soft import Rules, run_soft

SHAPES = [
    {},
    {"pooling": "mean"},
    {"heads_per_layer": (2, 0), "neurons_per_layer": (0, 7), "token_biases": True},
]


def removed_writes(model, images, graph, ablation):
    levels = Levels(model, graph)
    return levels, levels.send_all(levels.by_level(ablation.activations(model, images, 0)))


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_whole_edges_it_is_the_masked_model(shape, split):
    model = random_model(41, **shape)
    images = random_images(model, count=3)
    graph, ablation = Graph.of(model, split, mlp_groups=2), Ablation.resample(model, images)
    keep = graph.all_edges & (torch.rand(graph.all_edges.shape, generator=torch.Generator().manual_seed(0)) < 0.7)
    levels, removed = removed_writes(model, images, graph, ablation)
    found = run_soft(levels, centred(model.embed(images)), removed, keep.double())
    torch.testing.assert_close(found, brute_logits(model, images, graph, set(graph.named(keep)), ablation))


def test_its_gradient_by_an_edge_is_the_slope_of_the_logits():
    model = random_model(42)
    images = random_images(model, count=3)
    graph = Graph.of(model)
    levels, removed = removed_writes(model, images, graph, Ablation.mean(model, images))
    embedding = centred(model.embed(images)).detach()
    keep = (0.5 * graph.all_edges).double().requires_grad_()
    (gradient,) = torch.autograd.grad(run_soft(levels, embedding, removed, keep)[:, 1].sum(), keep)
    for row, column in graph.all_edges.nonzero()[::7].tolist():
        values = []
        for step in (-1e-5, 1e-5):
            moved = keep.detach().clone()
            moved[row, column] += step
            values.append(run_soft(levels, embedding, removed, moved)[:, 1].sum().item())
        assert gradient[row, column].item() == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_relevance_by_exact_rules_is_attribution(shape):
    model = random_model(43, **shape)
    problem = Problem.of(model, random_images(model, count=5), graph=Graph.of(model, mlp_groups=2))
    options = DiscoveryOptions(metric="logit-difference", batch_size=3)
    torch.testing.assert_close(relevance(problem, options, Rules()), EAP.scores(problem, options))


def frozen_logits(model, images, embed):
    """Logits from another embedding, with norms, patterns and GELU ratios as they are on the images: a linear map."""
    width = model.config.d_head

    def normed(stream, own, norm):
        factor = (own.var(-1, unbiased=False, keepdim=True) + norm.eps).rsqrt()
        return (stream - stream.mean(-1, keepdim=True)) * factor * norm.weight + norm.bias

    stream, own = embed, model.embed(images)
    for block in model.blocks:
        qkv = [block.attention.qkv(block.attention.norm(own)), None]
        values = F.linear(normed(stream, own, block.attention.norm), block.attention.qkv.weight)
        values = values + block.attention.qkv.bias
        gathered, own_gathered = [], []
        for head in range(block.attention.num_heads):
            parts = [slice((port * block.attention.num_heads + head) * width, None) for port in range(3)]
            query, key, value = (qkv[0][..., part][..., :width] for part in parts)
            pattern = (query @ key.transpose(1, 2) / math.sqrt(width)).softmax(-1)
            own_gathered.append(pattern @ value)
            gathered.append(pattern @ values[..., parts[2]][..., :width])
        stream = stream + block.attention.out(torch.cat(gathered, dim=-1))
        own = own + block.attention.out(torch.cat(own_gathered, dim=-1))
        hidden = block.mlp.hidden(block.mlp.norm(own))
        ratio = F.gelu(hidden) / hidden
        stream, own = (
            stream + block.mlp.out(ratio * block.mlp.hidden(normed(stream, own, block.mlp.norm))),
            own + block.mlp.out(F.gelu(hidden)),
        )
    return model.classifier(normed(stream, own, model.norm)[:, 0])


def test_the_relevance_of_the_image_is_its_effect_in_the_linear_model_of_relp():
    model = random_model(44, num_layers=3)
    images = random_images(model, count=4)
    ablation = Ablation.mean(model, random_images(model, seed=7))
    problem = Problem.of(model, images, labels=torch.tensor([0, 1, 2, 1]), ablation=ablation)
    scores = RELP.scores(problem, DiscoveryOptions(metric="logit-difference"))
    full = model(images)
    torch.testing.assert_close(frozen_logits(model, images, model.embed(images)), full)
    others = full.scatter(1, problem.labels[:, None], -torch.inf).argmax(dim=1)
    moved = frozen_logits(model, images, ablation.embed.expand(4, -1, -1)) - full
    rows = torch.arange(4)
    effect = (moved[rows, others] - moved[rows, problem.labels]).mean().item()
    assert scores[:, 0].sum().item() == pytest.approx(effect)
    ports = [row for row, receiver in enumerate(problem.graph.receivers) if receiver.port in ("q", "k")]
    assert (scores[ports] == 0).all()


def test_the_chance_of_an_open_gate_is_how_often_it_is_drawn_open():
    graph = Graph((2,), (8,))
    logits = torch.linspace(-4, 4, graph.all_edges.numel(), dtype=torch.float64).view(graph.all_edges.shape)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([edge_pruning._gates(logits, generator, graph) > 0 for _ in range(4000)]).double().mean(dim=0)
    expected = edge_pruning._open_chance(logits)
    torch.testing.assert_close(drawn[graph.all_edges], expected[graph.all_edges], rtol=0, atol=0.04)


def test_learned_masks_recover_more_than_the_ranking_they_start_from():
    model = random_model(45, num_layers=3, scale=20.0)
    images = random_images(model, count=64)
    learned, start = (discover(model, images, method, num_edges=20) for method in ("edge-pruning", "eap-ig"))
    assert learned.kl < start.kl
    again = discover(model, images, "edge-pruning", num_edges=20)
    assert torch.equal(again.scores, learned.scores)


def test_an_ensemble_is_the_mean_of_its_members_ranks():
    model = random_model(46)
    images = random_images(model)
    found = discover(model, images, "ensemble", num_edges=9).scores
    problem, edges = Problem.of(model, images), Graph.of(model).all_edges
    options = DiscoveryOptions(metric="kl", num_edges=9)
    expected = torch.zeros(int(edges.sum()), dtype=torch.float64)
    for member in MEMBERS:
        values = member.scores(problem, options)[edges].abs()
        below, equal = ((values[:, None] > values).sum(1), (values[:, None] == values).sum(1))
        expected += (below + (equal + 1) / 2) / len(values) / len(MEMBERS)
    torch.testing.assert_close(found[edges], expected)
