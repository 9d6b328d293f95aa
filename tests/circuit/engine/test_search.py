"""The search takes the decisions of brute force."""

import itertools
import os
import statistics
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.circuit.oracle import brute_acdc, brute_kl, brute_logits, brute_metric, random_images, random_model
from vitprune.circuit import Ablation, Graph, discover
from vitprune.circuit.optimal import optimal_ablation

# Of the combinations of the last four options those with an even sum: every three of them occur in every combination.
CASES = [
    (granularity, *options)
    for granularity in ("edge", "node", "node-edge")
    for options in itertools.product((0, 1), repeat=4)
    if sum(options) % 2 == 0
]


@pytest.mark.parametrize(("granularity", "is_mean_pooled", "is_mean_ablation", "split", "is_grouped"), CASES)
def test_finds_the_same_circuit_as_brute_force(granularity, is_mean_pooled, is_mean_ablation, split, is_grouped):
    seed = CASES.index((granularity, is_mean_pooled, is_mean_ablation, split, is_grouped))
    tau = 10.0 ** -(1 + seed % 5)
    shape = {"num_layers": 1 + seed % 3, "num_heads": 1 + seed % 2, "patch_embedding": "conv" if seed % 2 else "linear"}
    model = random_model(seed, pooling="mean" if is_mean_pooled else "class", **shape)
    images = random_images(model, count=5, seed=seed)
    reference = random_images(model, count=9, seed=seed + 1)
    ablation = Ablation.mean(model, reference) if is_mean_ablation else Ablation.zero(model)
    graph = Graph.of(model, split_qkv=bool(split), mlp_groups=3 if is_grouped else 1)
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=tau, granularity=granularity)
    kept = brute_acdc(model, images, graph, ablation, tau, granularity)
    assert set(circuit.kept) == kept
    assert set(circuit.kept) | set(circuit.removed) == set(graph.edges)
    assert circuit.kl == pytest.approx(brute_kl(model, images, graph, kept, ablation, model(images).detach()), abs=1e-9)


def middling_tau(model, images, **options):
    """A threshold that about half of the tested edges or nodes pass, whatever random numbers made the model.

    It is off the change of any test, so that rounding does not decide.
    """
    trace = discover(model, images, tau=0.0, **options).trace
    return 1.001 * statistics.median(d.after - d.before for d in trace if d.after - d.before > 1e-9)


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("granularity", ["edge", "node", "node-edge"])
def test_finds_the_same_circuit_as_brute_force_on_a_model_that_was_pruned_before(granularity, pooling):
    shape = {"num_layers": 3, "heads_per_layer": (2, 0, 1), "neurons_per_layer": (5, 12, 0), "token_biases": True}
    model = random_model(3, pooling=pooling, **shape)
    images = random_images(model)
    graph, ablation = Graph.of(model, mlp_groups=4), Ablation.mean(model, images)
    options = {"graph": graph, "ablation": ablation, "granularity": granularity}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, granularity)
    assert 0 < len(circuit.kept) < len(graph.edges)


@pytest.mark.parametrize(
    "shape",
    [
        {"pooling": "mean", "patch_size": 4},  # one token
        {"pooling": "mean", "positions": "sincos", "patch_embedding": "shifted"},
        {"pooling": "class", "positions": "sincos", "patch_embedding": "shifted"},
    ],
)
@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
def test_finds_the_same_circuit_as_brute_force_whatever_the_tokens_are(shape, granularity):
    model = random_model(17, **shape)
    images = random_images(model)
    graph, ablation = Graph.of(model, mlp_groups=2), Ablation.mean(model, images)
    options = {"graph": graph, "ablation": ablation, "granularity": granularity}
    tau = middling_tau(model, images, **options)
    circuit = discover(model, images, tau=tau, **options)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, granularity)
    assert 0 < len(circuit.kept) < len(graph.edges)


def test_single_precision_takes_the_same_decisions_away_from_ties():
    model = random_model(11, dtype=torch.float32)
    images = random_images(model)
    graph, ablation = Graph.of(model), Ablation.mean(model, images)
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=0.003)
    tested = [decision for decision in circuit.trace if decision.action != "unreachable"]
    assert min(abs(decision.after - decision.before - 0.003) for decision in tested) > 1e-6
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, 0.003, "edge")


