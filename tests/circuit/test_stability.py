"""Every sample gets the circuit that brute force finds on it, and what is said about them is so."""

import itertools
import math
import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.circuit.engine.test_search import middling_tau
from tests.circuit.oracle import brute_acdc, random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.engine.evaluator import IncrementalEvaluator
from vitprune.circuit.methods import METHODS
from vitprune.circuit.problem import DiscoveryOptions, Problem
from vitprune.circuit.stability import Stability, agreement, bootstrap, mean_over_pairs, verdict
from vitprune.errors import CircuitError

IMAGES, SAMPLES = 8, 10


def draws(seed=0):
    return torch.randint(IMAGES, (SAMPLES, IMAGES), generator=torch.Generator().manual_seed(seed))


def counted(drawn):
    return torch.stack([torch.bincount(indices, minlength=IMAGES) for indices in drawn])


def masks_of(method, problem, options, drawn):
    found = {}
    METHODS[method].run_on_samples(problem, options, counted(drawn), lambda n, mask: found.setdefault(n, mask.clone()))
    assert sorted(found) == list(range(len(drawn)))
    return [found[number] for number in range(len(drawn))]


@pytest.mark.parametrize("candidates", [1, 4])
@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("granularity", ["edge", "node", "node-edge"])
def test_every_sample_gets_the_circuit_of_brute_force(granularity, pooling, candidates):
    model = random_model(31, pooling=pooling)
    images = random_images(model, count=IMAGES)
    graph, ablation = Graph.of(model, mlp_groups=2), Ablation.mean(model, images)
    tau = middling_tau(model, images, graph=graph, ablation=ablation, granularity=granularity)
    options = DiscoveryOptions(tau=tau, granularity=granularity, candidates=candidates)
    masks = masks_of("acdc", Problem.of(model, images, graph=graph, ablation=ablation), options, draws())
    for mask, indices in zip(masks, draws(), strict=True):
        kept = brute_acdc(model, images[indices], graph, ablation, tau, granularity)
        assert set(graph.named(mask)) == kept
    assert len({graph.named(mask) for mask in masks}) > 2


@pytest.mark.parametrize("direction", ["denoising", "both"])
def test_samples_are_searched_in_the_direction_that_was_asked_for(direction):
    model = random_model(39)
    images = random_images(model, count=IMAGES)
    problem, options = Problem.of(model, images), DiscoveryOptions(tau=0.02, direction=direction)
    for mask, indices in zip(masks_of("acdc", problem, options, draws()), draws(), strict=True):
        alone = discover(model, images[indices], ablation=problem.ablation, tau=0.02, direction=direction)
        assert torch.equal(mask, alone.keep_mask)


@pytest.mark.parametrize("kind", ["resample", "noise"])
@pytest.mark.parametrize("method", ["acdc", "hybrid", "eap-ig"])
def test_an_image_keeps_its_ablation_and_its_label_in_every_sample(method, kind):
    model = random_model(32)
    images, labels = random_images(model, count=IMAGES), torch.arange(IMAGES) % 3
    ablation = Ablation.resample(model, random_images(model, count=5, seed=4), seed=1)
    if kind == "noise":
        ablation = Ablation.noise(model, 0.7, seed=3)
    options = DiscoveryOptions(tau=0.02, metric="cross-entropy")
    problem = Problem.of(model, images, labels=labels, ablation=ablation)
    masks = masks_of(method, problem, options, draws(1))
    every = ablation.activations(model, images, 0)
    for mask, indices in zip(masks, draws(1), strict=True):
        alone = problem.on(indices.tolist())
        found = alone.ablation.activations(model, alone.images, 0)
        torch.testing.assert_close(found.embed, every.embed[indices])
        torch.testing.assert_close(found.heads[1], every.heads[1][:, indices])
        torch.testing.assert_close(alone.labels, labels[indices])
        circuit = discover(
            model, alone.images, method, labels=alone.labels, ablation=alone.ablation, tau=0.02, metric="cross-entropy"
        )
        assert torch.equal(circuit.keep_mask, mask)


def test_samples_that_agree_share_their_tests(monkeypatch):
    model = random_model(33, num_layers=3)
    images = random_images(model, count=IMAGES)
    tests, test = [], IncrementalEvaluator.damage_without
    monkeypatch.setattr(
        IncrementalEvaluator, "damage_without", lambda self, tried: tests.append(tried) or test(self, tried)
    )
    problem, options = Problem.of(model, images), DiscoveryOptions(tau=0.02)
    together = masks_of("acdc", problem, options, draws())
    shared = len(tests)
    tests.clear()
    alone = [masks_of("acdc", problem, options, indices[None])[0] for indices in draws()]
    assert all(torch.equal(one, other) for one, other in zip(together, alone, strict=True))
    assert shared < len(tests)
    tests.clear()
    masks_of("acdc", problem, options, draws()[:1])
    once = len(tests)
    tests.clear()
    masks_of("acdc", problem, options, draws()[:1].expand(SAMPLES, -1))
    assert len(tests) == once


def stability_of(masks, model):
    return Stability(graph=Graph.of(model), masks=masks)