def test_the_trace_tells_every_edge_once_and_follows_the_rule():
    model = random_model(4, num_layers=3)
    images = random_images(model)
    circuit = discover(model, images, tau=0.05)
    assert sorted((d.sender, d.receiver) for d in circuit.trace) == sorted(circuit.graph.edges)
    assert {d.action for d in circuit.trace} == {"removed", "kept", "unreachable"}
    for decision in circuit.trace:
        if decision.action != "unreachable":
            assert (decision.after - decision.before < 0.05) == (decision.action == "removed")
    receivers = list(dict.fromkeys(d.receiver for d in circuit.trace))
    assert receivers == [receiver.name for receiver in reversed(circuit.graph.receivers)]


def test_the_removals_in_a_trace_replay_to_the_circuits_kl():
    model = random_model(5, num_layers=3)
    images = random_images(model)
    circuit = discover(model, images, tau=0.01)
    last = [decision for decision in circuit.trace if decision.action == "removed"][-1]
    assert circuit.kl == pytest.approx(last.after, abs=1e-9)


def test_a_threshold_of_zero_keeps_what_hurts_and_a_huge_one_keeps_nothing():
    model = random_model(6)
    images = random_images(model)
    nothing = discover(model, images, tau=1e9)
    assert nothing.kept == ()
    careful = discover(model, images, tau=0.0)
    assert careful.kept
    assert careful.kl <= 1e-12


def test_two_searches_give_the_same_circuit_and_trace():
    model = random_model(7)
    images = random_images(model)
    first, second = (discover(model, images, tau=0.01, granularity="node-edge") for _ in range(2))
    assert first.kept == second.kept
    assert first.trace == second.trace


def test_progress_counts_up_to_the_number_of_edges():
    model = random_model(8)
    seen = []
    circuit = discover(model, random_images(model), tau=0.01, on_progress=seen.append)
    edges = len(circuit.graph.edges)
    assert [progress.decided for progress in seen] == list(range(1, edges + 1))
    assert {progress.total for progress in seen} == {edges}
    assert seen[-1].removed == len(circuit.removed)
    assert seen[-1].damage == pytest.approx(circuit.kl, abs=1e-9)
    assert seen[-1].seconds_left == 0


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("granularity", ["edge", "node-edge"])
@pytest.mark.slow
def test_neither_bounded_memory_nor_several_candidates_at_once_change_the_circuit(granularity, pooling):
    model = random_model(12, pooling=pooling)
    images = random_images(model, count=5)
    graph = Graph.of(model, mlp_groups=2)
    options = {"graph": graph, "granularity": granularity}
    tau = middling_tau(model, images, **options)
    kept = brute_acdc(model, images, graph, Ablation.mean(model, images), tau, granularity)
    assert 0 < len(kept) < len(graph.edges)
    actions = [decision.action for decision in discover(model, images, tau=tau, **options).trace]
    for batch_size, candidates in ((None, 1), (1, 1), (2, 1), (5, 1), (None, 2), (None, 7), (None, 50), (2, 3)):
        circuit = discover(model, images, tau=tau, batch_size=batch_size, candidates=candidates, **options)
        assert set(circuit.kept) == kept, (batch_size, candidates)
        assert [decision.action for decision in circuit.trace] == actions, (batch_size, candidates)


@pytest.mark.parametrize("metric", ["cross-entropy", "logit-difference", "accuracy"])
def test_other_metrics_take_the_decisions_of_brute_force(metric):
    model = random_model(13)
    images = random_images(model, count=12)
    labels = torch.arange(12) % 3
    graph, ablation = Graph.of(model), Ablation.mean(model, images)
    tau = 0.05
    circuit = discover(model, images, graph=graph, ablation=ablation, tau=tau, metric=metric, labels=labels)
    assert set(circuit.kept) == brute_acdc(model, images, graph, ablation, tau, "edge", brute_metric(metric, labels))
    assert circuit.kl == pytest.approx(
        brute_kl(model, images, graph, set(circuit.kept), ablation, model(images).detach()), abs=1e-9
    )


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("kind", ["mean", "zero", "optimal", "resample", "noise"])
@pytest.mark.parametrize("granularity", ["edge", "node", "node-edge"])
def test_denoising_takes_the_decisions_of_brute_force(granularity, kind, pooling):
    model = random_model(18, pooling=pooling, num_layers=2 + (kind == "zero"))
    images, labels = random_images(model, count=5), torch.arange(5) % 3
    ablation = {
        "mean": lambda: Ablation.mean(model, images),
        "zero": lambda: Ablation.zero(model),
        "optimal": lambda: optimal_ablation(model, images, Graph.of(model), steps=20),
        "resample": lambda: Ablation.resample(model, random_images(model, count=3, seed=5)),
        "noise": lambda: Ablation.noise(model, 0.7, seed=3),
    }[kind]()
    graph = Graph.of(model, mlp_groups=2)
    for metric in ("kl", "cross-entropy", "logit-difference", "accuracy") if granularity == "edge" else ("kl",):
        measure = None if metric == "kl" else brute_metric(metric, labels)
        options = {"graph": graph, "ablation": ablation, "granularity": granularity, "metric": metric}
        circuit = discover(model, images, labels=labels, tau=0.02, direction="denoising", **options)
        kept = brute_acdc(model, images, graph, ablation, 0.02, granularity, measure, denoising=True)
        assert set(circuit.kept) == kept
        assert {decision.direction for decision in circuit.trace} == {"denoising"}
        for decision in circuit.trace:
            if decision.action != "unreachable":
                assert (decision.change < 0.02) == (decision.action == "removed")