def test_frequencies_are_shares_of_the_samples():
    model = random_model(34)
    problem = Problem.of(model, random_images(model, count=IMAGES))
    options = DiscoveryOptions(tau=0.02)
    seen = []
    found = bootstrap(problem, options=options, samples=6, seed=3, on_sample=lambda *now: seen.append(now))
    assert seen == [(number, 6) for number in range(1, 7)]
    again = bootstrap(problem, options=options, samples=6, seed=3)
    assert torch.equal(found.masks, again.masks)
    assert not torch.equal(found.masks, bootstrap(problem, options=options, samples=6, seed=4).masks)
    row, column = map(int, torch.nonzero(found.masks.any(dim=0))[0])
    assert found.frequency[row, column] == sum(bool(mask[row, column]) for mask in found.masks) / 6
    for name, share in found.node_frequency.items():
        live = [name in closed_nodes(found.graph, mask) for mask in found.masks]
        assert share == pytest.approx(sum(live) / 6)


def closed_nodes(graph, mask):
    """Nodes with a kept edge on both sides once everything on no path is gone."""
    edges = graph.named(graph.close(mask))
    return {sender for sender, _ in edges} & {
        graph.receivers[graph.receiver_index[name]].node.name for _, name in edges
    }


def test_the_jaccard_index_is_that_of_sets_and_its_interval_that_of_drawing_circuits():
    model = random_model(35)
    graph = Graph.of(model)
    generator = torch.Generator().manual_seed(0)
    masks = graph.all_edges & (torch.rand(7, *graph.all_edges.shape, generator=generator) < 0.4)
    found = stability_of(masks, model)
    sets = [set(graph.named(mask)) for mask in masks]
    for one, other in itertools.product(range(7), repeat=2):
        expected = len(sets[one] & sets[other]) / len(sets[one] | sets[other])
        assert found.jaccard[one, other] == pytest.approx(expected)
    values = [len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2)]
    estimate = mean_over_pairs(found.jaccard)
    assert estimate.mean == pytest.approx(sum(values) / len(values))
    rng, means = random.Random(1), []
    for _ in range(4000):
        drawn = [rng.randrange(7) for _ in range(7)]
        pairs = [(a, b) for a, b in itertools.combinations(drawn, 2) if a != b]
        if pairs:
            means.append(sum(float(found.jaccard[pair]) for pair in pairs) / len(pairs))
    means.sort()
    spread = means[-1] - means[0]
    assert estimate.low == pytest.approx(means[int(0.025 * len(means))], abs=0.05 * spread)
    assert estimate.high == pytest.approx(means[int(0.975 * len(means))], abs=0.05 * spread)
    assert found.jaccard_with(masks[0]) == pytest.approx(float(found.jaccard[0].mean()))


def test_circuits_that_keep_nothing_are_the_same():
    model = random_model(36)
    found = stability_of(torch.zeros(3, *Graph.of(model).all_edges.shape, dtype=torch.bool), model)
    assert found.jaccard.min() == 1
    assert (mean_over_pairs(found.jaccard).low, found.jaccard_with(found.masks[0])) == (1, 1)


def test_agreement_is_the_mean_kl_and_the_share_of_equal_classes():
    model = random_model(37)
    images = random_images(model, count=IMAGES)
    circuit = discover(model, images, tau=0.02)
    found = bootstrap(Problem.of(model, images), options=DiscoveryOptions(tau=0.05), samples=4)
    held_out = random_images(model, count=5, seed=9)
    agreeing = agreement(found, circuit, model, held_out)
    for one, other in itertools.product(range(4), repeat=2):
        first, second = (
            F.log_softmax(replace(circuit, keep_mask=found.masks[number]).logits(model, held_out), dim=-1)
            for number in (one, other)
        )
        expected = float((first.exp() * (first - second)).sum(dim=-1).mean())
        assert float(agreeing.kl[one, other]) == pytest.approx(expected, abs=1e-9)
        same = float((first.argmax(-1) == second.argmax(-1)).double().mean())
        assert float(agreeing.same_class[one, other]) == same
    assert not math.isclose(float(agreeing.kl[0, 1]), float(agreeing.kl[1, 0]), rel_tol=1e-6)


@pytest.mark.parametrize(
    ("share", "expected"),
    [(1.0, "in"), (0.95, "in"), (0.94, "undecided"), (0.06, "undecided"), (0.05, "out"), (0, "out")],
)
def test_a_verdict_needs_the_level(share, expected):
    assert verdict(share) == expected


def test_a_threshold_of_one_image_is_no_matter_of_rounding():
    model = random_model(40)
    images = random_images(model, count=20)
    labels = (model(images).argmax(dim=1) + (torch.arange(20) % 5 == 0)) % 3
    problem = Problem.of(model, images, labels=labels)
    options = DiscoveryOptions(tau=1 / 20, metric="accuracy")
    found = bootstrap(problem, options=options, samples=30)
    assert found.masks.any()


def test_one_sample_says_nothing_about_stability():
    model = random_model(38)
    with pytest.raises(CircuitError, match="at least two samples, got 1"):
        bootstrap(Problem.of(model, random_images(model)), options=DiscoveryOptions(tau=0.1), samples=1)