def test_both_directions_keep_what_one_of_them_keeps_and_say_what_each_edge_is():
    model = random_model(19)
    images = random_images(model, count=5)
    options = {"graph": Graph.of(model), "ablation": Ablation.mean(model, images), "tau": 0.03}
    noising, denoising, both = (
        discover(model, images, direction=direction, **options) for direction in ("noising", "denoising", "both")
    )
    assert set(both.kept) == set(noising.kept) | set(denoising.kept)
    assert set(noising.kept) != set(denoising.kept)
    assert both.trace == noising.trace + denoising.trace
    expected = {edge: brute_gate(model, images, options, set(both.kept), edge) for edge in both.kept}
    assert both.gates == {edge: gate for edge, gate in expected.items() if gate}
    assert len(set(expected.values())) == 4


def brute_gate(model, images, options, kept, edge):
    """What an edge is, from four whole forward passes."""
    graph, ablation, full = options["graph"], options["ablation"], model(images).detach()
    clean = replace(Ablation.resample(model, images), sources=images)
    corrupt = ablation.embed.expand(len(images), -1, -1)

    def damage(edges, instead, embed=None):
        logits = brute_logits(model, images, graph, edges, instead, embed=embed)
        return float((full.softmax(-1) * (full.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean())

    needed = damage(kept - {edge}, ablation) - damage(kept, ablation) >= options["tau"]
    every = set(graph.edges)
    restores = damage(every, clean, corrupt) - damage(every - {edge}, clean, corrupt) >= options["tau"]
    return {(True, False): "AND", (False, True): "OR", (True, True): "ADDER"}.get((needed, restores))


def test_other_orders_find_what_they_lead_to_and_the_same_order_the_same():
    model = random_model(20, num_layers=3)
    images = random_images(model)
    found = [discover(model, images, tau=0.02, order=order).trace for order in (None, 1, 1, 2)]
    assert found[1] == found[2]
    orders = [[(decision.sender, decision.receiver) for decision in trace] for trace in found]
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[3])


@pytest.mark.parametrize("pooling", ["class", "mean"])
@pytest.mark.parametrize("kind", ["resample", "noise"])
def test_ablations_that_differ_from_image_to_image_give_the_circuit_of_brute_force(kind, pooling):
    model = random_model(14, pooling=pooling)
    images = random_images(model, count=6)
    ablation = Ablation.resample(model, random_images(model, count=4, seed=5), seed=1)
    if kind == "noise":
        ablation = Ablation.noise(model, 0.7, seed=3)
    graph = Graph.of(model, mlp_groups=3)
    options = {"graph": graph, "ablation": ablation}
    tau = middling_tau(model, images, **options)
    kept = brute_acdc(model, images, graph, ablation, tau, "edge")
    assert 0 < len(kept) < len(graph.edges)
    for batch_size, candidates in ((None, 1), (2, 1), (4, 3)):
        circuit = discover(model, images, tau=tau, batch_size=batch_size, candidates=candidates, **options)
        assert set(circuit.kept) == kept, (batch_size, candidates)


SEARCH = """
import sys
import torch
from tests.circuit.oracle import random_images, random_model
from vitprune.circuit import Ablation, discover
model = random_model(5, dtype=torch.float32)
images = random_images(model)
discover(model, images, ablation=Ablation.mean(model, images), tau=1e-3, granularity="node-edge").save(sys.argv[1])
"""


@pytest.mark.slow
def test_the_order_of_hashes_changes_nothing(tmp_path):
    folders = [tmp_path / "1", tmp_path / "2"]
    searches = [
        subprocess.Popen([sys.executable, "-c", SEARCH, folder], env=os.environ | {"PYTHONHASHSEED": folder.name})
        for folder in folders
    ]
    assert [search.wait() for search in searches] == [0, 0]
    files = [{path.name: path.read_bytes() for path in sorted(folder.iterdir())} for folder in folders]
    assert len(files[0]) > 1
    assert files[0] == files[1]
